"""How much history is kept when nobody says so: by time or by number of revisions. Pure; time is given.

Modes and defaults follow etcd's `--auto-compaction-mode` and `--auto-compaction-retention`. Every member observes, the
leader proposes; a new leader has seen the same history, so a change of leader neither stops compaction nor hurries it.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

BY_REVISION_S = 10.0


class Policy(Protocol):
    interval_s: float
    """How often to observe."""

    def observe(self, now_s: float, revision: int) -> int:
        """The newest revision is ``revision``: everything before the result may go; 0: nothing."""


class Periodic:
    """Keeps about the last ``retention_s``: what was the newest revision that long ago can still be read."""

    def __init__(self, retention_s: float) -> None:
        self.interval_s = max(0.5, retention_s / 10)
        self._retention_s = retention_s
        self._seen: deque[tuple[float, int]] = deque()
        self._due = 0

    def observe(self, now_s: float, revision: int) -> int:
        self._seen.append((now_s, revision))
        while self._seen and self._seen[0][0] <= now_s - self._retention_s:
            self._due = self._seen.popleft()[1]
        return self._due


class ByRevisions:
    """Keeps the last ``retention`` revisions."""

    interval_s = BY_REVISION_S

    def __init__(self, retention: int) -> None:
        self._retention = retention

    def observe(self, now_s: float, revision: int) -> int:
        return max(0, revision - self._retention)


def policy_of(retention_s: float, revisions: int) -> Policy | None:
    """By number if there is one, else by time; None: history is kept until somebody compacts it."""
    if revisions:
        return ByRevisions(revisions)
    return Periodic(retention_s) if retention_s else None
