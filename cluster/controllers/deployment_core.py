"""What a Deployment should do next about its ReplicaSets: a pure function from what is to the writes to make.

Pure: (deployment, replica sets, pods still running, now) -> Plan. Source: kubernetes pkg/controller/deployment
(sync.go, rolling.go, recreate.go, progress.go) and util/deployment_util.go.

Invariants of a rolling update, at every step: total replicas <= replicas + maxSurge, and available replicas are only
given up while more than replicas - maxUnavailable are there. One plan holds the writes that are safe together; the next
plan is made from what those writes led to.

      find new RS ──none──> Create ──> (next plan)
           │
      paused? / replicas changed? ──> scale proportionally
           │
      RollingUpdate: new up? ──else──> old down           Recreate: old to 0, wait for their pods, new up
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.api.meta import owner_reference
from cluster.controllers import deployment_status
from cluster.controllers.deployment_view import REVISION, available, replicas, revision, rolling_bounds
from cluster.controllers.naming import template_hash
from cluster.controllers.status import present
from cluster.machinery.client import Obj, clone

REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
HASH_LABEL = "pod-template-hash"
_NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        REVISION_HISTORY,
        DESIRED_REPLICAS,
        MAX_REPLICAS,
        "deprecated.deployment.rollback.to",
    }
)


@dataclass(frozen=True, slots=True)
class CreateReplicaSet:
    obj: Obj


@dataclass(frozen=True, slots=True)
class UpdateReplicaSet:
    """Write `obj`; `before` != `after` replicas is a scaling, which is announced."""

    obj: Obj
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class DeleteReplicaSet:
    obj: Obj


@dataclass(frozen=True, slots=True)
class SetRevision:
    """The revision annotation on the Deployment itself."""

    revision: str


Action = CreateReplicaSet | UpdateReplicaSet | DeleteReplicaSet | SetRevision


@dataclass(frozen=True, slots=True)
class Plan:
    actions: tuple[Action, ...]
    status: Obj
    recheck_after_s: float | None = None


# ---- reading objects


def _age_order(rs: Obj) -> tuple[str, str]:
    return (rs["metadata"].get("creationTimestamp", ""), rs["metadata"]["name"])


def same_template(deployment: Obj, rs: Obj) -> bool:
    return bool(_without_hash(deployment["spec"]["template"]) == _without_hash(rs["spec"]["template"]))


def _without_hash(template: Obj) -> Obj:
    meta = dict(template.get("metadata") or {})
    meta.pop("creationTimestamp", None)
    labels = {k: v for k, v in (meta.pop("labels", None) or {}).items() if k != HASH_LABEL}
    if labels:
        meta["labels"] = labels
    return {**template, "metadata": meta}


def split(deployment: Obj, sets: Sequence[Obj]) -> tuple[Obj | None, list[Obj]]:
    """(new, old): the oldest ReplicaSet with the current template, and the others by age."""
    ordered = sorted(sets, key=_age_order)
    new = next((rs for rs in ordered if same_template(deployment, rs)), None)
    return new, [rs for rs in ordered if rs is not new]


# ---- the decision


def decide(deployment: Obj, sets: Sequence[Obj], *, old_pods: int, now: float) -> Plan:
    """`old_pods`: pods of old ReplicaSets that are not finished (Recreate waits until none runs)."""
    new, old = split(deployment, sets)
    if "deletionTimestamp" in deployment["metadata"]:
        return _finish(deployment, new, old, (), now)
    paused = bool(deployment["spec"].get("paused"))
    recreate = (deployment["spec"].get("strategy") or {}).get("type") == "Recreate"
    if new is None and not paused:
        if recreate and (down := _scale_all(deployment, old, 0)):
            return _finish(deployment, new, old, tuple(down), now)
        if not (recreate and old_pods):
            return _finish(deployment, new, old, (_create(deployment, old),), now)
        return _finish(deployment, new, old, (), now)
    actions: list[Action] = []
    if new is not None:
        new = _annotated(deployment, new, old, actions)
    if paused or _scaling_event(deployment, [*old, *([new] if new else [])]):
        actions = _merge(actions, _scale(deployment, new, old))
    elif recreate:
        actions = _merge(actions, _recreate(deployment, new, old, old_pods))
    else:
        actions = _merge(actions, _roll(deployment, new, old))
    if not paused and deployment_status.complete(deployment, deployment_status.counts(deployment, new, old)):
        actions += _history(deployment, old)
    return _finish(deployment, new, old, tuple(actions), now)


def _finish(deployment: Obj, new: Obj | None, old: list[Obj], actions: tuple[Action, ...], now: float) -> Plan:
    created = next((a.obj["metadata"]["name"] for a in actions if isinstance(a, CreateReplicaSet)), "")
    status = deployment_status.status_of(deployment, new, old, now, created=created)
    return Plan(actions, present(status), deployment_status.deadline_in_s(deployment, status, now))


def _create(deployment: Obj, old: list[Obj]) -> CreateReplicaSet:
    meta = deployment["metadata"]
    template = clone(deployment["spec"]["template"])
    count = (deployment.get("status") or {}).get("collisionCount")
    digest = template_hash(template, count)
    labels = {**(template.get("metadata", {}).get("labels") or {}), HASH_LABEL: digest}
    template.setdefault("metadata", {})["labels"] = labels
    selector = clone(deployment["spec"]["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: digest}
    rs: Obj = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{meta['name']}-{digest}",
            "namespace": meta["namespace"],
            "labels": labels,
            "annotations": _wanted_annotations(deployment)
            | {REVISION: str(max((revision(rs) for rs in old), default=0) + 1)},
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": {
            "replicas": new_replicas(deployment, old, None),
            "selector": selector,
            "template": template,
        },
    }
    if deployment["spec"].get("minReadySeconds"):
        rs["spec"]["minReadySeconds"] = deployment["spec"]["minReadySeconds"]
    return CreateReplicaSet(rs)


def _wanted_annotations(deployment: Obj) -> dict[str, str]:
    surge, _ = rolling_bounds(deployment)
    own = deployment["metadata"].get("annotations") or {}
    return {k: v for k, v in own.items() if k not in _NOT_COPIED} | {
        DESIRED_REPLICAS: str(replicas(deployment)),
        MAX_REPLICAS: str(replicas(deployment) + surge),
    }


def _annotated(deployment: Obj, new: Obj, old: list[Obj], actions: list[Action]) -> Obj:
    """Bring the new ReplicaSet's revision and copied annotations up to date; a rollback raises its revision.

    desired-replicas is left to the scaling (it is how a change of spec.replicas is noticed).
    """
    annotations = dict(new["metadata"].get("annotations") or {})
    wanted = {k: v for k, v in _wanted_annotations(deployment).items() if k not in (DESIRED_REPLICAS, MAX_REPLICAS)}
    updated = annotations | wanted
    newest = max((revision(rs) for rs in old), default=0) + 1
    if revision(new) < newest:
        if revision(new) > 0:
            history = [h for h in annotations.get(REVISION_HISTORY, "").split(",") if h]
            updated[REVISION_HISTORY] = ",".join([*history, annotations[REVISION]])
        updated[REVISION] = str(newest)
    min_ready = int(deployment["spec"].get("minReadySeconds") or 0)
    if updated != annotations or int(new["spec"].get("minReadySeconds") or 0) != min_ready:
        new = clone(new)
        new["metadata"]["annotations"] = updated
        new["spec"]["minReadySeconds"] = min_ready
        actions.append(UpdateReplicaSet(new, replicas(new), replicas(new)))
    if revision(deployment) != int(updated.get(REVISION, "0")):
        actions.append(SetRevision(updated[REVISION]))
    return new


def _scaled_set(deployment: Obj, rs: Obj, count: int) -> UpdateReplicaSet | None:
    """Set the replicas of `rs` and the annotations that say for which size of the Deployment; None when they are so."""
    wanted = _wanted_annotations(deployment)
    sizes = {k: wanted[k] for k in (DESIRED_REPLICAS, MAX_REPLICAS)}
    annotations = rs["metadata"].get("annotations") or {}
    if replicas(rs) == count and all(annotations.get(k) == v for k, v in sizes.items()):
        return None
    changed = clone(rs)
    changed["spec"]["replicas"] = count
    changed["metadata"]["annotations"] = annotations | sizes
    return UpdateReplicaSet(changed, replicas(rs), count)


def _merge(first: list[Action], second: list[Action]) -> list[Action]:
    """Two updates of one ReplicaSet are one write (the second was computed on top of the first)."""
    replaced = {a.obj["metadata"]["name"] for a in second if isinstance(a, UpdateReplicaSet)}
    kept = [a for a in first if not (isinstance(a, UpdateReplicaSet) and a.obj["metadata"]["name"] in replaced)]
    return kept + second


def _scale_all(deployment: Obj, sets: Sequence[Obj], count: int) -> list[Action]:
    """Bring those that have replicas to `count`."""
    updates = (_scaled_set(deployment, rs, count) for rs in sets if replicas(rs) > 0)
    return [u for u in updates if u is not None]


# ---- scaling


def _scaling_event(deployment: Obj, sets: Sequence[Obj]) -> bool:
    """Was spec.replicas changed since the active ReplicaSets were last sized?"""
    for rs in sets:
        desired = (rs["metadata"].get("annotations") or {}).get(DESIRED_REPLICAS)
        if replicas(rs) > 0 and desired is not None and desired != str(replicas(deployment)):
            return True
    return False


def _scale(deployment: Obj, new: Obj | None, old: list[Obj]) -> list[Action]:
    """Follow spec.replicas without rolling: all to the only active one, else in proportion to their sizes."""
    active = [rs for rs in [*old, *([new] if new else [])] if replicas(rs) > 0]
    single = _active_or_latest(new, old, active)
    if single is not None:
        update = _scaled_set(deployment, single, replicas(deployment))
        return [update] if update else []
    if new is not None and _saturated(deployment, new):
        return _scale_all(deployment, old, 0)
    if (deployment["spec"].get("strategy") or {}).get("type") == "Recreate":
        return []
    return _proportional(deployment, active)


def _active_or_latest(new: Obj | None, old: list[Obj], active: list[Obj]) -> Obj | None:
    if not active:
        return new if new is not None else (max(old, key=lambda rs: (revision(rs), _age_order(rs))) if old else None)
    return active[0] if len(active) == 1 else None


def _saturated(deployment: Obj, new: Obj) -> bool:
    annotated = (new["metadata"].get("annotations") or {}).get(DESIRED_REPLICAS, "0")
    want = replicas(deployment)
    return replicas(new) == want and annotated == str(want) and available(new) == want


def _proportional(deployment: Obj, active: list[Obj]) -> list[Action]:
    surge, _ = rolling_bounds(deployment)
    allowed = replicas(deployment) + surge if replicas(deployment) > 0 else 0
    total = sum(replicas(rs) for rs in active)
    to_add = allowed - total
    newest_first = sorted(active, key=_age_order, reverse=True)
    if to_add > 0:
        ordered = sorted(newest_first, key=lambda rs: -replicas(rs))
    else:
        ordered = sorted(sorted(active, key=_age_order), key=lambda rs: -replicas(rs))
    sizes: dict[str, int] = {}
    added = 0
    for rs in ordered:
        share = _share(deployment, rs, to_add, added, allowed) if to_add else 0
        sizes[rs["metadata"]["name"]] = replicas(rs) + share
        added += share
    actions: list[Action] = []
    for i, rs in enumerate(ordered):
        size = sizes[rs["metadata"]["name"]]
        if i == 0 and to_add:
            size = max(size + to_add - added, 0)
        update = _scaled_set(deployment, rs, size)
        if update:
            actions.append(update)
    return actions


def _share(deployment: Obj, rs: Obj, to_add: int, added: int, allowed: int) -> int:
    """This ReplicaSet's part of `to_add` (GetReplicaSetProportion)."""
    left = to_add - added
    if replicas(deployment) == 0:
        fraction = -replicas(rs)
    else:
        annotated = (rs["metadata"].get("annotations") or {}).get(MAX_REPLICAS)
        base = int(annotated) if annotated and annotated.isdigit() and int(annotated) else allowed
        fraction = _round_half_up(replicas(rs) * allowed, base) - replicas(rs)
    return min(fraction, left) if to_add > 0 else max(fraction, left)


def _round_half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


# ---- strategies


def new_replicas(deployment: Obj, old: Sequence[Obj], new: Obj | None) -> int:
    """How many the new ReplicaSet may have now (NewRSNewReplicas)."""
    want = replicas(deployment)
    if (deployment["spec"].get("strategy") or {}).get("type") == "Recreate":
        return want
    surge, _ = rolling_bounds(deployment)
    have = replicas(new) if new is not None else 0
    current = sum(replicas(rs) for rs in old) + have
    room = want + surge - current
    if room <= 0:
        return have
    return have + min(room, want - have)


def _roll(deployment: Obj, new: Obj | None, old: list[Obj]) -> list[Action]:
    if new is None:
        return []
    want = replicas(deployment)
    size = want if replicas(new) > want else max(new_replicas(deployment, old, new), 0)
    update = _scaled_set(deployment, new, size)
    if update is not None and update.after != update.before:
        return [update]  # the new one first; old ones give way once it is available
    actions: list[Action] = [update] if update is not None else []
    return actions + _roll_down(deployment, new, old)


def _roll_down(deployment: Obj, new: Obj, old: list[Obj]) -> list[Action]:
    """Old replicas that may go: unhealthy ones first, then as many as stay above the minimum available."""
    old_total = sum(replicas(rs) for rs in old)
    if old_total == 0:
        return []
    _, max_unavailable = rolling_bounds(deployment)
    min_available = replicas(deployment) - max_unavailable
    new_unavailable = replicas(new) - available(new)
    may_go = old_total + replicas(new) - min_available - new_unavailable
    if may_go <= 0:
        return []
    sizes = {rs["metadata"]["name"]: replicas(rs) for rs in old}
    gone = 0
    for rs in old:
        name = rs["metadata"]["name"]
        unhealthy = min(may_go - gone, sizes[name] - available(rs))
        if unhealthy > 0:
            sizes[name] -= unhealthy
            gone += unhealthy
    surplus = sum(available(rs) for rs in [*old, new]) - min_available
    for rs in old:
        name = rs["metadata"]["name"]
        healthy = min(surplus, sizes[name])
        if healthy > 0:
            sizes[name] -= healthy
            surplus -= healthy
    actions: list[Action] = []
    for rs in old:
        size = sizes[rs["metadata"]["name"]]
        if size != replicas(rs) and (update := _scaled_set(deployment, rs, size)) is not None:
            actions.append(update)
    return actions


def _recreate(deployment: Obj, new: Obj | None, old: list[Obj], old_pods: int) -> list[Action]:
    down = _scale_all(deployment, old, 0)
    if down or old_pods or new is None:
        return down
    update = _scaled_set(deployment, new, replicas(deployment))
    return [update] if update else []


def _history(deployment: Obj, old: list[Obj]) -> list[Action]:
    """Old ReplicaSets beyond revisionHistoryLimit, oldest revision first; only those that are truly empty."""
    limit = deployment["spec"].get("revisionHistoryLimit")
    if limit is None:
        return []
    alive = sorted(
        (rs for rs in old if "deletionTimestamp" not in rs["metadata"]), key=lambda rs: (revision(rs), _age_order(rs))
    )
    excess = alive[: max(len(alive) - int(limit), 0)]
    return [DeleteReplicaSet(rs) for rs in excess if _empty(rs)]


def _empty(rs: Obj) -> bool:
    status = rs.get("status") or {}
    observed = int(status.get("observedGeneration") or 0)
    return replicas(rs) == 0 and not status.get("replicas") and observed >= int(rs["metadata"].get("generation") or 0)
