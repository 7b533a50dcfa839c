"""Whose turn it is to be scheduled. Pure: time comes in as `now` (seconds).

        add              pop_batch            failed                   a change that may help
    -----------> active -----------> (deciding) -------> unschedulable ----------------> backoff
     gated <--/    ^                                          |                             |
                   |                                          | 5 minutes at the latest     | due
                   +------------------------------------------+-----------------------------+

What failed waits under the plugins that refused it. A change names the plugins it may satisfy; only pods refused by
one of those are looked at, a group of equal pods at once, and no more of them are moved than `hint` says may profit.
Looking is bounded (`_GROUPS_PER_LOOK` groups every `_LOOK_EVERY_S`), so ten thousand pods that cannot run cost the
others nothing: no call here is linear in the pods that wait.

Invariants: a pod is in exactly one place; `counts` are kept, not counted. Order in `active`: priority, then arrival.
Source: kube-scheduler's PriorityQueue (podInitialBackoff 1 s, podMaxBackoff 10 s, leftovers flushed after 5 minutes)
and its queueing hints (KEP-4247).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import count, islice

INITIAL_BACKOFF_S = 1.0
MAX_BACKOFF_S = 10.0
FLUSH_AFTER_S = 300.0
_LOOK_EVERY_S = 0.1
_GROUPS_PER_LOOK = 200
ANY = "*"
"""As a changed plugin: all of them. As the plugin that refused: whatever changes may help."""

Key = tuple[str, str]
Hint = Callable[[Hashable, frozenset[str]], "int | None"]
"""(group, plugins that refused it) -> how many of the group may profit from what changed; None: all."""


@dataclass(slots=True)
class _Entry:
    key: Key
    priority: int
    arrival: int
    attempts: int = 0
    place: str = ""
    since: float = 0.0
    group: Hashable = None
    patient: bool = False


@dataclass(slots=True)
class _Group:
    plugins: frozenset[str]
    keys: dict[Key, None]


class SchedulingQueue:
    def __init__(
        self,
        hint: Hint | None = None,
        *,
        initial_backoff_s: float = INITIAL_BACKOFF_S,
        max_backoff_s: float = MAX_BACKOFF_S,
    ) -> None:
        self._hint = hint
        self._initial_backoff_s = initial_backoff_s
        self._max_backoff_s = max_backoff_s
        self._entries: dict[Key, _Entry] = {}
        self._active: list[tuple[int, int, Key]] = []
        self._backoff: list[tuple[float, int, Key]] = []
        self._unschedulable: dict[Key, None] = {}
        self._groups: dict[Hashable, _Group] = {}
        self._by_plugin: dict[str, dict[Hashable, None]] = {}
        self._to_look: dict[Hashable, None] = {}
        self._dirty: set[str] = set()
        self._refused_by: dict[str, int] = {}
        self._next_look = 0.0
        self._changed_at: dict[str, int] = {}
        self._counts = {"active": 0, "backoff": 0, "unschedulable": 0, "gated": 0, "deciding": 0}
        self._arrivals = count()
        self._moves = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: Key, priority: int, now: float, *, gated: bool = False) -> None:
        """A new pending pod; a known one that waits for the cluster to change is tried again at once (it changed)."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(key, priority, next(self._arrivals), since=now)
        elif entry.place not in ("unschedulable", "gated"):
            return
        entry.priority = priority
        if gated:
            self._put(entry, "gated")
        else:
            self._activate(entry)

    def remove(self, key: Key) -> None:
        """The pod was bound or deleted; heaps drop it when they meet it. What it did not take, its like may want."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._put(entry, "")
        if entry.group in self._groups:
            self._to_look[entry.group] = None

    def pop_batch(self, limit: int, now: float) -> list[Key]:
        """Up to `limit` pods to decide now, most important first; they are `deciding` until `failed` or `remove`."""
        self._flush(now)
        batch: list[Key] = []
        while self._active and len(batch) < limit:
            _, _, key = heapq.heappop(self._active)
            entry = self._entries.get(key)
            if entry is not None and entry.place == "active":
                self._put(entry, "deciding")
                entry.attempts += 1
                batch.append(key)
        return batch

    def take(self, key: Key) -> bool:
        """Decide a waiting pod now, out of turn, with others of its group; False when it is gated or not there."""
        entry = self._entries.get(key)
        if entry is None or entry.place not in ("active", "backoff", "unschedulable"):
            return False
        self._put(entry, "deciding")
        entry.attempts += 1
        return True

    def attempts(self, key: Key) -> int:
        entry = self._entries.get(key)
        return entry.attempts if entry else 0

    def cycle(self) -> int:
        """A stamp to pass to `failed`, taken before deciding: changes since then are not slept through."""
        return self._moves

    def failed(
        self,
        key: Key,
        cycle: int,
        now: float,
        plugins: frozenset[str] = frozenset((ANY,)),
        group: Hashable = None,
        *,
        patient: bool = False,
    ) -> None:
        """No node fits. Waits for a change; if one came since `cycle`, for the back-off only.

        `patient`: it did not fail, it waits for something on its way; then there is no back-off either.
        """
        entry = self._entries.get(key)
        if entry is None:
            return
        entry.since = now
        entry.patient = patient
        entry.group = key if group is None else (group, plugins)
        asked = self._changed_at if ANY in plugins else (*plugins, ANY)
        if any(self._changed_at.get(p, 0) > cycle for p in asked):
            self._to_backoff(entry, now)
            return
        self._put(entry, "unschedulable")
        known = self._groups.get(entry.group)
        if known is None:
            known = self._groups[entry.group] = _Group(plugins, {})
            for plugin in plugins:
                self._by_plugin.setdefault(plugin, {})[entry.group] = None
        known.keys[key] = None
        for plugin in plugins:
            self._refused_by[plugin] = self._refused_by.get(plugin, 0) + 1

    def release_deciding(self) -> None:
        """Deciding was broken off (leadership lost): those pods are active again."""
        for entry in self._entries.values():
            if entry.place == "deciding":
                self._activate(entry)

    def retry(self, key: Key, now: float) -> None:
        """A bind failed for a passing reason: try again after the back-off."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.since = now
            self._to_backoff(entry, now)

    def again(self, key: Key) -> None:
        """What was decided came to nothing, for a reason that is not the pod's: active at once, not an attempt."""
        entry = self._entries.get(key)
        if entry is not None and entry.place in ("deciding", "backoff"):
            entry.attempts -= 1
            self._activate(entry)

    def cluster_changed(self, now: float, plugins: frozenset[str] = frozenset((ANY,))) -> None:
        """Something that may satisfy these plugins: a node, a claim, or room set free. O(1)."""
        self._moves += 1
        for plugin in plugins:
            self._changed_at[plugin] = self._moves
        if self._groups:
            self._dirty.update(plugins)

    def next_due(self, now: float) -> float | None:
        """Seconds until a pod can become active by time alone; 0 if one is; None if none waits."""
        while self._active and not self._is_at(self._active[0][2], "active"):
            heapq.heappop(self._active)
        if self._active:
            return 0.0
        while self._backoff and not self._is_at(self._backoff[0][2], "backoff"):
            heapq.heappop(self._backoff)
        due = [max(self._backoff[0][0] - now, 0.0)] if self._backoff else []
        if self._unschedulable:
            oldest = self._entries[next(iter(self._unschedulable))]
            due.append(max(oldest.since + FLUSH_AFTER_S - now, 0.0))
        if self._to_look or self._dirty:
            due.append(max(self._next_look - now, 0.0))
        return min(due, default=None)

    def counts(self) -> dict[str, int]:
        """Pods per place, under the label values of scheduler_pending_pods."""
        counts = dict(self._counts)
        counts["active"] += counts.pop("deciding")
        return counts

    def refused_by(self) -> dict[str, int]:
        """Waiting pods per plugin that refused them."""
        return self._refused_by

    def _is_at(self, key: Key, place: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.place == place

    def _put(self, entry: _Entry, place: str) -> None:
        """The one way an entry changes its place ("" is none)."""
        if entry.place:
            self._counts[entry.place] -= 1
        if entry.place == "unschedulable":
            del self._unschedulable[entry.key]
            self._leave_group(entry)
        entry.place = place
        if place:
            self._counts[place] += 1
        if place == "unschedulable":
            self._unschedulable[entry.key] = None

    def _leave_group(self, entry: _Entry) -> None:
        group = self._groups[entry.group]
        del group.keys[entry.key]
        for plugin in group.plugins:
            self._refused_by[plugin] -= 1
        if group.keys:
            return
        del self._groups[entry.group]
        self._to_look.pop(entry.group, None)
        for plugin in group.plugins:
            self._by_plugin[plugin].pop(entry.group, None)

    def _activate(self, entry: _Entry) -> None:
        self._put(entry, "active")
        heapq.heappush(self._active, (-entry.priority, entry.arrival, entry.key))

    def _to_backoff(self, entry: _Entry, now: float) -> None:
        if entry.patient:
            entry.patient = False
            entry.attempts -= 1
            self._activate(entry)
            return
        delay = min(self._initial_backoff_s * 2 ** min(max(entry.attempts - 1, 0), 10), self._max_backoff_s)
        self._put(entry, "backoff")
        heapq.heappush(self._backoff, (max(entry.since + delay, now), entry.arrival, entry.key))

    def _look(self, now: float) -> None:
        """Ask of some groups whether what changed helps them."""
        self._next_look = now + _LOOK_EVERY_S
        if ANY in self._dirty:
            self._to_look.update(dict.fromkeys(self._groups))
        elif self._dirty:
            for plugin in sorted(self._dirty | {ANY}):
                self._to_look.update(self._by_plugin.get(plugin, {}))
        self._dirty.clear()
        for name in list(islice(self._to_look, _GROUPS_PER_LOOK)):
            del self._to_look[name]
            group = self._groups.get(name)
            if group is None:
                continue
            may = None if self._hint is None else self._hint(name, group.plugins)
            for key in list(group.keys if may is None else islice(group.keys, may)):
                self._to_backoff(self._entries[key], now)

    def _flush(self, now: float) -> None:
        if (self._to_look or self._dirty) and now >= self._next_look:
            self._look(now)
        while self._backoff and self._backoff[0][0] <= now:
            _, _, key = heapq.heappop(self._backoff)
            entry = self._entries.get(key)
            if entry is not None and entry.place == "backoff":
                self._activate(entry)
        while self._unschedulable:
            oldest = self._entries[next(iter(self._unschedulable))]
            if oldest.since + FLUSH_AFTER_S > now:
                break
            self._activate(oldest)
