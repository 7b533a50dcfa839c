"""Cron schedules as CronJobs write them, and when they are due next.

Pure: times are seconds since the epoch, the zone is given. Source: github.com/robfig/cron/v3 `ParseStandard` (five
fields, names, steps, `?`, the @ descriptors) and its rules around clock changes: a time of day that does not exist that
day is skipped, one that exists twice is due twice.

Invariant: `after(t)` is always later than `t`; None when nothing is due within five years.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DESCRIPTORS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|ms|s|m|h)")
_HORIZON_S = 5 * 366 * 86400


@dataclass(frozen=True, slots=True)
class _Field:
    low: int
    high: int
    names: tuple[str, ...] = ()
    first: int = 0


_FIELDS = (_Field(0, 59), _Field(0, 23), _Field(1, 31), _Field(1, 12, _MONTHS, 1), _Field(0, 6, _DAYS))


@dataclass(frozen=True, slots=True)
class Schedule:
    """`every_s` is set for `@every <duration>`; the sets are empty then. A day counts if its number and its weekday
    fit, or either of them when both are restricted."""

    minutes: frozenset[int] = frozenset()
    hours: frozenset[int] = frozenset()
    days: frozenset[int] = frozenset()
    months: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    any_day: bool = True
    any_weekday: bool = True
    every_s: float = 0.0

    def after(self, t: float, zone: tzinfo = UTC) -> float | None:
        """The first due time later than `t`."""
        if self.every_s:
            return int(t) + self.every_s
        at = (int(t) // 60 + 1) * 60
        end = t + _HORIZON_S
        while at <= end:
            local = datetime.fromtimestamp(at, zone)
            if local.month not in self.months:
                year, month = divmod(local.year * 12 + local.month, 12)
                at = _begin(datetime(year, month + 1, 1, tzinfo=zone), at)
            elif not self._on_day(local):
                at = _begin(datetime(local.year, local.month, local.day, tzinfo=zone) + timedelta(days=1), at)
            elif local.hour not in self.hours:
                at += 3600 - local.minute * 60 - local.second
            elif local.minute not in self.minutes:
                at += 60 - local.second
            else:
                return float(at)
        return None

    def _on_day(self, local: datetime) -> bool:
        day, weekday = local.day in self.days, (local.weekday() + 1) % 7 in self.weekdays
        return (day and weekday) if self.any_day or self.any_weekday else (day or weekday)


def _begin(local: datetime, after: int) -> int:
    """The epoch second of a local midnight; progress even where the clock's change makes it ambiguous."""
    return max(int(local.timestamp()), after + 60)


@lru_cache(maxsize=1024)
def parse(text: str) -> Schedule:
    """Raises ValueError that says what is wrong."""
    if not text.strip():
        raise ValueError("empty spec string")
    if text.startswith("@every "):
        return Schedule(every_s=_duration(text.removeprefix("@every "), text))
    if text.startswith("@"):
        if text not in _DESCRIPTORS:
            raise ValueError(f"unrecognized descriptor: {text}")
        return parse(_DESCRIPTORS[text])
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]")
    minutes, hours, days, months, weekdays = (_field(t, f) for t, f in zip(fields, _FIELDS, strict=True))
    return Schedule(minutes[0], hours[0], days[0], months[0], weekdays[0], days[1], weekdays[1])


@lru_cache(maxsize=256)
def zone(name: str) -> tzinfo:
    """An IANA zone; raises ValueError with Go's words."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as err:
        raise ValueError(f"unknown time zone {name}") from err


def _field(text: str, field: _Field) -> tuple[frozenset[int], bool]:
    """The values and whether the field is a star."""
    values: set[int] = set()
    star = False
    for part in text.split(","):
        found, is_star = _range(part, field)
        values |= found
        star = star or is_star
    return frozenset(values), star


def _range(text: str, field: _Field) -> tuple[set[int], bool]:
    span, *steps = text.split("/")
    low_high = span.split("-")
    star = False
    if low_high[0] in ("*", "?") and len(low_high) == 1:
        low, high, star = field.low, field.high, True
    elif len(low_high) <= 2:
        low = _number(low_high[0], field)
        high = _number(low_high[1], field) if len(low_high) == 2 else low
    else:
        raise ValueError(f"too many hyphens: {text}")
    step = 1
    if len(steps) == 1:
        step = _plain(steps[0])
        if len(low_high) == 1 and not star:
            high = field.high
        star = star and step <= 1
    elif steps:
        raise ValueError(f"too many slashes: {text}")
    if low < field.low:
        raise ValueError(f"beginning of range ({low}) below minimum ({field.low}): {text}")
    if high > field.high:
        raise ValueError(f"end of range ({high}) above maximum ({field.high}): {text}")
    if low > high:
        raise ValueError(f"beginning of range ({low}) beyond end of range ({high}): {text}")
    if step == 0:
        raise ValueError(f"step of range should be a positive number: {text}")
    return set(range(low, high + 1, step)), star


def _number(text: str, field: _Field) -> int:
    lower = text.lower()
    return field.names.index(lower) + field.first if lower in field.names else _plain(text)


def _plain(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text, re.ASCII):
        raise ValueError(f"failed to parse int from {text}: strconv.Atoi: parsing {_quoted(text)}: invalid syntax")
    return int(text)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _duration(text: str, spec: str) -> float:
    if not text or _DURATION.sub("", text):
        raise ValueError(f"failed to parse duration {spec}: time: invalid duration {_quoted(text)}")
    seconds = sum(float(n) * _UNITS[unit] for n, unit in _DURATION.findall(text))
    return float(max(int(seconds), 1))
