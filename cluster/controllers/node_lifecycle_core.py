"""The verdict on a machine, and what its Node has to show for it: conditions and taints.

Pure. Sources: docs/architecture.md, "When a machine loses power"; Kubernetes' pkg/controller/nodelifecycle. The
verdicts, from weakest to strongest:

- ALIVE: the lease was renewed within the grace period; the kubelet's own conditions stand.
- AGENT_DOWN: its kubelet is silent for longer, but the machine answers. As UNREACHABLE, but its pods go on and stay in
  their endpoints: whoever keeps the kubelet running is there to start it again.
- UNREACHABLE: nothing answers. Ready becomes Unknown, taints follow, timers (tolerationSeconds) run. It may live.
- GONE: the provider says "off". That is proof: the machine runs nothing, so pods and volumes are freed at once.

Invariant: UNREACHABLE never becomes GONE by waiting; only proof makes it so.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.api.meta import condition, parse_time, rfc3339
from cluster.controllers.config import ControllerConfig
from cluster.machinery.client import Obj

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE_TAINT = "node.kubernetes.io/unreachable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
SHUTDOWN = "node.cloudprovider.kubernetes.io/shutdown"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
OFF_VALUE = "provider-says-off"  # marks the taints that a provider's "off" made, so that only those are taken back
_PRESSURE = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
DEFAULT_TOLERATION_S = 300  # what admission gives each pod for not-ready and unreachable
_DEAF_FACTOR = 3.0
_REPORTED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_MANAGED = frozenset({NOT_READY, UNREACHABLE_TAINT, UNSCHEDULABLE, *_PRESSURE.values()})


class Verdict(enum.Enum):
    ALIVE = "alive"
    AGENT_DOWN = "agent-down"
    UNREACHABLE = "unreachable"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What we know of a node's signs of life, by our own monotonic clock.

    `seen_at`: its last one; `ever`: whether that was one at all (else: when we first heard of the node);
    `others_at`: the last one of any node.
    """

    seen_at: float
    ever: bool
    others_at: float


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    recheck_after_s: float | None


def grace_s(config: ControllerConfig, lease: Obj | None) -> float:
    """How long a node may be silent.

    In profile `fast` a kubelet that renews a longer Lease less often (a simulated one, another maker's) has until that
    ends. Kubernetes looks at the grace period alone, and so does profile `kubernetes`.
    """
    lasts_s = ((lease or {}).get("spec") or {}).get("leaseDurationSeconds") or 0
    limit_s = config.node_monitor_grace_period_s
    return max(limit_s, float(lasts_s)) if config.node_lease_duration_counts else limit_s


def judge(beat: Heartbeat, machine: str, now: float, grace_s: float, startup_grace_s: float) -> Judgement:
    """`machine`: the provider's word, "running", "off", "unknown", or "" without a provider."""
    if machine == "off":
        return Judgement(Verdict.GONE, None)
    limit = grace_s if beat.ever else startup_grace_s
    left = beat.seen_at + limit - now
    if left > 0:
        return Judgement(Verdict.ALIVE, left + 0.01)
    # Silence of one counts while others are heard. When nobody is, the way to us may be what is broken (the store is
    # electing, API servers are changing over): wait longer before all machines are declared lost together.
    deaf = beat.others_at - beat.seen_at < limit / 2
    patience = beat.seen_at + _DEAF_FACTOR * limit - now
    if deaf and patience > 0:
        return Judgement(Verdict.ALIVE, min(limit / 4, patience + 0.01))
    return Judgement(Verdict.UNREACHABLE, None)


def conditions_for(node: Obj, verdict: Verdict, now: float) -> list[Obj] | None:
    """The node's conditions under the verdict; None when they already say it."""
    current = [dict(c) for c in (node.get("status") or {}).get("conditions") or []]
    if verdict is Verdict.ALIVE:
        return None
    stamp = rfc3339(now)
    by_type = {c["type"]: c for c in current}
    changed = False
    for kind in _REPORTED:
        old = by_type.get(kind)
        reason, message = _silence(old, verdict)
        if old is not None and old.get("status") == "Unknown" and old.get("reason") == reason:
            continue
        transition = stamp if old is None or old.get("status") != "Unknown" else old["lastTransitionTime"]
        fresh: Obj = {
            "type": kind,
            "status": "Unknown",
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": (old or {}).get("lastHeartbeatTime") or node["metadata"].get("creationTimestamp"),
            "lastTransitionTime": transition,
        }
        changed = True
        if old is None:
            current.append(fresh)
        else:
            current[current.index(old)] = fresh
    return current if changed else None


def _silence(old: Obj | None, verdict: Verdict) -> tuple[str, str]:
    if verdict is Verdict.GONE:
        return "MachineOff", "The provider says that the machine is off."
    if old is None:
        return "NodeStatusNeverUpdated", "Kubelet never posted node status."
    return "NodeStatusUnknown", "Kubelet stopped posting node status."


def ready_status(node: Obj) -> str:
    """True, False or Unknown."""
    ready = condition(node, "Ready")
    return str(ready["status"]) if ready is not None else "Unknown"


def taints_for(node: Obj, verdict: Verdict, now: float, *, evict: bool, spare: bool = False) -> list[Obj] | None:
    """The node's taints as they should be; None when they are.

    `evict`: whether NoExecute may be added now (zone disruption and eviction rate decide); one that is there stays
    while its cause does, unless `spare` takes it back. Foreign taints are kept as they are, in their order.
    """
    current = list(node["spec"].get("taints") or [])
    have = {(t["key"], t["effect"]) for t in current}
    ready = "Unknown" if verdict is not Verdict.ALIVE else ready_status(node)
    wanted: list[tuple[str, str, str]] = []
    if ready != "True":
        key = UNREACHABLE_TAINT if ready == "Unknown" else NOT_READY
        wanted.append((key, "NoSchedule", ""))
        if evict or ((key, "NoExecute") in have and not spare):
            wanted.append((key, "NoExecute", ""))
    wanted += _pressure_taints(node, have) if verdict is Verdict.ALIVE else []
    if node["spec"].get("unschedulable"):
        wanted.append((UNSCHEDULABLE, "NoSchedule", ""))
    if verdict is Verdict.GONE:
        wanted.append((OUT_OF_SERVICE, "NoExecute", OFF_VALUE))
        wanted.append((SHUTDOWN, "NoSchedule", OFF_VALUE))
    result = _apply(current, wanted, now)
    return result if result != current else None


def _pressure_taints(node: Obj, have: set[tuple[str, str]]) -> list[tuple[str, str, str]]:
    wanted = []
    for kind, key in _PRESSURE.items():
        found = condition(node, kind)
        if found is None:
            # No word is not a good word: a taint put there at registration waits for the first one.
            if (key, "NoSchedule") in have and kind == "NetworkUnavailable":
                wanted.append((key, "NoSchedule", ""))
        elif found.get("status") == "True":
            wanted.append((key, "NoSchedule", ""))
    return wanted


def _apply(current: Sequence[Obj], wanted: Sequence[tuple[str, str, str]], now: float) -> list[Obj]:
    keys = {(key, effect) for key, effect, _ in wanted}
    result = [t for t in current if not _ours(t) or (t["key"], t["effect"]) in keys]
    have = {(t["key"], t["effect"]) for t in result}
    for key, effect, value in wanted:
        if (key, effect) in have:
            continue
        taint: Obj = {"key": key, "effect": effect}
        if value:
            taint["value"] = value
        if effect == "NoExecute":
            taint["timeAdded"] = rfc3339(now)
        result.append(taint)
    return result


def _ours(taint: Obj) -> bool:
    if taint["key"] in (OUT_OF_SERVICE, SHUTDOWN):
        return bool(taint.get("value") == OFF_VALUE)
    return taint["key"] in _MANAGED


def is_gone(node: Obj) -> bool:
    """Proof that nothing runs there any more: out of service, by the provider's word or an administrator's."""
    return any(t["key"] == OUT_OF_SERVICE for t in node["spec"].get("taints") or [])


def off_since(node: Obj) -> float | None:
    """When the provider's "off" was written onto the node; None when it was not, or was taken back."""
    for taint in node["spec"].get("taints") or []:
        if taint["key"] == OUT_OF_SERVICE and taint.get("value") == OFF_VALUE:
            return parse_time(taint["timeAdded"]) if taint.get("timeAdded") else 0.0
    return None


# ---- zones


@dataclass(frozen=True, slots=True)
class ZoneState:
    """How fast nodes of the zone may get NoExecute taints; 0 stops evictions there."""

    name: str
    evictions_per_s: float
    deaf: bool = False


def zone_state(
    ready: int,
    not_ready: int,
    *,
    elsewhere: int = 0,
    rate: float,
    secondary_rate: float,
    threshold: float,
    large: int,
) -> ZoneState:
    """Normal, partial or full disruption of a zone; `elsewhere`: Ready nodes of other zones.

    A zone in which nobody is Ready is a dead zone while others live: its pods leave as fast as any. With nobody Ready
    anywhere we cannot tell a dead cluster from our own deafness, and evict nothing."""
    total = ready + not_ready
    if ready == 0 and not_ready > 0:
        return ZoneState("FullDisruption", rate if elsewhere else 0.0, deaf=not elsewhere)
    if not_ready > 2 and not_ready / total >= threshold:
        return ZoneState("PartialDisruption", secondary_rate if total > large else 0.0)
    return ZoneState("Normal", rate)


# ---- eviction by taints


def eviction_due(pod: Obj, taints: Sequence[Obj], now: float, default_s: float | None = None) -> float | None:
    """When the pod has to leave (wall time; not after `now`: at once), None: it may stay.

    The shortest tolerationSeconds of the tolerations used counts, from when the latest of the taints was added.
    `default_s` takes the place of those that every pod gets (pod-eviction-timeout, from then on).
    """
    no_execute = [t for t in taints if t.get("effect") == "NoExecute"]
    if not no_execute:
        return None
    due: float | None = None
    tolerations = pod["spec"].get("tolerations") or []
    for taint in no_execute:
        matching = [t for t in tolerations if tolerates(t, taint)]
        if not matching:
            return now
        seconds = [_patience_s(t, default_s) for t in matching if t.get("tolerationSeconds") is not None]
        if seconds:
            added = parse_time(taint["timeAdded"]) if taint.get("timeAdded") else now
            leave = added + max(min(seconds), 0)
            due = leave if due is None else min(due, leave)
    return due


def _patience_s(toleration: Obj, default_s: float | None) -> float:
    given = toleration.get("key") in (NOT_READY, UNREACHABLE_TAINT)
    if default_s is not None and given and toleration["tolerationSeconds"] == DEFAULT_TOLERATION_S:
        return default_s
    return float(toleration["tolerationSeconds"])


def tolerates(toleration: Mapping[str, object], taint: Mapping[str, object]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    key = toleration.get("key") or ""
    if toleration.get("operator", "Equal") == "Exists":
        return not key or key == taint["key"]
    return bool(key == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or ""))
