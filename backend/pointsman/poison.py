"""Requests that engines die of: which engines failed over the same request lately, and which were found dead.

A request over which two engines failed in a way in which engines die goes to no third for a while, only to
those two again. Are both found dead soon after, it goes to nobody. A good answer to it clears it.
Pure; per worker process; times are monotonic seconds, passed in.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from pointsman.call import Call
from pointsman.retry import HURT_MAX

DEAD_WITHIN_S = 15.0  # between two health checks that fail there may be so much, and vLLM takes 5 s to end
_PROMPTS = ("messages", "prompt", "inputs", "input")  # fields that hold what the engine reads
ENTRIES = 4096  # an engine's death is the failure of all that it had in hand


@dataclass(slots=True)
class _Failed:
    at: float
    died: bool = False


@dataclass(slots=True)
class _Body:
    """What one request did. `at` is when the latest engine failed over it for the first time."""

    at: float
    replicas: dict[str, _Failed] = field(default_factory=dict)  # by their ids


@dataclass(frozen=True, slots=True)
class Ruling:
    """Who may be asked. `only` None: anybody; else replicas by their ids; empty: nobody."""

    only: frozenset[str] | None


FREE = Ruling(None)
REFUSED = Ruling(frozenset())


class Poison:
    """A bounded table of such requests.

    Args:
        lasts_s: how long a request is remembered after another engine failed over it; 0: nothing is. That the
            same ones fail again makes it no longer: others may do better.
    """

    def __init__(self, lasts_s: float) -> None:
        self.lasts_s = lasts_s
        self.bodies: OrderedDict[bytes, _Body] = OrderedDict()  # by fingerprint, in the order of `at`

    def __len__(self) -> int:
        return len(self.bodies)

    def failed(self, digest: bytes, replica_id: str, now: float) -> None:
        """A replica failed over a request in one of the ways of `attempt.DEADLY`."""
        if not self.lasts_s:
            return
        body = self.bodies.setdefault(digest, _Body(now))
        failed = body.replicas.get(replica_id)
        if failed is not None:
            failed.at = now
            return
        body.at = now
        body.replicas[replica_id] = _Failed(now)
        self.bodies.move_to_end(digest)
        if len(self.bodies) > ENTRIES:
            self.bodies.popitem(last=False)

    def died(self, replica_id: str, now: float) -> None:
        """A replica was found dead: of what it failed over last, it may have died."""
        for body in self.bodies.values():
            failed = body.replicas.get(replica_id)
            if failed is not None and now - failed.at <= DEAD_WITHIN_S:
                failed.died = True

    def cleared(self, digest: bytes) -> None:
        """A request got a good answer."""
        self.bodies.pop(digest, None)

    def ruling(self, digest: bytes, now: float) -> Ruling:
        """Who may be asked a request."""
        while self.bodies and next(iter(self.bodies.values())).at <= now - self.lasts_s:
            self.bodies.popitem(last=False)
        body = self.bodies.get(digest)
        if body is None or len(body.replicas) < HURT_MAX:
            return FREE
        if sum(failed.died for failed in body.replicas.values()) >= HURT_MAX:
            return REFUSED
        return Ruling(frozenset(body.replicas))


def digest_of(model_id: str, call: Call) -> bytes:
    """What tells a prompt from others, however its answer is asked for the next time."""
    asked = sha256(f"{model_id}\n{call.operation.value}\n".encode())
    if call.wish is not None:
        asked.update(msgspec.msgpack.encode((call.wish.prompt, call.wish.messages)))
        return asked.digest()
    told = {name: call.fields[name] for name in _PROMPTS if name in call.fields} or call.fields
    for name, value in told.items():
        asked.update(b"%d:%b:%b" % (len(name), name.encode(), bytes(value)))
    if not told and call.body is not None:
        asked.update(call.body)
    return asked.digest()
