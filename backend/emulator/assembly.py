"""From tokens to the steps an engine reports: whole characters, stop strings, limits, the reason to end.

Pure: it is pulled by the scheduler, one step per token.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from emulator.text import Token


@dataclass(frozen=True, slots=True)
class Wish:
    """What one sequence is to be.

    Args:
        tokens: the text to come, ending with the end token or never.
        input_tokens: length of the prompt.
        stop_on_token: TGI looks for stop strings at token ends and keeps them in the text;
            vLLM finds them anywhere, cuts them off and holds back text that may become one.
        stall_after, abort_after: faults; counted in tokens, `None`: not at all.
        blank_tokens: faults; so many tokens without text come first.
    """

    prompt: str
    tokens: Iterator[Token]
    input_tokens: int
    max_tokens: int
    stop: tuple[str, ...] = ()
    stop_on_token: bool = False
    keep_stop: bool = False
    min_tokens: int = 0
    salt: str = ""
    extra_ttft_s: float = 0.0
    stall_after: int | None = None
    abort_after: int | None = None
    blank_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One token as the engine reports it.

    `text` holds whole characters only and may be ""; `finish` is `eos`, `stop`, `length` or `abort` on
    the last step; `token` is `None` when the engine ends a sequence without a token.
    """

    token: Token | None
    text: str
    finish: str | None = None
    stop: str | None = None
    count: int = 0

    @property
    def logprob(self) -> float:
        """A made-up log probability, the same for the same token."""
        number = 0 if self.token is None else self.token.id
        return -round(0.01 + (number * 7919 % 997) / 400, 6)


class Assembly:
    """Turns the tokens of one wish into steps."""

    def __init__(self, wish: Wish) -> None:
        """Start at the first token."""
        self._wish = wish
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # text that may be the beginning of a stop string (vLLM)
        self._seen = ""  # end of the text so far, long enough to find a stop string
        self._reach = max(map(len, wish.stop), default=0)
        self.count = 0

    def next(self) -> Step:
        """The next step; must not be called after one with `finish`."""
        wish = self._wish
        if wish.abort_after is not None and self.count >= wish.abort_after:
            return Step(None, self._held, "abort", count=self.count)
        self.count += 1
        if self.count <= wish.blank_tokens:
            return self._limited(Token(0, b""), "")
        token = next(wish.tokens)
        if token.special:
            return Step(token, self._held, "eos", count=self.count)
        return self._limited(token, self._decoder.decode(token.data))

    def _limited(self, token: Token, text: str) -> Step:
        wish = self._wish
        found = self._find_stop(text) if wish.stop and self.count >= wish.min_tokens else None
        if found is not None:
            return Step(token, found[1], "stop", found[0], self.count)
        last = self.count >= wish.max_tokens
        if not wish.stop_on_token and self._reach:
            self._held += text
            keep = 0 if last else self._reach - 1
            cut = max(0, len(self._held) - keep)
            text, self._held = self._held[:cut], self._held[cut:]
        return Step(token, text, "length" if last else None, count=self.count)

    def _find_stop(self, text: str) -> tuple[str, str] | None:
        """The stop string that was reached and the text to show, or `None`."""
        wish = self._wish
        self._seen = (self._seen + text)[-(self._reach + len(text)) :]
        if wish.stop_on_token:
            return next(((stop, text) for stop in wish.stop if text and self._seen.endswith(stop)), None)
        places = [(self._seen.find(stop), stop) for stop in wish.stop if stop in self._seen]
        if not places:
            return None
        place, stop = min(places)
        shown = self._held + text
        after = len(self._seen) - place  # the stop string and what follows it
        end = len(shown) - after + (len(stop) if wish.keep_stop else 0)
        return stop, shown[: max(0, end)]
