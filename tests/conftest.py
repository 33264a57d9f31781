"""What all tests share."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio alone; the router knows no other loop."""
    return "asyncio"
