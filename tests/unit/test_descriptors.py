"""The limit of open files, as the process finds it."""

import resource

import pytest

from pointsman.descriptors import make_room

ENDLESS = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [
        (1024, 1 << 20, 8320),
        (1024, 8320, 8320),
        (1024, ENDLESS, 8320),
        (9000, 9000, None),
        (ENDLESS, ENDLESS, None),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_must(
    soft: int, hard: int, then: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client and its engine take one file each; what is enough is left alone, and nobody is told."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: told.append(limits))
    assert make_room(4096) is None
    assert told == ([] if then is None else [(then, hard)])


def test_a_hard_limit_that_is_too_low_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that is needed, the number that is there, and the setting that would fit."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: told.append(limits))
    sentence = make_room(4096)
    assert sentence is not None
    assert all(part in sentence for part in ("8320", "4096", "ulimit", "MAX_CONNECTIONS=1984"))
    assert told == [(4096, 4096)]
    assert make_room(1984) is None
