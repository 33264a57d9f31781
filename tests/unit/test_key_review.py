"""Keys for what is not there: told once for each reading, by the keys' names."""

import logging

import pytest

from pointsman.key_review import KeyReview
from pointsman.keys import Key, KeyTable, digest_of
from pointsman.model import ModelConfig
from pointsman.registry import Registry
from pointsman.retry import RetryConfig


def key(number: int, *, routes: tuple[str, ...] = (), models: tuple[str, ...] = ()) -> Key:
    return Key(digest_of(f"secret {number}"), routes=frozenset(routes), models=frozenset(models))


@pytest.fixture
def review(caplog: pytest.LogCaptureFixture) -> KeyReview:
    caplog.set_level(logging.INFO, "pointsman.keyring")
    config = ModelConfig("gpt-2", (), "GPT-2", aliases=("small",))
    return KeyReview(Registry((config,), RetryConfig()))


def test_unknown_routes_and_models_are_told_in_one_line(
    review: KeyReview, caplog: pytest.LogCaptureFixture
) -> None:
    """The key by its eight digits, and each name; what is near is told too. A second look says nothing."""
    good = key(1, routes=("POST /generate", "GET /health"), models=("gpt-2",))
    bad, other = key(2, routes=("POST /generat",), models=("small",)), key(3, models=("nope\x1b",))
    table = KeyTable([good, bad, other, key(4)])
    review.look(table)
    review.look(table)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "keys are for what is not there: "
        f"key {bad.name} the route 'POST /generat' (is it POST /generate?), "
        f"key {bad.name} the model 'small' (keys name gpt-2 by its id), "
        f"key {other.name} the model 'nope\\x1b'"
    )
    review.look(KeyTable([bad]))
    assert len(caplog.records) == 2


def test_good_keys_are_not_spoken_of(review: KeyReview, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said where all is there."""
    review.look(KeyTable([key(1), key(2, models=("gpt-2",))]))
    assert caplog.records == []


def test_the_line_does_not_grow(review: KeyReview, caplog: pytest.LogCaptureFixture) -> None:
    """Of a thousand keys some are named, and the others counted."""
    review.look(KeyTable([key(number, models=("nope",)) for number in range(1000)]))
    (record,) = caplog.records
    assert record.getMessage().endswith(", and 990 more")
    assert len(record.getMessage()) < 1000
