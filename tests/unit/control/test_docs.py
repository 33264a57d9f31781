"""The documentation shows the routes that are served, no more and no fewer."""

import re

import httpx
import pytest

from pointsman.app import Router, build
from pointsman.settings import load
from unit.control.conftest import Client

pytestmark = pytest.mark.anyio


def test_every_generation_route_is_described(app: Router) -> None:
    """Each route of the data plane is in OpenAPI with a schema and an example, and finds itself."""
    paths = app.openapi()["paths"]
    for route in app.routes_table.table:
        described = paths[route.template][route.method.lower()]
        found = app.routes_table.find(route.method, route.template.replace("{model_id}", "m"))
        assert found is not None
        assert found.route is route
        if route.method == "POST":
            content = described["requestBody"]["content"]["application/json"]
            assert content["schema"]["properties"]
            assert "example" in content or "examples" in content


def test_every_described_generation_route_is_served_by_the_data_plane(app: Router) -> None:
    """What OpenAPI files under `generate` is the data plane's."""
    table = {(route.method, route.template) for route in app.routes_table.table}
    described = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method, entry in methods.items()
        if entry["tags"] == ["generate"]
    }
    assert described == table


async def test_docs_can_be_hidden(client: Client) -> None:
    """`DOCS=off` takes the three pages away."""
    hidden = build(load({"DOCS": "off"}, None, None))
    shown = build(load({}, None, None))
    for app, status in ((hidden, 404), (shown, 200)):
        async with client(app) as http:
            for path in ("/docs", "/redoc", "/openapi.json"):
                answer: httpx.Response = await http.get(path)
                assert answer.status_code == status
                assert re.fullmatch(r"[A-Za-z0-9._-]+", answer.headers["x-request-id"])
