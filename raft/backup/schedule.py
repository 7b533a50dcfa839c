"""When a snapshot is due, what it is called, and which old ones go. Pure.

    sk8-20261127T001500Z-r4711.db        <cluster's name>-<UTC>-r<revision>.db

The time is in the name, so that a directory and a bucket need no clock of their own, and a copy keeps its date.
Invariant: the newest is never thrown away, however old it is.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_NAME = re.compile(r"(?P<cluster>.+)-(?P<time>\d{8}T\d{6}Z)-r(?P<revision>\d+)\.db")
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, order=True)
class Taken:
    """A snapshot that is kept somewhere; ``at_s`` since the epoch."""

    at_s: float
    revision: int
    name: str


def name_of(cluster: str, at_s: float, revision: int) -> str:
    return f"{cluster}-{dt.datetime.fromtimestamp(at_s, dt.UTC).strftime(_TIME)}-r{revision}.db"


def parse_name(cluster: str, name: str) -> Taken | None:
    """None if it is not a snapshot of this cluster."""
    found = _NAME.fullmatch(name)
    if found is None or found["cluster"] != cluster:
        return None
    try:
        at = dt.datetime.strptime(found["time"], _TIME).replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    return Taken(at.timestamp(), int(found["revision"]), name)


def of_cluster(cluster: str, names: Iterable[str]) -> list[Taken]:
    """Oldest first."""
    return sorted(taken for taken in (parse_name(cluster, name) for name in names) if taken is not None)


def due_in_s(taken: Sequence[Taken], now_s: float, interval_s: float) -> float:
    """Seconds until the next one; 0 if it is due. One with a time in the future (a clock was wrong) does not count."""
    past = [one.at_s for one in taken if one.at_s <= now_s]
    return max(0.0, max(past) + interval_s - now_s) if past else 0.0


def outdated(taken: Sequence[Taken], now_s: float, retention_s: float) -> list[Taken]:
    """Those older than ``retention_s`` (0: none are), but for the newest."""
    if not retention_s:
        return []
    return [one for one in sorted(taken)[:-1] if one.at_s < now_s - retention_s]
