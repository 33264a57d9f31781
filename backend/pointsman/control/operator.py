"""Who may look after the router: an operator's address, or a key with the scope for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request

from pointsman import audit
from pointsman.errors import KEY_FORBIDDEN, RouterError
from pointsman.events import Events, Kind
from pointsman.guard import Caller, Guard
from pointsman.keys import Need, Scope

_CHANGES = frozenset({Scope.ADMIN})
_ASKS = frozenset({Scope.ADMIN, Scope.OPS})


@dataclass(slots=True)
class Action:
    """What somebody is about to do; `outcome` says how it ended, for the audit log."""

    who: str
    outcome: str = "ok"


@contextmanager
def audited(request: Request, what: str, events: Events | None = None) -> Iterator[Action]:
    """One action, which is on the audit log however it ends.

    Args:
        what: what is done, for the log.
        events: where it is told too.

    Raises:
        RouterError: what the action raises.
    """
    caller: Caller = request.state.caller
    who = f"address {caller.address}"
    if caller.key is not None:
        who = f"key {caller.key.name} at {caller.address}"
    action = Action(who)
    try:
        yield action
    except RouterError as error:
        action.outcome = error.kind.code
        raise
    except BaseException:
        action.outcome = "broken off"
        raise
    finally:
        audit.note(who, what, action.outcome, request.state.request_id)
        if events is not None:
            events.note(Kind.ADMIN, f"{what}: {action.outcome}", who)


class Desk:
    """Lets operators in, and writes down what they do."""

    def __init__(self, guard: Guard, events: Events) -> None:
        self._guard = guard
        self._events = events

    @contextmanager
    def action(self, request: Request, route: str, what: str, *, changes: bool) -> Iterator[Action]:
        """One action of an operator, on the audit log.

        Args:
            route: method and template, for keys that are for some routes only.
            what: what is done, for the log.
            changes: the scope `ops` is not enough.

        Raises:
            RouterError: KEY_MISSING, KEY_WRONG or KEY_FORBIDDEN; what the action itself raises.
        """
        with audited(request, what, self._events) as action:
            self.check(request, route, changes=changes)
            yield action

    def check(self, request: Request, route: str, *, changes: bool) -> None:
        """Let in a key with the scope, from any address, and addresses in OPS_NETWORKS, with any key.

        Raises:
            RouterError: KEY_MISSING, KEY_WRONG or KEY_FORBIDDEN.
        """
        caller: Caller = request.state.caller
        key, scopes = caller.key, _CHANGES if changes else _ASKS
        peer = request.client.host if request.client else None
        if self._guard.caller(peer, request.scope["headers"]).is_ops:
            return
        if key is None:
            headers = dict(request.scope["headers"])
            key = self._guard.authenticate(caller, headers, Need.ALWAYS, route, scope=None).key
        if key is None or not scopes & key.scopes:
            raise RouterError(KEY_FORBIDDEN, f"Your API key lacks the scope {Scope.ADMIN}.")
        refusal = next((why for one in sorted(scopes & key.scopes) if (why := key.refusal(one, route))), None)
        if refusal is not None:
            raise RouterError(KEY_FORBIDDEN, refusal)
