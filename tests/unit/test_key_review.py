"""Keys for what is not there: told once for each reading, by the keys' names."""

import json
import logging
from pathlib import Path

import pytest

from pointsman.app import build
from pointsman.key_review import KeyReview
from pointsman.keys import Key, KeyTable, digest_of
from pointsman.model import ModelConfig
from pointsman.registry import Registry
from pointsman.retry import RetryConfig
from pointsman.settings import load


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


def test_each_reading_is_looked_through(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At the start, by a changed file, and by settings that name another file or other models."""

    def said() -> list[str]:
        told = [
            record.getMessage().partition(": ")[2] for record in caplog.records if "not there" in record.msg
        ]
        caplog.clear()
        return told

    first, second = key(1), key(2)
    one = write(tmp_path / "one.json", first, models=["gpt-2"])
    two = write(tmp_path / "two.json", second, routes=["GET /generate"])
    settings = {"TGI_SMALL_ENDPOINT": "http://engine.invalid"}
    app = build(load({**settings, "KEYS_FILE": str(one)}, None, None))
    app.keyring.look()
    assert said() == [f"key {first.name} the model 'gpt-2'"]
    app.keyring.look()
    app.parts.renew(load({**settings, "KEYS_FILE": str(one), "GRACE_S": "1"}, None, None))
    assert said() == []
    more = {**settings, "TGI_GPT2_ENDPOINT": "http://engine.invalid"}
    app.parts.renew(load({**more, "KEYS_FILE": str(two)}, None, None))
    assert said() == [f"key {second.name} the route 'GET /generate' (is it POST /generate?)"]
    write(two, first, models=["gpt-2"])
    app.keyring.look()
    assert said() == []
    two.write_text("{")
    app.keyring.look()
    assert said() == []


def write(path: Path, one: Key, **more: list[str]) -> Path:
    path.write_text(json.dumps({"keys": [{"sha256": one.digest.hex(), **more}]}))
    return path
