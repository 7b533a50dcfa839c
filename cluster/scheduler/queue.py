"""Whose turn it is to be scheduled. Pure: time comes in as `now` (seconds).

        add              pop_batch            failed                   cluster changed
    -----------> active -----------> (deciding) -------> unschedulable ----------------> backoff
                   ^                                          |                             |
                   |                                          | 5 minutes at the latest     | due
                   +------------------------------------------+-----------------------------+

Invariant: a pod is in exactly one place. Order in `active`: priority, then arrival. Source: kube-scheduler's
PriorityQueue (podInitialBackoff 1 s, podMaxBackoff 10 s, leftovers flushed after 5 minutes).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count

INITIAL_BACKOFF_S = 1.0
MAX_BACKOFF_S = 10.0
FLUSH_AFTER_S = 300.0

Key = tuple[str, str]


@dataclass(slots=True)
class _Entry:
    key: Key
    priority: int
    arrival: int
    attempts: int = 0
    place: str = "active"
    since: float = 0.0


class SchedulingQueue:
    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._active: list[tuple[int, int, Key]] = []
        self._backoff: list[tuple[float, int, Key]] = []
        self._arrivals = count()
        self._moves = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: Key, priority: int, now: float) -> None:
        """A new pending pod; a known one that waits for the cluster to change is tried again at once (it changed)."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(key, priority, next(self._arrivals), since=now)
            self._activate(entry)
        elif entry.place == "unschedulable":
            entry.priority = priority
            self._activate(entry)

    def remove(self, key: Key) -> None:
        """The pod was bound or deleted; heaps drop it when they meet it."""
        self._entries.pop(key, None)

    def pop_batch(self, limit: int, now: float) -> list[Key]:
        """Up to `limit` pods to decide now, most important first; they are `deciding` until `failed` or `remove`."""
        self._flush(now)
        batch: list[Key] = []
        while self._active and len(batch) < limit:
            _, _, key = heapq.heappop(self._active)
            entry = self._entries.get(key)
            if entry is not None and entry.place == "active":
                entry.place = "deciding"
                entry.attempts += 1
                batch.append(key)
        return batch

    def cycle(self) -> int:
        """A stamp to pass to `failed`, taken before deciding: events since then are not slept through."""
        return self._moves

    def failed(self, key: Key, cycle: int, now: float) -> None:
        """No node fits. Waits for a change; if one came since `cycle`, for the back-off only."""
        entry = self._entries.get(key)
        if entry is None:
            return
        entry.since = now
        if self._moves != cycle:
            self._to_backoff(entry, now)
        else:
            entry.place = "unschedulable"

    def retry(self, key: Key, now: float) -> None:
        """A bind failed for a passing reason: try again after the back-off."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.since = now
            self._to_backoff(entry, now)

    def cluster_changed(self, now: float) -> None:
        """Something that may let a pod fit: a node, a claim, or room set free."""
        self._moves += 1
        for entry in self._entries.values():
            if entry.place == "unschedulable":
                self._to_backoff(entry, now)

    def next_due(self, now: float) -> float | None:
        """Seconds until a pod can become active by time alone; 0 if one is; None if none waits."""
        if any(self._is_at(key, "active") for _, _, key in self._active):
            return 0.0
        while self._backoff and not self._is_at(self._backoff[0][2], "backoff"):
            heapq.heappop(self._backoff)
        due = [max(self._backoff[0][0] - now, 0.0)] if self._backoff else []
        waiting = [e.since + FLUSH_AFTER_S - now for e in self._entries.values() if e.place == "unschedulable"]
        return min(due + waiting, default=None)

    def counts(self) -> dict[str, int]:
        """Pods per place, under the label values of scheduler_pending_pods."""
        counts = {"active": 0, "backoff": 0, "unschedulable": 0}
        for entry in self._entries.values():
            counts["active" if entry.place == "deciding" else entry.place] += 1
        return counts

    def _is_at(self, key: Key, place: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.place == place

    def _activate(self, entry: _Entry) -> None:
        entry.place = "active"
        heapq.heappush(self._active, (-entry.priority, entry.arrival, entry.key))

    def _to_backoff(self, entry: _Entry, now: float) -> None:
        delay = min(INITIAL_BACKOFF_S * 2 ** max(entry.attempts - 1, 0), MAX_BACKOFF_S)
        entry.place = "backoff"
        heapq.heappush(self._backoff, (max(entry.since + delay, now), entry.arrival, entry.key))

    def _flush(self, now: float) -> None:
        while self._backoff and self._backoff[0][0] <= now:
            _, _, key = heapq.heappop(self._backoff)
            entry = self._entries.get(key)
            if entry is not None and entry.place == "backoff":
                self._activate(entry)
        for entry in self._entries.values():
            if entry.place == "unschedulable" and entry.since + FLUSH_AFTER_S <= now:
                self._activate(entry)
