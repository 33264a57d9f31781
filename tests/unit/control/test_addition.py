"""Adding a replica: what it is where its operator does not say so."""

from ipaddress import IPv4Network

import msgspec
import pytest

from pointsman.call import Fields
from pointsman.control.addition import read_addition
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.membership import entry_seat
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.orders import Orders
from pointsman.registry import Registry
from pointsman.replica import Endpoint, Engine
from pointsman.retry import RetryConfig

NEW = "http://127.0.0.1:9"
HERE = (IPv4Network("127.0.0.0/8"),)

pytestmark = pytest.mark.anyio


def registry(*engines: Engine, removed: bool) -> Registry:
    """A model `m` with a replica on each engine, of which all are removed or none is."""
    entries = tuple(ReplicaConfig(Endpoint("http", "127.0.0.1", n), one) for n, one in enumerate(engines, 1))
    made = Registry([ModelConfig("m", entries, "M")], RetryConfig())
    if removed:
        made.follow(Orders(removed=tuple(entry_seat("m", entry) for entry in entries)))
        assert made.models["m"].pool == []
    return made


def fields(**said: str) -> Fields:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in said.items()}


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("removed", [False, True])
async def test_a_model_on_one_engine_needs_none_named(engine: Engine, *, removed: bool) -> None:
    """The new replica is on the same one, also once no replica is left."""
    made = registry(engine, engine, removed=removed)
    found = await read_addition(fields(model="m", url=NEW), made, HERE)
    assert found.seat.engine == engine.value


@pytest.mark.parametrize("removed", [False, True])
async def test_a_model_on_both_engines_does_not_say_which(*, removed: bool) -> None:
    """Then it must be named, and the error says how."""
    made = registry(Engine.TGI, Engine.VLLM, removed=removed)
    with pytest.raises(RouterError, match="`engine` must be one of tgi, vllm") as refused:
        await read_addition(fields(model="m", url=NEW), made, HERE)
    assert refused.value.kind is INVALID_PARAMETER
    found = await read_addition(fields(model="m", url=NEW, engine="tgi"), made, HERE)
    assert found.seat.engine == "tgi"


async def test_who_is_there_counts_more_than_the_settings() -> None:
    """After a move from TGI to vLLM the next replica is on vLLM."""
    made = registry(Engine.TGI, Engine.VLLM, removed=False)
    made.follow(Orders(removed=(entry_seat("m", made.models["m"].config.replicas[0]),)))
    found = await read_addition(fields(model="m", url=NEW), made, HERE)
    assert found.seat.engine == "vllm"
