"""Reads what an operator says of a replica to be added, and looks where its name leads."""

import asyncio
import re
from ipaddress import ip_address

from pointsman.call import Fields
from pointsman.control.catalog import find_model
from pointsman.egress import read_endpoint, refusal
from pointsman.errors import REPLICA_EXISTS, RouterError
from pointsman.membership import entry_seat
from pointsman.orders import Addition, Seat
from pointsman.registry import Model, Registry
from pointsman.replica import Endpoint, Engine, Networks
from pointsman.resolver import LookUp, look_up
from pointsman.surfaces.base import invalid, model_name, number, text

POOL_MAX = 256  # replicas of one model
_KEYS = ("model", "url", "engine", "served_name", "weight", "max_in_flight", "key")
_VISIBLE = re.compile(r"[!-~]{1,256}")
_LOOKUP_S = 5.0


async def read_addition(
    fields: Fields, registry: Registry, networks: Networks, lookup: LookUp = look_up
) -> Addition:
    """Read and check it.

    Raises:
        RouterError: INVALID_PARAMETER, MODEL_NOT_FOUND or REPLICA_EXISTS, and why.
    """
    unknown = next((name for name in fields if name not in _KEYS), None)
    if unknown is not None:
        raise invalid(unknown[:64], f"not be there; known are {', '.join(_KEYS)}")
    model = find_model(registry, model_name(fields) or "")
    endpoint = _endpoint(text(fields, "url", longest=2048))
    seat = Seat(model.id, endpoint.url, _engine(fields, model).value, _visible(fields, "served_name"))
    if any(seat == entry_seat(model.id, one) for one in registry.entries(model)):
        raise RouterError(REPLICA_EXISTS)
    if len(model.pool) >= POOL_MAX:
        raise invalid("model", f"have fewer than {POOL_MAX} replicas")
    await _judge(endpoint, networks, lookup)
    return Addition(
        seat,
        int(number(fields, "weight", 1, 1000, 1, whole=True)),
        int(number(fields, "max_in_flight", 1, 1_000_000, 0, whole=True)) or None,
        _visible(fields, "key"),
    )


def _endpoint(url: str | None) -> Endpoint:
    if url is None:
        raise invalid("url", "be given, like http://10.0.0.12:8000")
    try:
        return read_endpoint(url)
    except ValueError as sentence:
        raise invalid("url", f"be a plain http(s) base URL: {sentence}") from None


def _engine(fields: Fields, model: Model) -> Engine:
    told = text(fields, "engine")
    usual = model.engines or {entry.engine for entry in model.config.replicas}  # once all were removed
    if told is None and len(usual) == 1:
        return next(iter(usual))
    if told is None or told not in list(Engine):
        raise invalid("engine", f"be one of {', '.join(Engine)}")
    return Engine(told)


def _visible(fields: Fields, name: str) -> str | None:
    told = text(fields, name)
    if told is not None and not _VISIBLE.fullmatch(told):
        raise invalid(name, "have 1 to 256 signs of ASCII, and no spaces")
    return told


async def _judge(endpoint: Endpoint, networks: Networks, lookup: LookUp) -> None:
    """Each address that the name has now must be allowed; a later one is judged when it is used."""
    try:
        ip_address(endpoint.host)
        found = [endpoint.host]
    except ValueError:
        try:
            async with asyncio.timeout(_LOOKUP_S):
                found = [address for _, address in await lookup(endpoint.host, endpoint.port)]
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            raise invalid("url", "have a host that resolves") from None
    why = next((why for one in found if (why := refusal(one, networks)) is not None), None)
    if why is not None:
        raise invalid("url", f"lead to where a replica may be: its address {why}")
