"""Whether a text and what is to follow fit into a replica's context, and what is done where they do not.

No text has more tokens than UTF-8 bytes: both engines' tokenizers fall back to single bytes at worst. So most
texts are not counted; the others are counted by the replica's own tokenizer, and the count is kept by hash.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b

from msgspec import structs

from pointsman.engines.base import Dialect, Outgoing, Tokenized
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Wish
from pointsman.replica import Replica

_KEPT = 1024  # counts
_SPECIAL = 8  # tokens that an engine may put around a text
_CHUNK = 1024  # tokens that TGI makes at a time: no more of a length must fit (tgi.md 3.1)

Ask = Callable[[Outgoing], Awaitable[bytes | None]]


class Lengths:
    """Fits wishes into contexts; one per worker process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, tuple[int, str]] = OrderedDict()

    async def fit(self, wish: Wish, replica: Replica, dialect: Dialect, ask: Ask) -> Wish:
        """A wish that this replica can grant; what was cut of it is told in `ignored`.

        Args:
            ask: sends a request to the replica; None where that has no good answer.

        Raises:
            RouterError: INVALID_PARAMETER, when text and length together do not fit.
            AttemptFailed: the engine's answer makes no sense.
        """
        size = len(wish.prompt.encode()) + _SPECIAL
        most = replica.facts.max_total_tokens
        long = wish.first_tokens is not None and size - _SPECIAL > wish.first_tokens
        endless = wish.max_new is None and not dialect.goes_on
        tight = most is not None and (endless or size + (wish.max_new or 0) > most)
        if not (long or tight):
            return wish
        count, text = await self._count(wish, replica, dialect, ask)
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

    async def _count(
        self, wish: Wish, replica: Replica, dialect: Dialect, ask: Ask
    ) -> tuple[int | None, str]:
        """How many tokens the text has, and as much of it as counts; None where the engine does not tell."""
        seed = f"{replica.model_id}\n{replica.engine}\n{replica.own_name}\n{wish.first_tokens}\n{wish.prompt}"
        key = blake2b(seed.encode(), digest_size=16).digest()
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return kept
        body = await ask(dialect.tokenize(wish.prompt, replica))
        if body is None:
            return None, wish.prompt
        found = _cut(wish, dialect.read_tokenized(body, wish.prompt))
        self._kept[key] = found
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found


def _cut(wish: Wish, tokenized: Tokenized) -> tuple[int, str]:
    """The count, and the text less what is behind its first tokens."""
    first = wish.first_tokens
    if first is None or tokenized.count <= first:
        return tokenized.count, wish.prompt
    end = tokenized.ends[first - 1] if len(tokenized.ends) >= first else first
    return first, wish.prompt.encode()[:end].decode("utf-8", "ignore")


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
