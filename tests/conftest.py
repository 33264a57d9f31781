"""What all tests share."""

import pytest
from hypothesis import settings

# A busy machine is no failure, and the same run sees the same examples. To look further than these:
# pytest --hypothesis-profile=searching.
settings.register_profile("unhurried", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("unhurried")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio alone; the router knows no other loop."""
    return "asyncio"
