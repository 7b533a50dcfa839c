"""Cron schedules, against times worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from cluster.api import cron


def due(text: str, since: str, zone: str = "UTC", count: int = 1) -> list[str]:
    tz = ZoneInfo(zone)
    at: float | None = datetime.fromisoformat(since).replace(tzinfo=tz).timestamp()
    out = []
    for _ in range(count):
        assert at is not None
        at = cron.parse(text).after(at, tz)
        out.append("never" if at is None else datetime.fromtimestamp(at, tz).strftime("%Y-%m-%dT%H:%M%z"))
    return out


@pytest.mark.parametrize(
    ("text", "since", "want"),
    [
        ("*/15 * * * *", "2026-01-01T00:01", "2026-01-01T00:15+0000"),
        ("0 0 * * *", "2026-01-01T00:00", "2026-01-02T00:00+0000"),
        ("5-7,30 3 * * *", "2026-01-01T03:07", "2026-01-01T03:30+0000"),
        ("0 0 29 2 *", "2026-01-01T00:00", "2028-02-29T00:00+0000"),
        ("0 0 1 JAN *", "2026-01-01T00:00", "2027-01-01T00:00+0000"),
        ("0 9 * * mon-fri", "2026-01-02T10:00", "2026-01-05T09:00+0000"),
        ("0 0 13 * 5", "2026-01-01T00:00", "2026-01-02T00:00+0000"),  # the 13th or a Friday
        ("0 0 */2 * 5", "2026-01-02T00:00", "2026-01-03T00:00+0000"),  # a step is a restriction too
        ("0 0 ? * 0", "2026-01-01T00:00", "2026-01-04T00:00+0000"),
        ("10/20 * * * *", "2026-01-01T00:11", "2026-01-01T00:30+0000"),
        ("@hourly", "2026-01-01T00:59", "2026-01-01T01:00+0000"),
        ("@weekly", "2026-01-01T00:00", "2026-01-04T00:00+0000"),
        ("@every 90m", "2026-01-01T00:00", "2026-01-01T01:30+0000"),
        ("59 23 31 12 *", "2026-12-31T23:59", "2027-12-31T23:59+0000"),
    ],
)
def test_next_time(text: str, since: str, want: str) -> None:
    assert due(text, since) == [want]


def test_an_impossible_date_is_never_due() -> None:
    assert due("0 0 31 2 *", "2026-01-01T00:00") == ["never"]


def test_a_time_that_does_not_exist_is_skipped_and_one_that_exists_twice_is_due_twice() -> None:
    berlin = "Europe/Berlin"
    assert due("30 2 * * *", "2026-03-28T03:00", berlin, 2) == ["2026-03-30T02:30+0200", "2026-03-31T02:30+0200"]
    assert due("30 2 * * *", "2026-10-24T03:00", berlin, 3) == [
        "2026-10-25T02:30+0200",
        "2026-10-25T02:30+0100",
        "2026-10-26T02:30+0100",
    ]
    assert due("0 0 * * *", "2026-03-28T12:00", berlin, 2) == ["2026-03-29T00:00+0100", "2026-03-30T00:00+0200"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("* * * *", "expected exactly 5 fields, found 4"),
        ("60 * * * *", "above maximum"),
        ("* * 0 * *", "below minimum"),
        ("5-1 * * * *", "beyond end of range"),
        ("*/0 * * * *", "step of range"),
        ("x * * * *", "failed to parse int"),
        ("1-2-3 * * * *", "too many hyphens"),
        ("1/2/3 * * * *", "too many slashes"),
        ("@reboot", "unrecognized descriptor"),
        ("@every 1d", "failed to parse duration"),
        ("", "empty spec string"),
    ],
)
def test_malformed(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cron.parse(text)


def test_against_a_plain_oracle() -> None:
    schedule = cron.parse("7,31 */5 2-20/3 * 1,4")
    begin = int(datetime(2026, 5, 1, tzinfo=UTC).timestamp())
    fits = []
    for minute in range(begin // 60, begin // 60 + 60 * 24 * 60):
        t = datetime.fromtimestamp(minute * 60, UTC)
        day = t.day in range(2, 21, 3) or t.isoweekday() % 7 in (1, 4)
        if t.minute in (7, 31) and t.hour % 5 == 0 and day:
            fits.append(float(minute * 60))
    at: float | None = begin - 1.0
    for want in fits:
        assert at is not None
        at = schedule.after(at)
        assert at == want


def test_a_zone_is_one_of_the_iana_names_and_no_path() -> None:
    assert str(cron.zone("America/New_York")) == "America/New_York"
    for bad in ("Nowhere/City", "../etc/passwd", ""):
        with pytest.raises(ValueError, match="unknown time zone"):
            cron.zone(bad)
