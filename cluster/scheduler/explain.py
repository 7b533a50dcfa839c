"""What a decision looked at: per node which filters refused it, or what each score gave. Pure: time comes in.

`Decisions` remembers the last of them for `sk8 explain`. Looking costs about as much as deciding, so a share of the
time is set aside for it (`_SHARE`): single pods are always explained, in a burst only some are, and of the others the
outcome is known. What is kept is bounded in number and in bytes; the oldest goes first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.config import Profile
from cluster.scheduler.decide import Pending, Placement, Unschedulable, diagnose
from cluster.scheduler.diagnosis import Refusals
from cluster.scheduler.nominated import Nominations
from cluster.scheduler.scores import explain as score_parts

_SHARE = 0.02
_BURST_S = 0.1
_PER_POD = 4
_PODS = 10_000
_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of `nodes[i]`: `words[codes[i]]` refused it, or when that is empty, `scores[plugin][i]` are its scores (0 to 100,
    before weights)."""

    nodes: tuple[str, ...]
    codes: NDArray[np.int32]
    words: tuple[Refusals, ...]
    weights: tuple[tuple[str, int], ...]
    scores: dict[str, NDArray[np.float32]]

    @property
    def nbytes(self) -> int:
        return int(self.codes.nbytes + sum(s.nbytes for s in self.scores.values()) + 500)

    def to_dict(self) -> dict[str, Any]:
        """The weights, and one entry a node: what refused it, or its scores and their weighted total."""
        made: list[dict[str, Any]] = []
        for i, (name, code) in enumerate(zip(self.nodes, self.codes.tolist(), strict=True)):
            refused = [{"plugin": plugin, "reason": reason} for plugin, reason in self.words[code]]
            one: dict[str, Any] = {"name": name, "refused": refused}
            if not refused:
                one["scores"] = {plugin: float(scores[i]) for plugin, scores in self.scores.items()}
                one["total"] = sum(one["scores"][plugin] * weight for plugin, weight in self.weights)
            made.append(one)
        return {"weights": dict(self.weights), "nodes": made}


def explained(columns: NodeColumns, pod: Pending, profile: Profile, nominated: Nominations | None) -> Explanation:
    """What a decision about the pod would see now."""
    rows, names = columns.memo(("alive",), lambda: _alive(columns))
    weights = tuple((name, weight) for name, weight in profile.weights if weight)
    if pod.refusal or pod.shape.unsupported:
        plugin = "VolumeBinding" if pod.refusal else "DynamicResources"
        reason = pod.refusal.partition(": ")[2].rstrip(".") or pod.shape.unsupported
        words: tuple[Refusals, ...] = ((), ((plugin, reason),))
        return Explanation(names, np.ones(len(rows), dtype=np.int32), words, weights, {})
    verdicts = diagnose(columns, pod, profile, nominated, by_row=True).verdicts
    if verdicts is None:
        raise AssertionError("diagnose(by_row=True) makes verdicts")
    codes = verdicts.codes[rows]
    possible = columns.alive & (verdicts.codes == 0)
    parts = score_parts(columns, pod.shape, profile, possible) if possible.any() else {}
    scores = {plugin: part[rows].astype(np.float32) for plugin, part in parts.items()}
    return Explanation(names, codes, tuple(verdicts.words), weights, scores)


def _alive(columns: NodeColumns) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    rows = np.flatnonzero(columns.alive)
    return rows, tuple(columns.names[row] for row in rows)


@dataclass(slots=True)
class _Kept:
    """An explanation that several decisions share, until room is needed. `alike`: pods it was made for."""

    explanation: Explanation | None
    alike: int


@dataclass(frozen=True, slots=True)
class Decision:
    """`at` in wall seconds; `node` is empty for a refusal, `message` for a placement."""

    at: float
    uid: str
    profile: str
    node: str
    message: str
    kept: _Kept | None

    def to_dict(self) -> dict[str, Any]:
        made: dict[str, Any] = {"at": self.at, "uid": self.uid, "schedulerName": self.profile}
        made |= {"node": self.node, "message": self.message, "nodes": None, "alike": 1}
        if self.kept is not None and self.kept.explanation is not None:
            made |= self.kept.explanation.to_dict() | {"alike": self.kept.alike}
        return made


@dataclass(slots=True)
class Decisions:
    """`clock` measures what looking costs (seconds), `wall` dates the decisions."""

    clock: Callable[[], float]
    wall: Callable[[], float]
    max_bytes: int = _BYTES
    _saved_s: float = _BURST_S
    _seen_at: float = 0.0
    _bytes: int = 0
    _by_pod: OrderedDict[tuple[str, str], deque[Decision]] = field(default_factory=OrderedDict)
    _kept: deque[_Kept] = field(default_factory=deque)
    _coming: dict[str, _Kept] = field(default_factory=dict)

    def before(
        self, columns: NodeColumns, pods: Sequence[Pending], profile: Profile, nominated: Nominations | None
    ) -> None:
        """About to decide these equal pods: look first, if there is time for it."""
        now = self.clock()
        self._saved_s = min(_BURST_S, self._saved_s + (now - self._seen_at) * _SHARE)
        self._seen_at = now
        if self._saved_s <= 0:
            for pod in pods:
                self._coming.pop(pod.uid, None)
            return
        kept = _Kept(explained(columns, pods[0], profile, nominated), len(pods))
        self._saved_s -= self.clock() - now
        self._coming |= dict.fromkeys((pod.uid for pod in pods), kept)

    def after(self, outcomes: Sequence[Placement | Unschedulable], profile: Profile) -> None:
        """These were decided."""
        at = self.wall()
        for outcome in outcomes:
            node = outcome.node if isinstance(outcome, Placement) else ""
            message = outcome.message if isinstance(outcome, Unschedulable) else ""
            kept = self._coming.pop(outcome.pod.uid, None)
            self._keep(kept)
            decision = Decision(at, outcome.pod.uid, profile.scheduler_name, node, message, kept)
            known = self._by_pod.setdefault(outcome.pod.key, deque(maxlen=_PER_POD))
            known.append(decision)
            self._by_pod.move_to_end(outcome.pod.key)
        self._coming.clear()
        while len(self._by_pod) > _PODS:
            self._by_pod.popitem(last=False)

    def of(self, namespace: str, name: str) -> list[Decision]:
        """What is known about a pod of that name, oldest first."""
        return list(self._by_pod.get((namespace, name), ()))

    def _keep(self, kept: _Kept | None) -> None:
        if kept is None or kept.explanation is None or (self._kept and self._kept[-1] is kept):
            return
        self._kept.append(kept)
        self._bytes += kept.explanation.nbytes
        while self._bytes > self.max_bytes:
            oldest = self._kept.popleft()
            if oldest.explanation is not None:
                self._bytes -= oldest.explanation.nbytes
                oldest.explanation = None
