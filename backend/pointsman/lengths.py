"""Whether a text or a conversation fits into a replica's context with what is to follow, and what to do else.

No text has more tokens than UTF-8 bytes: both engines' tokenizers fall back to single bytes at worst. So most
texts are not counted; the others are counted by the replica's own tokenizer, and the count is kept by hash.
"""

from asyncio import to_thread
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from itertools import accumulate

import msgspec
from msgspec import structs

from pointsman.engines.base import Dialect, Outgoing, Tokenized
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Message, Wish
from pointsman.replica import Replica
from pointsman.transcript import alternating, render
from pointsman.turns import LARGE_BYTES, give_way

_KEPT = 1024  # counts
_SPECIAL = 8  # tokens that an engine may put around a text
_PER_TURN = 16  # tokens that a chat template may put around a message
_PER_CHAT = 64  # and around all of them
_CHUNK = 1024  # tokens that TGI makes at a time: no more of a length must fit (tgi.md 3.1)

Ask = Callable[[Outgoing], Awaitable[bytes | None]]


class Lengths:
    """Fits wishes into contexts; one per worker process."""

    def __init__(self) -> None:
        # Tokens of a text or a conversation, and where the text ends that counts, in bytes; None: at its end.
        self._kept: OrderedDict[bytes, tuple[int, int | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    async def fit(self, wish: Wish, replica: Replica, dialect: Dialect, ask: Ask) -> Wish:
        """A wish that this replica can grant; what was cut of it is told in `ignored`.

        Args:
            ask: sends a request to the replica; None where that has no good answer.

        Raises:
            RouterError: INVALID_PARAMETER, when text and length together do not fit.
            AttemptFailed: the engine's answer makes no sense.
        """
        prompt = wish.prompt.encode()
        size = len(prompt) + _SPECIAL
        most = replica.facts.max_total_tokens
        long = wish.first_tokens is not None and size - _SPECIAL > wish.first_tokens
        endless = wish.max_new is None and not dialect.goes_on
        tight = most is not None and (endless or size + (wish.max_new or 0) > most)
        if not (long or tight):
            return wish
        count, text = await self._count(wish, prompt, replica, dialect, ask)
        if text != wish.prompt:
            told = (*wish.ignored, f"prompt;truncated={wish.first_tokens}")
            wish = structs.replace(wish, prompt=text, ignored=told)
        if wish.last_tokens is not None:
            count = min(count or wish.last_tokens, wish.last_tokens)
        if most is None:
            return wish
        if count is None:  # by bytes, as far as is certain; else the engine judges
            return structs.replace(wish, max_new=most - size) if endless and most > size else wish
        return _fitted(wish, most, count)

    async def trim(self, wish: Wish, reserve: int, replica: Replica, dialect: Dialect, ask: Ask) -> Wish:
        """A conversation that fits, with room for `reserve` tokens of an answer, or for all that it may have.

        Whole oldest pairs of a question and its answer go, never a system message nor the last message. The
        reserve is at most half of what the replica takes. Where the engine does not count, it judges.

        Raises:
            RouterError: INVALID_PARAMETER, when what must stay does not fit.
            AttemptFailed: the engine's answer makes no sense.
        """
        windows = [size for size in (wish.window, replica.facts.max_total_tokens) if size is not None]
        if not windows:
            return wish
        window, most_new = min(windows), wish.max_new or reserve
        reserve = min(reserve, most_new, window // 2)
        if _most(wish.messages) + most_new <= window:
            return wish

        async def count(messages: tuple[Message, ...]) -> int | None:
            return await self._count_chat(messages, replica, dialect, ask)

        old = [] if wish.keeps_turns else pairs(wish.messages)
        found = await _trimmed(wish.messages, old, window - reserve, count)
        if found is None:
            return wish
        messages, size = found
        if size > window - reserve:
            sentence = (
                f"The system message and the last message have {size} tokens; this model takes {window}, "
                f"of which {reserve} are kept for the answer."
            )
            raise RouterError(INVALID_PARAMETER, sentence, param="messages")
        wish = structs.replace(wish, messages=messages, dropped=len(wish.messages) - len(messages))
        return _fitted(wish, window, size) if wish.max_new is not None else wish

    async def _count_chat(
        self, messages: tuple[Message, ...], replica: Replica, dialect: Dialect, ask: Ask
    ) -> int | None:
        """How many tokens a conversation has; None where the engine does not tell."""
        plain = replica.facts.chat_template is False
        if replica.facts.alternates and not plain:
            messages = alternating(messages)
        own = f"{replica.model_id}\n{replica.engine}\n{replica.own_name}\n{plain}\n"
        key = blake2b(own.encode() + msgspec.json.encode(messages), digest_size=16).digest()
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept[0]
        text = render(messages) if plain else ""
        body = await ask(dialect.tokenize(text, replica) if plain else dialect.count_chat(messages, replica))
        if body is None:
            return None
        found = dialect.read_tokenized(body, text).count if plain else dialect.read_counted(body)
        self._keep(key, (found, None))
        return found

    def _keep(self, key: bytes, found: tuple[int, int | None]) -> None:
        self._kept[key] = found
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    async def _count(
        self, wish: Wish, prompt: bytes, replica: Replica, dialect: Dialect, ask: Ask
    ) -> tuple[int | None, str]:
        """How many tokens the text has, and as much of it as counts; None where the engine does not tell."""
        own = f"{replica.model_id}\n{replica.engine}\n{replica.own_name}\n{wish.first_tokens}\n"
        hashed = blake2b(own.encode(), digest_size=16)
        hashed.update(prompt)  # not joined: it may be megabytes
        key = hashed.digest()
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept[0], _until(wish.prompt, kept[1])
        if len(prompt) > LARGE_BYTES:
            await give_way()
        body = await ask(dialect.tokenize(wish.prompt, replica))
        if body is None:
            return None, wish.prompt
        if len(body) > LARGE_BYTES:
            count, end = await to_thread(lambda: _cut(wish, dialect.read_tokenized(body, wish.prompt)))
        else:
            count, end = _cut(wish, dialect.read_tokenized(body, wish.prompt))
        self._keep(key, (count, end))
        return count, _until(wish.prompt, end)


def _most(messages: tuple[Message, ...]) -> int:
    """More tokens than these a conversation does not have."""
    return _PER_CHAT + sum([len(turn.content.encode()) + _PER_TURN for turn in messages])


def pairs(messages: tuple[Message, ...]) -> list[list[int]]:
    """Where the pairs that may be left out stand, the oldest first: a question with all answers to it."""
    found: list[list[int]] = []
    for place, turn in enumerate(messages[:-1]):
        if turn.role == "system":
            continue
        if turn.role == "user" or not found:
            found.append([])
        found[-1].append(place)
    return found


async def _trimmed(
    messages: tuple[Message, ...],
    old: list[list[int]],
    room: int,
    count: Callable[[tuple[Message, ...]], Awaitable[int | None]],
) -> tuple[tuple[Message, ...], int] | None:
    """As many of the messages as fit into `room` tokens, or all that must stay, with their number of tokens.

    `old` are the pairs that may go, the first of them first. How many must is guessed by bytes, then searched
    by halves. None where the engine does not count.
    """

    def without(number: int) -> tuple[Message, ...]:
        gone = {place for pair in old[:number] for place in pair}
        return tuple([turn for place, turn in enumerate(messages) if place not in gone])

    size = await count(messages)
    if size is None or size <= room or not old:
        return None if size is None else (messages, size)
    few, enough, sizes = 0, len(old), {0: size}
    lengths = [len(turn.content.encode()) for turn in messages]
    gone = accumulate([sum([lengths[place] for place in pair]) for pair in old])
    excess = (size - room) / size * sum(lengths)
    at = next((number for number, length in enumerate(gone, 1) if length >= excess), enough)
    near = True
    while few + 1 < enough:
        at = min(max(at, few + 1), enough - 1)
        size = await count(without(at))
        if size is None:
            return None
        sizes[at] = size
        fits = size <= room
        few, enough = (few, at) if fits else (at, enough)
        at = (at - 1 if fits else at + 1) if near else (few + enough) // 2
        near = False
    size = sizes.get(enough) or await count(without(enough))
    return None if size is None else (without(enough), size)


def _cut(wish: Wish, tokenized: Tokenized) -> tuple[int, int | None]:
    """The count, and where the first tokens end in bytes; None: nothing is behind them."""
    first = wish.first_tokens
    if first is None or tokenized.count <= first:
        return tokenized.count, None
    return first, tokenized.ends[first - 1] if len(tokenized.ends) >= first else first


def _until(text: str, end: int | None) -> str:
    return text if end is None else text.encode()[:end].decode("utf-8", "ignore")


def _fitted(wish: Wish, most: int, count: int) -> Wish:
    room = most - count
    wanted = wish.max_new
    if room < 1:
        sentence = f"The prompt has {count} tokens; this model takes {most}, those of the answer included."
        raise RouterError(INVALID_PARAMETER, sentence, param="prompt")
    if wanted is None:
        return structs.replace(wish, max_new=room)
    if wanted <= room:
        return wish
    name = wish.length_name
    needed = 1 if wish.clamps else min(wanted, _CHUNK)
    if needed > room:
        sentence = (
            f"Input validation error: `inputs` tokens + `{name}` must be <= {most}. "
            f"Given: {count} `inputs` tokens and {needed} `{name}`"
        )
        raise RouterError(INVALID_PARAMETER, sentence, param=name)
    return structs.replace(wish, max_new=room, ignored=(*wish.ignored, f"{name};clamped={room}"))
