"""What a DaemonSet should do: which nodes get a pod, which pods go, how an update walks over the nodes.

Pure: (set, nodes, pods, hash of the wanted template, now) -> Plan. Source: kubernetes pkg/controller/daemon.

Invariants:
- without surge a node gets a new pod only when no pod object of this set is left on it, terminating or not;
- with surge two pods share a node only while the new one is not yet available (or the old one is not ready any more:
  then the old one goes);
- an update takes away at most maxUnavailable available pods; pods that are unavailable anyway are replaced at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.api.pods import is_ready, is_terminal, is_terminating
from cluster.controllers.daemonset_pods import Placement, oldest_first, placement, pod_hash, target_node
from cluster.controllers.percent import scaled
from cluster.controllers.replicaset_core import availability_due_s, is_available
from cluster.controllers.status import present
from cluster.machinery.client import Obj


@dataclass(slots=True)
class Plan:
    """`failed` pods are among `delete`; `create` are nodes' names."""

    create: list[str] = field(default_factory=list)
    delete: list[Obj] = field(default_factory=list)
    failed: list[Obj] = field(default_factory=list)
    succeeded: list[Obj] = field(default_factory=list)
    status: Obj = field(default_factory=dict)
    recheck_after_s: float | None = None


def decide(ds: Obj, nodes: Sequence[Obj], pods: Sequence[Obj], digest: str, now: float) -> Plan:
    """`pods`: all that the set owns; `digest`: the hash of the wanted revision."""
    places = {n["metadata"]["name"]: placement(ds, n) for n in nodes}
    on_node: dict[str, list[Obj]] = {name: [] for name in places}
    for pod in pods:
        if is_terminal(pod) and "deletionTimestamp" in pod["metadata"]:
            continue  # only finalizers or a slow kubelet hold it; its containers have ended
        on_node.setdefault(target_node(pod), []).append(pod)
    work = _Work(ds, places, on_node, digest, now)
    for name, there in on_node.items():
        work.manage(name, there)
    if (ds["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate":
        work.roll()
    work.plan.status = status_of(ds, places, on_node, digest, now)
    work.plan.recheck_after_s = availability_due_s(pods, work.min_ready_s, now)
    return work.plan


def bounds(ds: Obj, desired: int) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) as numbers of nodes; percentages round up; never both 0."""
    rolling = (ds["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    surge = scaled(rolling.get("maxSurge", 0), desired)
    unavailable = scaled(rolling.get("maxUnavailable", 1), desired)
    return surge, unavailable if surge or unavailable else 1


def surges(ds: Obj) -> bool:
    rolling = (ds["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    return scaled(rolling.get("maxSurge", 0), 100) > 0


class _Work:
    def __init__(
        self,
        ds: Obj,
        places: Mapping[str, Placement],
        on_node: Mapping[str, list[Obj]],
        digest: str,
        now: float,
    ) -> None:
        self.ds, self.places, self.on_node, self.digest, self.now = ds, places, on_node, digest, now
        self.min_ready_s = int(ds["spec"].get("minReadySeconds") or 0)
        self.surge = surges(ds)
        self.plan = Plan()
        self._going: set[str] = set()

    # ---- one pod on each node that should have one

    def manage(self, name: str, there: Sequence[Obj]) -> None:
        place = self.places.get(name)
        if place is None or not place.keep:
            self._delete(p for p in there if not is_terminating(p))
            return
        if place.run and not there:
            self.plan.create.append(name)
            return
        running = [p for p in there if not is_terminating(p) and not is_terminal(p)]
        for pod in there:
            if is_terminal(pod) and not is_terminating(pod):
                failed = (pod.get("status") or {}).get("phase") == "Failed"
                (self.plan.failed if failed else self.plan.succeeded).append(pod)
                self._delete([pod])
        if not self.surge:
            self._delete(oldest_first(running)[1:])
        elif not running and place.run:
            self.plan.create.append(name)
        else:
            self._at_most_two(oldest_first(running))

    def _at_most_two(self, running: Sequence[Obj]) -> None:
        """The oldest of the wanted template and the oldest of another; the latter only while it serves."""
        new = next((p for p in running if self._is_new(p)), None)
        old = next((p for p in running if not self._is_new(p)), None)
        self._delete(p for p in running if p is not new and p is not old)
        if new is not None and old is not None and (not is_ready(old) or self._available(new)):
            self._delete([old])

    # ---- an update

    def roll(self) -> None:
        desired = sum(1 for p in self.places.values() if p.run)
        max_surge, max_unavailable = bounds(self.ds, desired)
        if max_surge:
            self._roll_with_surge(max_surge)
        else:
            self._roll_by_deleting(max_unavailable)

    def _roll_by_deleting(self, max_unavailable: int) -> None:
        unavailable = 0
        broken: list[Obj] = []
        candidates: list[Obj] = []
        for name, there in self._rolled():
            found = self._pair(there)
            if found is None:
                unavailable += self.places[name].run
                continue
            new, old = found
            pod = new or old
            if pod is None or (new is not None and old is not None):
                unavailable += 1
            elif not self._available(pod):
                unavailable += 1
                if old is not None:
                    broken.append(old)
            elif old is not None:
                candidates.append(old)
        self._delete(broken + candidates[: max(max_unavailable - unavailable, 0)])

    def _roll_with_surge(self, max_surge: int) -> None:
        surged = 0
        free: list[str] = []
        candidates: list[str] = []
        for name, there in self._rolled():
            found = self._pair(there)
            if found is None:
                surged += 1
                continue
            new, old = found
            if old is None:
                continue
            if new is not None:
                surged += 0 if self._available(new) else 1
            elif not self._available(old):
                free.append(name)
            else:
                candidates.append(name)
        for name in free + candidates[: max(max_surge - surged, 0)]:
            if self.places[name].run and name not in self.plan.create:
                self.plan.create.append(name)

    def _rolled(self) -> list[tuple[str, list[Obj]]]:
        """Nodes that count: those that want a pod, and those that may keep one they have."""
        return [
            (name, there)
            for name, there in self.on_node.items()
            if (place := self.places.get(name)) is not None and (place.run or (place.keep and there))
        ]

    def _pair(self, there: Sequence[Obj]) -> tuple[Obj | None, Obj | None] | None:
        """(new, old); None when there are several of one sort, which `manage` clears up."""
        standing = [p for p in there if not is_terminating(p)]
        new = [p for p in standing if self._is_new(p)]
        old = [p for p in standing if not self._is_new(p)]
        if len(new) > 1 or len(old) > 1:
            return None
        return (new[0] if new else None), (old[0] if old else None)

    def _is_new(self, pod: Obj) -> bool:
        return pod_hash(pod) == self.digest

    def _available(self, pod: Obj) -> bool:
        return not is_terminal(pod) and is_available(pod, self.min_ready_s, self.now)

    def _delete(self, pods: Any) -> None:
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid not in self._going:
                self._going.add(uid)
                self.plan.delete.append(pod)


def status_of(
    ds: Obj,
    places: Mapping[str, Placement],
    on_node: Mapping[str, Sequence[Obj]],
    digest: str,
    now: float,
) -> Obj:
    min_ready = int(ds["spec"].get("minReadySeconds") or 0)
    desired = current = misscheduled = ready = available = updated = 0
    for name, place in places.items():
        there = on_node.get(name) or []
        if not place.run:
            misscheduled += bool(there)
            continue
        desired += 1
        if there:
            current += 1
            pod = oldest_first(there)[0]
            ready += is_ready(pod)
            available += is_available(pod, min_ready, now)
            updated += pod_hash(pod) == digest
    status: Obj = {
        "observedGeneration": int(ds["metadata"].get("generation") or 0),
        "currentNumberScheduled": current,
        "numberMisscheduled": misscheduled,
        "desiredNumberScheduled": desired,
        "numberReady": ready,
        "updatedNumberScheduled": updated,
        "numberAvailable": available,
        "numberUnavailable": desired - available,
    }
    old = ds.get("status") or {}
    for kept in ("collisionCount", "conditions"):
        if old.get(kept):
            status[kept] = old[kept]
    return present(status, *_ALWAYS)


_ALWAYS = (
    "currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady", "observedGeneration",
)  # fmt: skip
