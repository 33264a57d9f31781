"""The ends of an attempt: one closed table that retry, health, metrics and log share."""

from collections import Counter

import pytest

from pointsman import attempt
from pointsman.attempt import ALL_ENDS, AttemptFailed, Retry, Verdict
from pointsman.errors import ALL_KINDS

# reliability.md section 2, and who is charged
CHARGED = {Verdict.FAULT_BEFORE_SENDING, Verdict.FAULT_AFTER_SENDING}
TABLE = {
    "connect": (True, Retry.OTHER),
    "reset_reused": (False, Retry.FRESH),
    "reset_new": (True, Retry.ONCE_OTHER),
    "refused": (False, Retry.OTHER),
    "abort": (False, Retry.OTHER),
    "bad_gateway": (True, Retry.OTHER),
    "gateway_timeout": (True, Retry.NEVER),
    "engine_error": (True, Retry.ONCE_OTHER),
    "junk": (True, Retry.NEVER),
    "rejected": (False, Retry.NEVER),
    "ttft": (True, Retry.NEVER),
    "idle": (True, Retry.NEVER),
    "total": (True, Retry.NEVER),
    "deadline": (False, Retry.NEVER),
    "truncated": (True, Retry.ONCE_OTHER),
    "client_abort": (False, Retry.NEVER),
    "slow_client": (False, Retry.NEVER),
    "misconfigured": (True, Retry.OTHER),
    "ok": (False, Retry.NEVER),
}


@pytest.mark.parametrize("label", TABLE)
def test_an_end_is_charged_and_retried_as_the_table_says(label: str) -> None:
    """Each row of the retry table is one end."""
    (end,) = [end for end in ALL_ENDS if end.label == label]
    assert (end.verdict in CHARGED, end.retry) == TABLE[label]


def test_labels_are_a_closed_set_of_metric_values() -> None:
    """No two ends share a label, and each is fit for a metric."""
    assert max(Counter(end.label for end in ALL_ENDS).values()) == 1
    assert all(end.label.replace("_", "").isalpha() and end.label.islower() for end in ALL_ENDS)


def test_each_end_has_an_error_of_the_table() -> None:
    """Whatever happens, there is something to tell the client, from the one table of errors."""
    assert all(end.error in ALL_KINDS for end in ALL_ENDS)


def test_only_the_client_and_overload_go_uncharged() -> None:
    """A verdict that is nobody's fault belongs to a success, a client or a full engine."""
    free = {end.verdict for end in ALL_ENDS} - CHARGED
    assert free == {Verdict.SUCCESS, Verdict.CLIENT_FAULT, Verdict.OVERLOAD, Verdict.CANCELLED}


def test_a_failure_says_its_label_and_detail() -> None:
    """The text is for the log: the label, then what was seen."""
    assert str(AttemptFailed(attempt.JUNK, "no JSON")) == "junk: no JSON"
    assert str(AttemptFailed(attempt.TTFT)) == "ttft"
