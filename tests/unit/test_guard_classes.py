"""Guard classes: which there are, whose a request is, and what is said of one that is not there."""

import pytest

from pointsman.app import build
from pointsman.guard_classes import CONTROL, KNOWN, OPEN, check, control_class, control_needs, nearest
from pointsman.keys import Need
from pointsman.routes import Routes
from pointsman.settings import load


def test_the_list_is_what_the_router_has() -> None:
    """Every route of either plane is there, and no other; the pages of `/docs` are beside the schema."""
    paths = build(load({}, None, None)).openapi()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    pages = {"GET /docs", "GET /redoc", "GET /openapi.json"}
    assert served | pages == KNOWN | OPEN
    assert {*CONTROL} & {route.guard_class for route in Routes().table} == set()


def test_switched_off_routes_are_there() -> None:
    """A rule does not depend on other settings."""
    rules = "GET /metrics=always, GET /docs=always, POST /v1/chat=never"
    settings = load({"METRICS__ENABLED": "false", "DOCS": "off", "KEY_NEEDS": rules}, None, None)
    assert settings.key_needs["GET /metrics"] is Need.ALWAYS


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/models", "GET /v1/models"),
        ("/v1/models\n", "GET /v1/models"),
        ("/v1/models/", "GET /v1/models/{name}"),
        ("/v1/models/org/name", "GET /v1/models/{name}"),
        ("/models/a", "GET /models/{model_id}"),
        ("/models/compare", "GET /models/{model_id}"),
        ("/models/a/health", "GET /models/{model_id}/health"),
        ("/models/a\n/v1/models\n", "GET /models/{model_id}/v1/models"),
        ("/models/a/b/health", None),
        ("/v1/models\n\n", None),
        ("/V1/models", None),
        ("/nope", None),
    ],
)
def test_a_request_is_of_one_class(path: str, found: str | None) -> None:
    """As the routes match: a model's hub name holds slashes, and one newline at the end is passed over."""
    assert control_class("GET", path) == found


def test_rules_change_what_is_needed() -> None:
    """`if_any` is for those alone that usually ask as soon as there is a key."""
    usual = control_needs({})
    assert [one for one, need in usual.items() if need is Need.IF_ANY] == [
        "GET /v1/models",
        "GET /v1/models/{name}",
        "GET /models/{model_id}/v1/models",
        "POST /models/compare",
    ]
    loose = control_needs({"if_any": Need.NEVER, "GET /models": Need.ALWAYS})
    assert loose["GET /models"] is Need.ALWAYS
    assert set(loose.values()) == {Need.ALWAYS, Need.NEVER}


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("POST /api/chat/streams", "POST /api/chat/stream"),
        ("POST /models/distilgpt2/generate", "POST /models/{model_id}/generate"),
        ("GET /models/distilgpt2/health", "GET /models/{model_id}/health"),
        ("GET /v1/completions", "POST /v1/completions"),
        ("DELETE /admin/replicas/{id}", "DELETE /admin/replicas/{replica_id}"),
        ("nonsense", None),
        ("", None),
    ],
)
def test_what_was_meant(wrong: str, meant: str | None) -> None:
    """A path of one model stands for its template; else what is written alike, if anything is."""
    assert nearest(wrong) == meant
    hint = "write it like POST /v1/completions" if meant is None else f"did you mean {meant}?"
    with pytest.raises(ValueError, match="is no route of this router") as told:
        check(wrong)
    assert str(told.value) == f"{wrong!r} is no route of this router; {hint}"


def test_open_routes_stay_open() -> None:
    """A rule for a health check would close nothing, which is said."""
    for one in OPEN:
        with pytest.raises(ValueError, match="open to everybody"):
            check(one)
    for one in KNOWN:
        check(one)


def test_a_long_name_is_cut() -> None:
    """No message grows with what is wrong, and signs that steer a terminal are shown."""
    with pytest.raises(ValueError, match="no route") as told:
        check("POST /\x1b[2J" + "x" * 10_000)
    assert len(str(told.value)) < 200
    assert "\x1b" not in str(told.value)
