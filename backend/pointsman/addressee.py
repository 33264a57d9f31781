"""Which model a call is for (by the path, the body, or default), and which models may stand in for it."""

from msgspec import structs

from pointsman.apis import GENERATIONS
from pointsman.body import too_large
from pointsman.call import Call, Operation
from pointsman.engines import DIALECTS
from pointsman.errors import MODEL_NOT_FOUND, NO_REPLICA, RouterError
from pointsman.keys import Key
from pointsman.registry import Model, Registry
from pointsman.surfaces.base import Surface
from pointsman.surfaces.comparison import Comparison

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


def chain_of(
    registry: Registry, model: Model, surface: Surface, call: Call, key: Key | None, size: int
) -> tuple[Model, ...]:
    """The models that may answer where this one cannot, in order.

    Those of its fallbacks for which the caller's key is good, and that have an engine for the call.

    Args:
        size: bytes of the body.
    """
    if call.operation not in GENERATIONS or surface.name == Comparison.name:
        return ()  # another model's tokens, embeddings or part of a comparison would be wrong answers
    found = [registry.models.get(name) for name in model.config.fallbacks]
    return tuple(
        other
        for other in found
        if other is not None
        and (key is None or not key.models or other.id in key.models)
        and any(DIALECTS[engine].speaks(call) for engine in other.engines)
        and size <= _body_limit(other, size)
    )


def check_size(model: Model, size: int, most: int) -> None:
    """Check the bytes of a body, of which the router takes `most`.

    Raises:
        RouterError: BODY_TOO_LARGE, with the model's limit.
    """
    limit = _body_limit(model, most)
    if size > limit:
        raise too_large(limit)


def _body_limit(model: Model, most: int) -> int:
    limits = [DIALECTS[engine].body_max_bytes or most for engine in model.engines]
    return min(max(limits, default=most), model.config.max_body_bytes or most)


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
    if name is None and not all(found.pool for found in registry.models.values()):
        raise RouterError(
            NO_REPLICA, "No replica is left that speaks this API.", retry_after_s=_PROBE_INTERVAL_S
        )
    if name is None:
        raise RouterError(MODEL_NOT_FOUND, "No model is configured whose engine speaks this API.")
    raise RouterError(
        NO_REPLICA,
        f"The default model {name!r} is not known: it is not configured, and no engine serves it so far.",
        retry_after_s=_PROBE_INTERVAL_S,
    )
