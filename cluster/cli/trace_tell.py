"""A pod's way from being asked for to being reached, put together from what the cluster's parts remember. Pure.

Sources, in the order of the way: managedFields, the store's history of the object, the scheduler's decisions, the
kubelet's story, Events, conditions, EndpointSlices, the proxies' last sync. Times of API objects are whole seconds; an
Event's name carries the nanosecond of its first occurrence (as client-go's), and kubelet and scheduler tell fractions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from cluster.api.meta import parse_time
from cluster.cli.output import table

Obj = Mapping[str, Any]
WAY = (
    "wanted", "created", "admitted", "stored", "scheduled", "bound", "seen", "volumes mounted", "sandbox begun",
    "sandbox ready", "image", "container begun", "container started", "probe passed", "ready", "endpoint", "programmed",
)  # fmt: skip
"""Steps in the order of the way: how those of the same second are sorted. Others come after these."""
_IMAGE = frozenset({"Pulling", "Pulled"})
_TOLD_BY_OTHERS = frozenset({"Scheduled", "Created", "Started"})


@dataclass(frozen=True, slots=True)
class Facts:
    """`created`: the revision of the pod's creation, 0 if that is not known. `revisions`: (revision, object) of each
    write the store still has, the oldest first. `story`: the kubelet's steps. `decisions`: the scheduler's, of `sk8
    explain`. `synced`: when each node's proxy last had all its rules in effect. `silent`: who could not be asked."""

    pod: Obj
    events: Sequence[Obj] = ()
    owners: Sequence[Obj] = ()
    slices: Sequence[Obj] = ()
    created: int = 0
    revisions: Sequence[tuple[int, Obj]] = ()
    story: Sequence[Obj] = ()
    decisions: Sequence[Obj] = ()
    synced: Mapping[str, float] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """`at` in seconds since the epoch; `exact` when it is finer than a second."""

    at: float
    exact: bool
    step: str
    about: str


def told(facts: Facts) -> list[Step]:
    steps = [*_asked(facts), *_placed(facts), *_ran(facts), *_reached(facts)]
    out = sorted((s for s in steps if s.exact), key=lambda s: (s.at, _stage(s)))
    for step in sorted((s for s in steps if not s.exact), key=lambda s: (s.at, _stage(s))):
        # Within its second a step's place is known from the way only.
        before = [n for n, s in enumerate(out) if (int(s.at), _stage(s)) <= (int(step.at), _stage(step))]
        out.insert(before[-1] + 1 if before else 0, step)
    return out


def _stage(step: Step) -> int:
    return WAY.index(step.step) if step.step in WAY else len(WAY)


def render(facts: Facts) -> str:
    steps = told(facts)
    began = next((s.at for s in steps if s.step == "created"), steps[0].at if steps else 0.0)
    rows = [(_clock(s), _since(s, began), s.step, s.about) for s in steps]
    meta = facts.pod["metadata"]
    lines = [
        f"Pod {meta['namespace']}/{meta['name']}, uid {meta['uid']}",
        "",
        table(("time", "since", "step", ""), rows),
    ]
    lines += [f"not asked: {who}: {why}" for who, why in facts.silent.items()]
    return "\n".join(lines)


def as_json(facts: Facts) -> dict[str, Any]:
    meta = facts.pod["metadata"]
    steps = [asdict(s) for s in told(facts)]
    return {
        "pod": f"{meta['namespace']}/{meta['name']}",
        "uid": meta["uid"],
        "steps": steps,
        "silent": dict(facts.silent),
    }


def _clock(step: Step) -> str:
    text = datetime.fromtimestamp(step.at, UTC).strftime("%H:%M:%S.%f")[:-3]
    return text if step.exact else text[:8]


def _since(step: Step, began: float) -> str:
    return f"{step.at - began:+.3f}" if step.exact else f"{step.at - began:+.0f}"


def event_time(event: Obj) -> tuple[float, bool]:
    """When it first happened, and whether that is finer than a second."""
    first = event.get("eventTime") or event.get("firstTimestamp") or event["metadata"]["creationTimestamp"]
    at = parse_time(first)
    try:
        exact = int(str(event["metadata"]["name"]).rpartition(".")[2], 16) / 1e9
    except ValueError:
        return at, "." in first
    return (exact, True) if abs(exact - at) < 2 else (at, "." in first)


# ---- the parts of the way


def _asked(facts: Facts) -> list[Step]:
    pod = facts.pod
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    out = []
    for owner in facts.owners:
        about = f"{owner['kind']} {owner['metadata']['name']} was created"
        out.append(Step(parse_time(owner["metadata"]["creationTimestamp"]), False, "wanted", about))
    at, exact = parse_time(meta["creationTimestamp"]), False
    for event in facts.events:
        if event.get("reason") == "SuccessfulCreate" and meta["name"] in event.get("message", ""):
            at, exact = event_time(event)
    by = next((m["manager"] for m in meta.get("managedFields") or () if m.get("manager")), "unknown")
    out.append(Step(at, exact, "created", f"by {by}"))
    account = spec.get("serviceAccountName") or "none"
    about = f"ServiceAccount {account}, priority {spec.get('priority', 0)}, QoS {status.get('qosClass', 'unknown')}"
    out.append(Step(at, exact, "admitted", about))
    if facts.created:
        out.append(Step(at, exact, "stored", f"at revision {facts.created}"))
    return out


def _placed(facts: Facts) -> list[Step]:
    out = []
    for one in facts.decisions:
        if not one["node"]:
            out.append(Step(one["at"], True, "refused", one["message"]))
            continue
        nodes = [n for n in one["nodes"] or () if not n["refused"]]
        score = next((f"score {n['total']:g}, " for n in nodes if n["name"] == one["node"]), "")
        of = f"{score}best of {len(nodes)} that fit" if nodes else "its scores are not remembered"
        out.append(Step(one["at"], True, "scheduled", f"onto {one['node']}: {of}"))
    scheduled = [e for e in facts.events if e.get("reason") == "Scheduled"]
    if not any(s.step == "scheduled" for s in out):
        out += [Step(*event_time(e), "scheduled", e.get("message", "")) for e in scheduled]
    placed = [(revision, pod["spec"]["nodeName"]) for revision, pod in facts.revisions if pod["spec"].get("nodeName")]
    if scheduled and placed:
        # After an older version the first one with a node is the binding; without one, the binding is compacted.
        at = f" at revision {placed[0][0]}" if len(placed) < len(facts.revisions) else ""
        out.append(Step(*event_time(scheduled[0]), "bound", f"to {placed[0][1]}{at}"))
    return out


def _ran(facts: Facts) -> list[Step]:
    pod = facts.pod
    out = [Step(s["at"], True, s["step"], s["about"]) for s in facts.story]
    told_by_kubelet = bool(facts.story)
    for event in facts.events:
        reason, message = event.get("reason", ""), event.get("message", "")
        if event["involvedObject"].get("uid") != pod["metadata"]["uid"]:
            continue
        if reason in _IMAGE:
            out.append(Step(*event_time(event), "image", message))
        elif event.get("type") == "Warning" and reason != "FailedScheduling":
            out.append(Step(*event_time(event), reason, f"{message}{_times(event)}"))
        elif reason == "Started" and not told_by_kubelet:
            out.append(Step(*event_time(event), "container started", message))
        elif reason not in _TOLD_BY_OTHERS:
            out.append(Step(*event_time(event), reason, message))
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition.get("lastTransitionTime"):
            ready = condition["status"] == "True"
            about = "all containers and conditions" if ready else condition.get("message", condition.get("reason", ""))
            out.append(
                Step(parse_time(condition["lastTransitionTime"]), False, "ready" if ready else "not ready", about)
            )
    return out


def _times(event: Obj) -> str:
    count = event.get("count") or 1
    return f" ({count} times)" if count > 1 else ""


def _reached(facts: Facts) -> list[Step]:
    out = []
    for found in facts.slices:
        meta = found["metadata"]
        service = (meta.get("labels") or {}).get("kubernetes.io/service-name", meta["name"])
        mine = [
            e
            for e in found.get("endpoints") or ()
            if (e.get("targetRef") or {}).get("uid") == facts.pod["metadata"]["uid"]
        ]
        if not mine:
            continue
        at = max(_changed(found), _turned(facts.pod))
        state = "ready" if (mine[0].get("conditions") or {}).get("ready") else "not ready"
        out.append(Step(at, False, "endpoint", f"{state} in Service {service}: {', '.join(mine[0]['addresses'])}"))
        after = sorted(node for node, synced in facts.synced.items() if synced >= at)
        if after:
            when = min(facts.synced[node] for node in after)
            out.append(Step(when, True, "programmed", f"Service {service} on {', '.join(after)} (their last sync)"))
    return out


def _turned(pod: Obj) -> float:
    """When it became ready, or ceased to be. The time of a manager is not renewed by each of its writes, so that of a
    slice may be older than a pod in it."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    times = [c["lastTransitionTime"] for c in conditions if c["type"] == "Ready" and c.get("lastTransitionTime")]
    return parse_time(times[0] if times else pod["metadata"]["creationTimestamp"])


def _changed(obj: Obj) -> float:
    meta = obj["metadata"]
    times = [m["time"] for m in meta.get("managedFields") or () if m.get("time")]
    return max(map(parse_time, [*times, meta["creationTimestamp"]]))
