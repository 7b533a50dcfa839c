"""Node-pressure eviction: what of the machine is running short, and for how long.

Pure. `Eviction.look(observations, now)` is one pass: it says which conditions the Node has and which resource has to be
reclaimed now, if any; who is evicted for it is ranked in eviction_rank.py. Rules as Kubernetes' eviction manager
("Node-pressure Eviction"; KEP-0 of sig-node):
- a hard threshold counts at once, a soft one after its grace period;
- a threshold that was met stays met until the observed value exceeds it by its minimum reclaim;
- a condition stays true for the transition period after its last threshold was met;
- memory is reclaimed first; one pod a pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.api.quantity import parse_quantity, units

CONDITION_OF = {
    "memory.available": "MemoryPressure",
    "nodefs.available": "DiskPressure",
    "nodefs.inodesFree": "DiskPressure",
    "imagefs.available": "DiskPressure",
    "imagefs.inodesFree": "DiskPressure",
    "pid.available": "PIDPressure",
}
RESOURCE_OF = {
    "memory.available": "memory",
    "nodefs.available": "ephemeral-storage",
    "nodefs.inodesFree": "inodes",
    "imagefs.available": "ephemeral-storage",
    "imagefs.inodesFree": "inodes",
    "pid.available": "pids",
}
SIGNALS = tuple(CONDITION_OF)  # in the order in which they are reclaimed: memory first


@dataclass(frozen=True, slots=True)
class Threshold:
    """`value` and `min_reclaim` are quantities, or percentages of the capacity."""

    signal: str
    value: str
    grace_s: float = 0.0
    min_reclaim: str = ""

    @property
    def hard(self) -> bool:
        return self.grace_s == 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """In bytes, inodes or processes."""

    available: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Reclaim:
    """The threshold to act on now, with what was observed."""

    threshold: Threshold
    observed: Observation

    @property
    def resource(self) -> str:
        return RESOURCE_OF[self.threshold.signal]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`conditions`: the pressures that hold, sorted. `reclaim`: what has to be freed now."""

    conditions: tuple[str, ...]
    reclaim: Reclaim | None


def amount_of(value: str, capacity: int) -> int:
    """A threshold's value in units; a percentage is of `capacity`. Raises ValueError."""
    if value.endswith("%"):
        share = float(value[:-1])
        if not 0 <= share <= 100:
            raise ValueError(f"{value!r} must be between 0% and 100%")
        return int(capacity * share / 100)
    if parse_quantity(value) < 0:
        raise ValueError(f"{value!r} must not be negative")
    return units(value)


def thresholds(
    hard: Mapping[str, str],
    soft: Mapping[str, str],
    soft_grace_s: Mapping[str, float],
    min_reclaim: Mapping[str, str],
) -> tuple[Threshold, ...]:
    """From --eviction-hard, --eviction-soft, --eviction-soft-grace-period, --eviction-minimum-reclaim.

    A value of 0% or 100% switches a signal off, as in Kubernetes. Raises ValueError naming what is wrong.
    """
    for name, table in (("evictionHard", hard), ("evictionSoft", soft), ("evictionMinimumReclaim", min_reclaim)):
        for signal, value in table.items():
            if signal not in CONDITION_OF:
                raise ValueError(f"{name}: unknown signal {signal!r}; known are {', '.join(SIGNALS)}")
            amount_of(value, 0)
    for signal in soft:
        if soft_grace_s.get(signal, 0.0) <= 0:
            raise ValueError(f"evictionSoft: {signal}: evictionSoftGracePeriod must name how long it may hold")
    made = [Threshold(s, v, 0.0, min_reclaim.get(s, "")) for s, v in hard.items()]
    made += [Threshold(s, v, soft_grace_s[s], min_reclaim.get(s, "")) for s, v in soft.items()]
    kept = [t for t in made if t.value not in ("0%", "100%")]
    return tuple(sorted(kept, key=lambda t: (SIGNALS.index(t.signal), t.grace_s)))


class Eviction:
    """What was short, since when. `look` is called once a pass."""

    def __init__(self, limits: tuple[Threshold, ...], transition_s: float) -> None:
        self._limits = limits
        self._transition_s = transition_s
        self._met_since: dict[Threshold, float] = {}
        self._condition_at: dict[str, float] = {}

    def look(self, observed: Mapping[str, Observation], now: float) -> Verdict:
        met = [t for t in self._limits if t.signal in observed and self._is_met(t, observed[t.signal])]
        self._met_since = {t: self._met_since.get(t, now) for t in met}
        for threshold in met:
            self._condition_at[CONDITION_OF[threshold.signal]] = now
        due = [t for t in met if now - self._met_since[t] >= t.grace_s]
        reclaim = Reclaim(due[0], observed[due[0].signal]) if due else None
        return Verdict(tuple(sorted(self._holding(met, now))), reclaim)

    def _is_met(self, threshold: Threshold, seen: Observation) -> bool:
        limit = amount_of(threshold.value, seen.capacity)
        if threshold in self._met_since and threshold.min_reclaim:
            limit += amount_of(threshold.min_reclaim, seen.capacity)
        return seen.available < limit

    def _holding(self, met: list[Threshold], now: float) -> set[str]:
        now_met = {CONDITION_OF[t.signal] for t in met}
        recent = {c for c, at in self._condition_at.items() if now - at < self._transition_s}
        return now_met | recent
