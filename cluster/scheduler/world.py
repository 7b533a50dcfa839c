"""The scheduler's picture of the cluster, kept from informers: columns, nominations, and pods as decisions take them.

IO only through the informers' handlers; nothing is awaited here. Every change is reported to `changed` together with
the filter plugins it may satisfy, so that only pods refused by one of those are tried again.

Invariants: a pod is in the columns exactly while it is bound (or assumed) and not terminal; a pod bound to a node that
is not known is accounted when the node appears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from cluster.api.meta import parse_time
from cluster.api.pods import is_terminal
from cluster.machinery.client import Obj
from cluster.machinery.informer import Informers
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.decide import Pending
from cluster.scheduler.gangs import PLUGIN as GANG
from cluster.scheduler.gangs import group_of
from cluster.scheduler.nominated import Nominations
from cluster.scheduler.owners import RESOURCE_OF_KIND, default_spread, owner_resource
from cluster.scheduler.preempt import Budget, budget_of
from cluster.scheduler.queue import ANY, Key
from cluster.scheduler.shape import PodShape
from cluster.scheduler.views import NodeViews, PodViews, selecting_view
from cluster.scheduler.volume_view import VolumeView
from cluster.scheduler.volumes import VolumeVerdict

Changed = Callable[[frozenset[str]], None]
PodHandler = Callable[["Obj | None", "Obj | None"], None]

_RELATED = frozenset(("PodTopologySpread", "InterPodAffinity"))
_POD_GONE = _RELATED | {"NodeResourcesFit", "NodePorts", "VolumeRestrictions", "NodeVolumeLimits", "VolumeBinding"}
_NODE_FIELDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("labels", frozenset(("NodeAffinity", "VolumeBinding", "VolumeZone")) | _RELATED),
    ("taints", frozenset(("TaintToleration", "PodTopologySpread"))),
    ("unschedulable", frozenset(("NodeUnschedulable", "TaintToleration"))),
    ("allocatable", frozenset(("NodeResourcesFit",))),
    ("images", frozenset()),
)


class World:
    """`on_pod` hears of every pod event after the columns have it."""

    def __init__(
        self, informers: Informers, changed: Changed, on_pod: PodHandler, *, hard_pod_affinity_weight: int = 1
    ) -> None:
        self.columns = NodeColumns(hard_pod_affinity_weight=hard_pod_affinity_weight)
        self.nominated = Nominations()
        self._changed = changed
        self._on_pod_next = on_pod
        self.pods = informers.of("pods", PodViews().view)
        self.nodes = informers.of("nodes", NodeViews().view)
        self.volumes = VolumeView(informers, self.columns, self._volumes_changed)
        self._namespaces = informers.of("namespaces")
        self._services = informers.of("services", selecting_view)
        self._budgets = informers.of("poddisruptionbudgets.policy")
        self._owners = {resource: informers.of(resource, selecting_view) for resource in RESOURCE_OF_KIND.values()}
        self._spread_shapes: dict[tuple[PodShape, bytes], PodShape] = {}
        self._spread_memo: dict[tuple[Any, ...], bytes] = {}
        self._listen()

    def _listen(self) -> None:
        self.pods.add_index("node", lambda pod: [pod["spec"]["nodeName"]] if pod["spec"].get("nodeName") else [])
        self.pods.add_index("claim", lambda pod: [f"{pod['shape'].namespace}/{name}" for name in pod["shape"].claims])
        self.pods.add_index("group", lambda pod: ["/".join(group)] if (group := group_of(pod)) else [])
        self._services.add_index("namespace", lambda obj: [obj["metadata"].get("namespace", "")])
        self.pods.add_handler(self._on_pod)
        self.nodes.add_handler(self._on_node)
        self._namespaces.add_handler(self._on_namespace)
        self.volumes.listen()
        for informer in (self._services, *self._owners.values()):
            informer.add_handler(self._on_selecting)

    # ---- events

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._gone(old)
        if new is not None:
            if is_terminal(new):
                self._gone(new)
            elif new["spec"].get("nodeName"):
                self._bound(old, new)
            else:
                self._note_nomination(old, new)
                if old is None and group_of(new) is not None:
                    self._changed(frozenset((GANG,)))
        self._on_pod_next(old, new)

    def _gone(self, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        room = self.nominated.remove(uid)
        if self.columns.remove_pod(uid) or room:
            self._changed(_POD_GONE)

    def _bound(self, old: Obj | None, new: Obj) -> None:
        uid = new["metadata"]["uid"]
        if uid in self.nominated:
            self.nominated.remove(uid)
        placed = self.columns.placed.get(uid)
        here = placed is not None and placed.row == self.columns.rows.get(new["spec"]["nodeName"])
        if placed is not None and here and old is not None and _same_shape(old, new):
            started = (new.get("status") or {}).get("startTime")
            if started and started != (old.get("status") or {}).get("startTime"):
                placed.started = parse_time(started)
            if not old["spec"].get("nodeName"):
                self._changed(_RELATED)
            return
        before = placed.shape if placed else None
        self.account(new)
        after = self.columns.placed.get(uid)
        if after is not None and before is not None and before.requests != after.shape.requests:
            self._changed(_POD_GONE)
        elif before is None or after is None or before != after.shape:
            self._changed(_RELATED)

    def account(self, pod: Obj) -> None:
        """Put a bound pod on its node's row."""
        meta, spec = pod["metadata"], pod["spec"]
        started = (pod.get("status") or {}).get("startTime")
        shape: PodShape = pod["shape"]
        self.columns.place_pod(
            meta["uid"],
            spec["nodeName"],
            shape,
            key=(meta.get("namespace", ""), meta["name"]),
            priority=int(spec.get("priority") or 0),
            started=parse_time(started) if started else float("inf"),
            volumes=self.volumes.attachable(shape) if shape.claims else (),
        )

    def _note_nomination(self, old: Obj | None, new: Obj) -> None:
        """Take over what another instance nominated, and let go what was withdrawn."""
        uid, node = new["metadata"]["uid"], (new.get("status") or {}).get("nominatedNodeName") or ""
        before = ((old or {}).get("status") or {}).get("nominatedNodeName") or ""
        if node and node != before:
            self.nominated.set(uid, node, new["shape"], int(new["spec"].get("priority") or 0))
        elif before and not node and self.nominated.node_of(uid) == before and self.nominated.remove(uid):
            self._changed(_POD_GONE)

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            if old is not None:
                self.columns.remove_node(old["metadata"]["name"])
                self._changed(_RELATED)
            return
        now = _placing_view(new)
        before = None if old is None else _placing_view(old)
        if now == before:
            return
        self.columns.set_node(new)
        if before is None:
            for pod in self.pods.by_index("node", new["metadata"]["name"]):
                if not is_terminal(pod):
                    self.account(pod)
            self._changed(frozenset((ANY,)))
            return
        plugins: frozenset[str] = frozenset()
        for name, helped in _NODE_FIELDS:
            if now[name] != before[name]:
                plugins |= helped
        if plugins:
            self._changed(plugins)

    def _on_namespace(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            labels = new["metadata"].get("labels") or {}
            self.columns.relations.set_namespace(self.columns, new["metadata"]["name"], labels)
        elif old is not None:
            self.columns.relations.set_namespace(self.columns, old["metadata"]["name"], None)
        self._changed(frozenset(("InterPodAffinity",)))

    def _volumes_changed(self, claims: Iterable[str], plugins: frozenset[str]) -> None:
        """`claims` (namespace/name) may attach something else now: pods that run count with what they have."""
        for claim in claims:
            for pod in self.pods.by_index("claim", claim):
                if pod["spec"].get("nodeName") and not is_terminal(pod):
                    self.account(pod)
        self._changed(plugins)

    def _on_selecting(self, old: Obj | None, new: Obj | None) -> None:
        if old is None or new is None or old["spec"].get("selector") != new["spec"].get("selector"):
            self._spread_memo.clear()

    # ---- what decisions take

    def shape(self, pod: Obj) -> PodShape:
        shape: PodShape = pod["shape"]
        spread = b"" if shape.spread else self._default_spread(pod)
        if not spread:
            return shape
        if len(self._spread_shapes) > 10_000:
            self._spread_shapes.clear()
        return self._spread_shapes.setdefault((shape, spread), replace(shape, default_spread=spread))

    def _default_spread(self, pod: Obj) -> bytes:
        meta = pod["metadata"]
        labels, namespace = meta.get("labels") or {}, meta.get("namespace", "")
        resource, name = owner_resource(pod)
        key = (namespace, tuple(sorted(labels.items())), resource, name)
        known = self._spread_memo.get(key)
        if known is None:
            if len(self._spread_memo) > 10_000:
                self._spread_memo.clear()
            owner = self._owners[resource].get(namespace, name) if resource else None
            known = default_spread(labels, self._services.by_index("namespace", namespace), owner)
            self._spread_memo[key] = known
        return known

    def pending(self, pod: Obj) -> tuple[Pending, VolumeVerdict]:
        """The pod as the decision takes it, and what its claims say."""
        meta, shape = pod["metadata"], self.shape(pod)
        namespace = meta.get("namespace", "")
        verdict = self.volumes.check(shape) if shape.claims else VolumeVerdict()
        attached = self.volumes.attachable(shape) if shape.claims else ()
        refusal = f"0/{len(self.columns.rows)} nodes are available: {verdict.refusal}." if verdict.refusal else ""
        key: Key = (namespace, meta["name"])
        priority = int(pod["spec"].get("priority") or 0)
        return Pending(meta["uid"], key, shape, verdict.confined, refusal, priority, attached), verdict

    def members(self, group: tuple[str, str]) -> list[Obj]:
        """The pods of a group that are not over yet, with a node or without."""
        return [pod for pod in self.pods.by_index("group", "/".join(group)) if not is_terminal(pod)]

    def waits(self, key: Key, uid: str) -> bool:
        """Whether the pod is still there and unbound."""
        pod = self.pods.get(*key)
        return pod is not None and pod["metadata"]["uid"] == uid and not pod["spec"].get("nodeName")

    def nominees(self, uids: list[str]) -> list[Obj]:
        """The pods of these nominations that still wait."""
        wanted = set(uids)
        return [p for p in self.pods.items() if p["metadata"]["uid"] in wanted] if wanted else []

    def budgets(self) -> list[Budget]:
        return [budget_of(pdb) for pdb in self._budgets.items()]


def _same_shape(old: Obj, new: Obj) -> bool:
    """Whether nothing the columns read differs but the node; statuses change often, these fields seldom."""
    return old["shape"] is new["shape"] or bool(old["shape"] == new["shape"])


def _placing_view(node: Obj) -> dict[str, Any]:
    """What of a node decisions read; heartbeats change none of it."""
    spec, status = node.get("spec", {}), node.get("status", {})
    return {
        "labels": node["metadata"].get("labels"),
        "taints": spec.get("taints"),
        "unschedulable": spec.get("unschedulable"),
        "allocatable": status.get("allocatable"),
        "images": status.get("images"),
    }
