"""What a StatefulSet should do next about its pods and their claims.

Pure: (set, pods, claims, revisions, now) -> Plan. Source: kubernetes
pkg/controller/statefulset/stateful_set_control.go.

    OrderedReady: one step at a time. Lowest ordinal first up, highest first down; every step waits until all pods below
    are running, ready and available (minReadySeconds).
    Parallel: all missing are made, all surplus deleted at once, whatever holds up another. Rolling updates go one by
    one either way, unless maxUnavailable says otherwise.

Invariants:
- at most one pod per identity: an ordinal gets a pod only when no object of that name exists, terminating or not;
- order of precedence: make and mend what is wanted, then scale down, then update;
- an update deletes pods from the highest ordinal down to the partition and waits for each replacement to be healthy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.api.pods import is_ready, is_terminal, is_terminating
from cluster.controllers.percent import scaled
from cluster.controllers.replicaset_core import availability_due_s, is_available
from cluster.controllers.revisions_core import template_of
from cluster.controllers.statefulset_identity import (
    claim_names,
    claim_owners,
    identify,
    identity_matches,
    in_range,
    new_claims,
    new_pod,
    ordinal,
    pod_revision,
    replicas,
    stale_claim,
    start,
)
from cluster.controllers.status import present
from cluster.machinery.client import Obj, clone


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Make `claims` (those missing), then the pod."""

    pod: Obj
    claims: tuple[Obj, ...]


@dataclass(frozen=True, slots=True)
class CreateClaims:
    """A pod that is there lacks claims."""

    pod: Obj
    claims: tuple[Obj, ...]


@dataclass(frozen=True, slots=True)
class DeletePod:
    """`failed`: it ended and is made anew."""

    pod: Obj
    failed: bool = False


@dataclass(frozen=True, slots=True)
class UpdatePod:
    pod: Obj


@dataclass(frozen=True, slots=True)
class SetClaimOwners:
    claim: Obj
    refs: tuple[Obj, ...]


Action = CreatePod | CreateClaims | DeletePod | UpdatePod | SetClaimOwners


@dataclass(frozen=True, slots=True)
class Plan:
    """`actions` in order; one that fails ends the round. `recheck_after_s` until a ready pod becomes available."""

    actions: tuple[Action, ...]
    status: Obj
    recheck_after_s: float | None


def decide(
    set_: Obj,
    pods: Sequence[Obj],
    claims: Mapping[str, Obj],
    current: Obj,
    update: Obj,
    now: float,
) -> Plan:
    """`pods`: all that the set owns. `claims`: the namespace's by name. `current` and `update`: ControllerRevisions."""
    world = _World(set_, pods, claims, current, update, now)
    if "deletionTimestamp" not in set_["metadata"]:
        world.steps()
    min_ready = world.min_ready_s
    return Plan(
        tuple(world.actions), status_of(set_, pods, current, update, now), availability_due_s(pods, min_ready, now)
    )


class _World:
    def __init__(
        self, set_: Obj, pods: Sequence[Obj], claims: Mapping[str, Obj], current: Obj, update: Obj, now: float
    ) -> None:
        self.set, self.claims, self.now = set_, claims, now
        self.current, self.update = current, update
        self.min_ready_s = int(set_["spec"].get("minReadySeconds") or 0)
        self.ordered = set_["spec"].get("podManagementPolicy") != "Parallel"
        first = start(set_)
        self.wanted: list[Obj | None] = [None] * replicas(set_)
        self.condemned: list[Obj] = []
        for pod in pods:
            index = ordinal(pod)
            if in_range(set_, index):
                self.wanted[index - first] = pod
            else:
                self.condemned.append(pod)
        self.condemned.sort(key=ordinal, reverse=True)
        self.actions: list[Action] = []

    def steps(self) -> None:
        """Fills `actions`; each part says whether the next may act too."""
        if not self._keep_all():
            return
        for pod in self.condemned:
            self._own_claims(pod)
        for i in range(len(self.condemned)):
            if not self._condemn(i):
                return
        if (self.set["spec"].get("updateStrategy") or {}).get("type") != "OnDelete":
            self._roll()

    # ---- the pods that are wanted

    def _keep_all(self) -> bool:
        """In order, one that has to be waited for ends the round; otherwise nobody waits for anybody."""
        for i, pod in enumerate(self.wanted):
            settled = self._keep(start(self.set) + i, pod)
            if self.ordered and not settled:
                return False
        return True

    def _keep(self, index: int, pod: Obj | None) -> bool:
        """One ordinal: False when those that come in order after it have to wait."""
        if pod is None:
            self._create(index)
            return False
        if is_terminal(pod):
            if not is_terminating(pod):
                self.actions.append(DeletePod(pod, failed=True))
            return False
        if (pod.get("status") or {}).get("phase", "Pending") == "Pending":
            missing = self._missing_claims(index)
            if missing:
                self.actions.append(CreateClaims(pod, tuple(missing)))
        if self.ordered and (is_terminating(pod) or not self._available(pod)):
            return False
        if not identity_matches(self.set, pod):
            changed = clone(pod)
            identify(self.set, changed)
            self.actions.append(UpdatePod(changed))
        self._own_claims(pod)
        return True

    def _create(self, index: int) -> None:
        revision = self.current if self._needs_current(index) else self.update
        pod = new_pod(self.set, template_of(revision), revision["metadata"]["name"], index)
        name = pod["metadata"]["name"]
        present = [self.claims[n] for n in claim_names(self.set, index) if n in self.claims]
        if any(stale_claim(claim, name) for claim in present):
            return  # its deletion is under way; the claim's end wakes us
        self.actions.append(CreatePod(pod, tuple(self._missing_claims(index))))

    def _needs_current(self, index: int) -> bool:
        """Below the partition a pod stays at the old revision."""
        strategy = self.set["spec"].get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete":
            return False
        return index < start(self.set) + self._partition()

    def _partition(self) -> int:
        rolling = (self.set["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
        return int(rolling.get("partition") or 0)

    def _missing_claims(self, index: int) -> list[Obj]:
        missing = [c for c in new_claims(self.set, index) if c["metadata"]["name"] not in self.claims]
        for claim in missing:
            owner = {"metadata": {"name": f"{self.set['metadata']['name']}-{index}"}}
            refs = claim_owners(self.set, claim, owner)
            if refs:
                claim["metadata"]["ownerReferences"] = refs
        return missing

    def _own_claims(self, pod: Obj) -> None:
        for name in claim_names(self.set, ordinal(pod)):
            claim = self.claims.get(name)
            if claim is None or "deletionTimestamp" in claim["metadata"]:
                continue
            refs = claim_owners(self.set, claim, pod)
            if refs is not None:
                self.actions.append(SetClaimOwners(claim, tuple(refs)))

    # ---- the pods that are too many

    def _condemn(self, i: int) -> bool:
        pod = self.condemned[i]
        if is_terminating(pod):
            return not self.ordered
        if self.ordered and not self._available(pod) and pod is not self._first_unhealthy():
            return False
        self.actions.append(DeletePod(pod))
        return not self.ordered

    def _first_unhealthy(self) -> Obj | None:
        """The unhealthy pod with the lowest ordinal, of those that are wanted before the others: it may go although it
        is not ready."""
        everyone = [*(p for p in self.wanted if p is not None), *reversed(self.condemned)]
        return next((p for p in everyone if is_terminating(p) or not self._available(p)), None)

    # ---- the pods of another template

    def _roll(self) -> None:
        """From the highest ordinal down to the partition, with at most maxUnavailable pods away at once."""
        name, room = self.update["metadata"]["name"], self._max_unavailable()
        for i in range(len(self.wanted) - 1, self._partition() - 1, -1):
            pod = self.wanted[i]
            if pod is None or is_terminating(pod) or is_terminal(pod):
                room -= 1  # away, and made anew as it is
            elif pod_revision(pod) != name:
                self.actions.append(DeletePod(pod))
                room -= 1
            elif not self._available(pod):
                room -= 1
            if room <= 0:
                return

    def _max_unavailable(self) -> int:
        """spec.updateStrategy.rollingUpdate.maxUnavailable (KEP-961): percentages round up, never below 1."""
        value = ((self.set["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}).get("maxUnavailable", 1)
        return max(scaled(value, replicas(self.set)), 1)

    def _available(self, pod: Obj) -> bool:
        return _running(pod) and is_available(pod, self.min_ready_s, self.now)


def _running(pod: Obj) -> bool:
    return bool((pod.get("status") or {}).get("phase") == "Running")


# ---- status


def status_of(set_: Obj, pods: Sequence[Obj], current: Obj, update: Obj, now: float) -> Obj:
    old = set_.get("status") or {}
    min_ready = int(set_["spec"].get("minReadySeconds") or 0)
    ready = [p for p in pods if _running(p) and is_ready(p)]
    standing = [p for p in pods if not is_terminating(p)]
    now_name, next_name = current["metadata"]["name"], update["metadata"]["name"]
    on_current = sum(1 for p in standing if pod_revision(p) == now_name)
    on_update = sum(1 for p in standing if pod_revision(p) == next_name)
    status: Obj = {
        "observedGeneration": int(set_["metadata"].get("generation") or 0),
        "replicas": len(pods),
        "readyReplicas": len(ready),
        "availableReplicas": sum(1 for p in ready if is_available(p, min_ready, now)),
        "currentReplicas": on_current,
        "updatedReplicas": on_update,
        "currentRevision": now_name,
        "updateRevision": next_name,
        "collisionCount": int(old.get("collisionCount") or 0),
    }
    if old.get("conditions"):
        status["conditions"] = old["conditions"]
    rolling = (set_["spec"].get("updateStrategy") or {}).get("type") == "RollingUpdate"
    want = replicas(set_)
    if rolling and now_name != next_name and on_update == want == len(ready) == len(pods):
        status["currentReplicas"], status["currentRevision"] = on_update, next_name
    return present(status, "replicas", "availableReplicas", "collisionCount")
