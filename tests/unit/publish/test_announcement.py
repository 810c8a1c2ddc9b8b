"""The dates of a release, and what they may be."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from scripts.publish.announcement import LONGEST, SKEW, Validity

NOW = datetime(2026, 9, 30, 12, 0, 0, 5, UTC)


def valid(published: timedelta, expires: timedelta) -> Validity:
    return Validity(NOW + published, NOW + expires)


def test_a_release_is_valid_for_as_many_days_as_asked_for() -> None:
    found = Validity.starting(NOW, 30)
    start = datetime(2026, 9, 30, 12, tzinfo=UTC)
    assert found == Validity(start, start + timedelta(days=30))
    assert Validity.starting(NOW.astimezone(timezone(timedelta(hours=5))), 30) == found
    Validity.starting(NOW, LONGEST).check(NOW)


@pytest.mark.parametrize(
    ("validity", "reason"),
    [
        (valid(timedelta(0), timedelta(days=LONGEST, seconds=1)), "more than 183 days"),
        (valid(timedelta(days=-LONGEST), timedelta(seconds=0)), "it expired at"),
        (valid(timedelta(days=-9), timedelta(days=-1)), "it expired at"),
        (valid(timedelta(minutes=11), timedelta(days=1)), "dated in the future"),
        (valid(timedelta(days=-1000), timedelta(days=1)), "more than 183 days"),
    ],
)
def test_a_release_never_expires_in_the_past_or_after_half_a_year(
    validity: Validity, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        validity.check(NOW)


def test_the_clock_of_another_machine_may_be_a_little_ahead() -> None:
    valid(SKEW, timedelta(days=1)).check(NOW)


@pytest.mark.parametrize(
    "stamp",
    [
        "2026-10-1T12:00:00Z",
        "2026-10-01T12:00:00+00:00",
        "2026-10-01T12:00:00Z ",
        "\uff12026-10-01T12:00:00Z",
        "0999-10-01T12:00:00Z",
        "",
        None,
        20261001,
        ["2026-10-01T12:00:00Z"],
    ],
)
def test_dates_that_we_would_not_have_written_are_refused(stamp: object) -> None:
    text = json.dumps({"published_at": "2026-09-30T12:00:00Z", "expires_at": stamp})
    with pytest.raises((ValueError, TypeError)):
        Validity.read(text.encode())
