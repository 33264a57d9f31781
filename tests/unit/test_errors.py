"""The table of errors: stable codes, honest statuses, words that are ours."""

import re
from collections import Counter

import pytest

from pointsman import errors
from pointsman.errors import ALL_KINDS, ErrorKind, Owner, RouterError

# reliability.md section 10
STATUSES = {400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 422, 429, 431, 500, 502, 503, 504}


def test_codes_are_unique_and_stable_in_form() -> None:
    """A code names one kind of each owner, in lower case with underscores."""
    assert max(Counter((kind.code, kind.owner) for kind in ALL_KINDS).values()) == 1
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code) for kind in ALL_KINDS)


def test_kinds_of_one_code_differ_in_their_owners_alone() -> None:
    """What a program decides by is the same; only a timeout may be the client's own or not."""
    shared = [kind for kind in ALL_KINDS if [one.code for one in ALL_KINDS].count(kind.code) > 1]
    assert shared == [errors.TOTAL_TIMEOUT, errors.OWN_TIMEOUT]
    assert {(kind.status, kind.retryable) for kind in shared} == {(504, True)}
    assert [kind.owner for kind in shared] == [Owner.ENGINE, Owner.CLIENT]


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.code)
def test_a_kind_is_consistent(kind: ErrorKind) -> None:
    """Status, owner and retryability agree, and the sentence is finished.

    A conflict may be between two of an operator's acts, or among our own workers. A client's own deadline
    is a timeout like ours.
    """
    assert kind.status in STATUSES
    either = kind.status == 409 or kind is errors.OWN_TIMEOUT
    assert either or (kind.owner in {Owner.CLIENT, Owner.POLICY}) == (kind.status < 500)
    assert not (kind.status < 500 and kind.retryable and kind.status not in {408, 409, 429})
    assert kind.message.endswith((".", "bug."))
    assert kind.message[0].isupper()
    assert not re.search(r"[{}%]|\\n|None", kind.message)


def test_only_a_bug_is_a_500() -> None:
    """500 means that the router failed."""
    assert [kind for kind in ALL_KINDS if kind.status == 500] == [errors.INTERNAL]


def test_overload_and_absence_can_be_tried_again() -> None:
    """What is 503 or 504 now may work later."""
    assert all(kind.retryable for kind in ALL_KINDS if kind.status in {503, 504})


def test_an_error_takes_its_words_and_status_from_the_table() -> None:
    """Without anything more precise the row speaks."""
    error = RouterError(errors.NO_REPLICA)
    assert (error.message, error.status) == (errors.NO_REPLICA.message, 503)
    assert str(error) == error.message


def test_an_error_may_be_more_precise() -> None:
    """A sentence and a passed-on status replace those of the row, and nothing else."""
    error = RouterError(errors.ENGINE_REJECTED, "Too long.", param="prompt", status=413)
    assert (error.message, error.status, error.param, error.kind.code) == (
        "Too long.",
        413,
        "prompt",
        "engine_rejected",
    )
