"""`/models` and `/v1/models`."""

import pytest

from pointsman.app import Router, build
from pointsman.conduct import Cause
from pointsman.replica import Health, State
from pointsman.settings import load
from unit.control.conftest import ENGINES, Client, take_down

pytestmark = pytest.mark.anyio

LISTS = (
    *("/v1/models", "/v1/models/distilgpt2", "/v1/models/distilbert/distilgpt2"),
    "/models/gemma-3-12b/v1/models",
)
# FastAPI would have servers tell it, which do not know our setting.
ROOT_PATH = pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
SECRET = "a-key-of-my-own-for-tests"


async def test_models_is_a_bare_array_in_seed_003s_shape(app: Router, client: Client) -> None:
    """Its UI reads id, name, hf_name, endpoint and available of an array."""
    async with client(app) as http:
        models = (await http.get("/models")).json()
    wanted = {"id", "name", "hf_name", "endpoint", "available"}
    assert isinstance(models, list)
    assert all(wanted <= set(model) for model in models)
    assert [model["endpoint"] for model in models] == [
        "http://router.test/models/distilgpt2",
        "http://router.test/models/gemma-3-12b",
    ]


@pytest.mark.parametrize(("address", "shown"), [("127.0.0.1", True), ("10.1.2.3", False)])
async def test_engine_addresses_are_for_operators(
    app: Router, client: Client, address: str, shown: bool
) -> None:
    """`upstream` is there for OPS_NETWORKS only; nothing else of the answer names the engine."""
    async with client(app, address) as http:
        for path in (
            "/models",
            "/models/distilgpt2",
            "/models/distilgpt2/health",
            "/v1/models",
            "/health",
            "/",
        ):
            answer = await http.get(path)
            assert answer.status_code == 200
            assert ("engine.invalid" in answer.text) is (shown and path.startswith("/models"))


async def test_health_of_a_model_names_the_reason(app: Router, client: Client) -> None:
    """`healthy` and `status` as seed 003 has them; state, reason and since beside them."""
    take_down(app, "distilgpt2")
    async with client(app) as http:
        found = (await http.get("/models/distilgpt2/health")).json()
    assert (found["model_id"], found["healthy"], found["status"]) == ("distilgpt2", False, "unavailable")
    assert (found["state"], found["reason"]) == ("down", "connection refused")
    assert found["since"] == "2023-11-14T22:13:20Z"


async def test_slots_and_queue_are_shown(app: Router, client: Client) -> None:
    """How many calls each replica takes at once, and how many wait for the model."""
    async with client(app) as http:
        for path in ("/models/gemma-3-12b", "/models/gemma-3-12b/health"):
            found = (await http.get(path)).json()
            assert found["queued"] == 0
            assert [replica["slots"] for replica in found["replicas"]] == [128, 128]


async def test_a_model_is_as_well_as_its_best_replica(app: Router, client: Client) -> None:
    """One replica up is enough to be available."""
    app.registry.models["gemma-3-12b"].pool[0].health = Health(State.MISCONFIGURED, "401", 1.0)
    async with client(app) as http:
        found = (await http.get("/models/gemma-3-12b")).json()
    assert (found["available"], found["state"]) == (True, "up")
    assert [replica["state"] for replica in found["replicas"]] == ["misconfigured", "up"]


async def test_a_replica_that_lost_its_calls_says_why(app: Router, client: Client) -> None:
    """Its state, reason and time are those of the ejection; for seed 003's clients the model is there."""
    replica = app.registry.models["distilgpt2"].pool[0]
    replica.conduct.cause, replica.conduct.since = Cause.WEDGED, 1_700_000_100.0
    async with client(app) as http:
        found = (await http.get("/models/distilgpt2/health")).json()
        status = (await http.get("/status")).json()
    assert (found["healthy"], found["status"]) == (True, "available")
    assert (found["state"], found["since"]) == ("wedged", "2023-11-14T22:15:00Z")
    assert "nor its own counters move" in found["reason"]
    assert found["replicas"][0]["state"] == "wedged"
    assert status["state"] == "up"  # of the model that answers there


async def test_unknown_model_is_404_with_the_known_ids(app: Router, client: Client) -> None:
    """The message lists what there is, as a string in `detail` for seed 003's clients."""
    async with client(app) as http:
        answer = await http.get("/models/nope/health")
    assert answer.status_code == 404
    assert "distilgpt2, gemma-3-12b" in answer.json()["detail"]


async def test_openai_list_and_one_by_its_hub_name(app: Router, client: Client) -> None:
    """`/v1/models` has OpenAI's shape, and a name with a slash finds its model."""
    async with client(app) as http:
        listed = (await http.get("/v1/models")).json()
        one = (await http.get("/v1/models/distilbert/distilgpt2")).json()
        scoped = (await http.get("/models/gemma-3-12b/v1/models")).json()
        missing = await http.get("/v1/models/nope")
    assert [entry["id"] for entry in listed["data"]] == ["distilgpt2", "gemma-3-12b"]
    assert (one["id"], one["object"], one["max_model_len"]) == ("distilgpt2", "model", 1024)
    assert [entry["id"] for entry in scoped["data"]] == ["gemma-3-12b"]
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


@ROOT_PATH
@pytest.mark.parametrize("path", LISTS)
async def test_openais_lists_need_a_key_as_soon_as_there_is_one(client: Client, path: str) -> None:
    """As OpenAI's other routes; without any key they are open, and so they are where a rule says it."""
    for settings, status in (
        ({}, 200),
        ({"SECURITY__API_KEY": SECRET}, 401),
        ({"SECURITY__API_KEY": SECRET, "KEY_NEEDS": "if_any=never"}, 200),
        ({"SECURITY__API_KEY": SECRET, "ROOT_PATH": "/llm"}, 401),
    ):
        async with client(build(load({**ENGINES, **settings}, None, None))) as http:
            for asked in (path, settings.get("ROOT_PATH", "") + path):
                assert (await http.get(asked)).status_code == status
                wrong = await http.get(asked, headers={"authorization": "Bearer wrong"})
                assert wrong.status_code == status
                assert (await http.get(asked, headers={"x-api-key": SECRET})).status_code == 200
            if status == 401:
                assert wrong.json()["error"]["code"] == "key_wrong"
                assert (await http.get(f"{path}%0A")).status_code == 401


async def test_the_frontends_list_stays_open(client: Client) -> None:
    """Its pages have no key: `/models` and what is below are told to all whom the IP rules let in."""
    async with client(build(load({**ENGINES, "SECURITY__API_KEY": SECRET}, None, None))) as http:
        for path in ("/models", "/models/distilgpt2", "/models/distilgpt2/health"):
            assert (await http.get(path)).status_code == 200


@ROOT_PATH
async def test_a_rule_closes_a_route_with_a_template(client: Client) -> None:
    """Rules name templates: one for `/models/{model_id}` is for every model, also below a root path."""
    rules = {"SECURITY__API_KEY": SECRET, "KEY_NEEDS": "GET /models/{model_id}=always", "ROOT_PATH": "/llm"}
    async with client(build(load({**ENGINES, **rules}, None, None))) as http:
        for path in ("/models/distilgpt2", "/llm/models/distilgpt2"):
            assert (await http.get(path)).status_code == 401
            assert (await http.get(path, headers={"x-api-key": SECRET})).status_code == 200
        assert (await http.get("/models/distilgpt2/health")).status_code == 200
