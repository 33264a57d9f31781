"""Which model a call is for: the path decides, then the body, then the default."""

from msgspec import structs

from pointsman.call import Call, Operation
from pointsman.engines import DIALECTS
from pointsman.errors import MODEL_NOT_FOUND, NO_REPLICA, RouterError
from pointsman.registry import Model, Registry
from pointsman.surfaces.base import Surface

_PROBE_INTERVAL_S = 5  # after it the engines may have told more names
_CHATS = (Operation.CHAT, Operation.CHAT_TOKENIZE)


def model_of(registry: Registry, in_path: str | None, surface: Surface, call: Call) -> tuple[Model, Call]:
    """The model, and the call without a name that does not count.

    Args:
        in_path: the name in the path, if the route has one.

    Raises:
        RouterError: MODEL_NOT_FOUND; NO_REPLICA where the default is a name that no engine has told yet.
    """
    if in_path is not None:
        model = registry.find(in_path)
        name, call = in_path, structs.replace(call, model=None)
    elif call.model is not None:
        model, name = registry.find(call.model), call.model
    else:
        return _default(registry, surface, call), call
    if model is None:
        known = ", ".join(registry.models) or "none"
        shown = name if name.isprintable() else "(unprintable)"
        raise RouterError(
            MODEL_NOT_FOUND, f"Model {shown!r} is not known; known models: {known}.", param="model"
        )
    return model, call


def _default(registry: Registry, surface: Surface, call: Call) -> Model:
    """The model of a call that names none."""
    model = registry.default(
        lambda found: any(DIALECTS[engine].speaks(call) for engine in found.engines),
        surface.name,
        chat=surface.prefers_chat or call.operation in _CHATS,
    )
    if model is not None:
        return model
    name = registry.wanted(surface.name)
    if name is None:
        raise RouterError(MODEL_NOT_FOUND, "No model is configured whose engine speaks this API.")
    raise RouterError(
        NO_REPLICA,
        f"The default model {name!r} is not known: it is not configured, and no engine serves it so far.",
        retry_after_s=_PROBE_INTERVAL_S,
    )
