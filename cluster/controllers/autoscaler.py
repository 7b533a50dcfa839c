"""The cluster autoscaler: pending pods become machines, machines that nobody needs are drained and given back.

A shell around `autoscaler_core`. One key: the whole cluster is looked at when a pod is found unschedulable, when a Node
comes or goes, and every ten seconds while machines can be had at all (cluster-autoscaler's --scan-interval). What was
asked for and has not come is remembered for a quarter of an hour; a new leader asks again, which is the same request.
A node that goes is tainted first, in the store: whoever leads then goes on with it.

    chosen -> taint ToBeDeletedByClusterAutoscaler -> evictions (budgets may refuse: again) -> release -> Node gone
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from cluster.api.errors import ApiError
from cluster.api.pods import is_terminal
from cluster.controllers import autoscaler_core as core
from cluster.controllers.env import Env
from cluster.controllers.node_lifecycle import pod_node
from cluster.machinery.client import Obj, clone, is_not_found
from cluster.machinery.provider import NodeGroups, NodeType, ProviderError
from cluster.machinery.reconciler import Reconciler, Result

_ALL = "cluster"
_SCAN_S = 10.0
_DRAIN_LOOK_S = 1.0
_PROVISION_S = 900.0  # cluster-autoscaler's --max-node-provision-time


class AutoscalerController:
    name = "cluster_autoscaler"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._pods = env.informer("pods")
        self._nodes = env.informer("nodes")
        self._budgets = env.informer("poddisruptionbudgets.policy")
        self._events = env.recorder("cluster-autoscaler")
        self._asked: dict[str, tuple[int, float]] = {}  # by type: machines asked for in all, and when it became so many
        self._unneeded: dict[str, float] = {}
        self._told: dict[str, str] = {}  # by pod uid: the last word said to it
        self.reconciler = Reconciler(self.name, self._reconcile, workers=1)
        self._pods.add_index("node", pod_node)
        self._pods.add_handler(self._on_pod)
        self._nodes.add_handler(self._on_node)

    async def run(self) -> None:
        self._asked, self._unneeded = {}, {}
        await self.reconciler.run()

    def resync(self) -> None:
        if self._env.outside.groups is not None:
            self.reconciler.queue.add(_ALL)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and core.needs_machine(new):
            self.resync()

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if old is None or new is None:
            self.resync()

    async def _reconcile(self, key: str) -> Result | None:
        groups = self._env.outside.groups
        if groups is None:
            return None
        types, members = await groups.types(), await groups.nodes()
        pods, nodes = self._pods.items(), self._nodes.items()
        there = core.rooms(nodes, pods)
        going = [n for n in nodes if core.is_going(n)]
        pending = [p for p in pods if core.needs_machine(p)]
        registered = {n: kind for n, kind in members.items() if self._nodes.get("", n) is not None}
        plan = await self._scale_up(groups, types, registered, there, pending, going)
        left = [await self._drain(groups, node) for node in going]
        if plan.triggered or going or sum(plan.counts.values()) > len(registered):
            # Nothing is unneeded while the cluster grows or shrinks. Pods that no machine would help wait without it.
            self._unneeded = {}
            return Result(_DRAIN_LOOK_S if any(left) else _SCAN_S)
        return await self._scale_down(types, registered, there, pods)

    # ---- up

    async def _scale_up(
        self,
        groups: NodeGroups,
        types: Sequence[NodeType],
        registered: Mapping[str, str],
        there: Mapping[str, core.Room],
        pending: Sequence[Obj],
        going: Sequence[Obj],
    ) -> core.ScaleUp:
        """Asks for what is needed."""
        leaving = {n["metadata"]["name"] for n in going}
        now = self._env.monotonic()
        staying = {t.name: sum(k == t.name and n not in leaving for n, k in registered.items()) for t in types}
        have = {name: max(n, self._still_asked(name, now)) for name, n in staying.items()}
        coming = {name: have[name] - n for name, n in staying.items()}
        plan = core.scale_up(pending, list(there.values()), types, have, coming)
        for name, count in plan.counts.items():
            if count != self._asked.get(name, (0, 0.0))[0]:
                self._asked[name] = (count, now)
        try:
            await groups.scale(plan.counts)
        except ProviderError as err:
            for pod, _ in plan.triggered:
                self._tell(pod, "Warning", "FailedToScaleUp", f"Scale-up failed: {err}")
            raise
        limits = {t.name: t.max_count for t in types}
        for pod, name in plan.triggered:
            change = f"{{{name} {staying[name]}->{plan.counts[name]} (max: {limits[name]})}}"
            self._tell(pod, "Normal", "TriggeredScaleUp", f"pod triggered scale-up: [{change}]")
        for pod, why in plan.refused:
            reasons = ", ".join(f"{n} {text}" for text, n in sorted(why.items())) or "there are no node groups"
            self._tell(pod, "Normal", "NotTriggerScaleUp", f"pod didn't trigger scale-up: {reasons}")
        waiting = {p["metadata"]["uid"] for p in pending}
        self._told = {uid: word for uid, word in self._told.items() if uid in waiting}
        return plan

    def _still_asked(self, name: str, now: float) -> int:
        count, since = self._asked.get(name, (0, 0.0))
        return count if now - since < _PROVISION_S else 0

    def _tell(self, pod: Obj, kind: str, reason: str, message: str) -> None:
        """Once, until there is something else to say."""
        uid = pod["metadata"]["uid"]
        if self._told.get(uid) != reason:
            self._told[uid] = reason
            self._events.event(pod, kind, reason, message)

    # ---- down

    async def _scale_down(
        self,
        types: Sequence[NodeType],
        registered: Mapping[str, str],
        there: Mapping[str, core.Room],
        pods: Sequence[Obj],
    ) -> Result | None:
        now = self._env.monotonic()
        rules = self._env.config.scale_down
        plan = core.scale_down(registered, there, pods, self._budgets.items(), types, self._unneeded, rules, now)
        self._unneeded = dict(plan.unneeded)
        if plan.drain:
            self._asked = {}  # one fewer is wanted from now on
            await self._choose(there[plan.drain].node)
            return Result(0.0)
        return Result(min(_SCAN_S, plan.recheck_after_s or _SCAN_S))

    async def _choose(self, node: Obj) -> None:
        changed = clone(node)
        taint = {"key": core.GOING, "value": str(int(self._env.clock())), "effect": "NoSchedule"}
        changed["spec"]["taints"] = [*(changed["spec"].get("taints") or ()), taint]
        await self._env.client.update("nodes", changed)
        self._events.event(node, "Normal", "ScaleDown", "marked the node as toBeDeleted/unschedulable")

    async def _drain(self, groups: NodeGroups, node: Obj) -> bool:
        """Whether pods are left that have to move; without any the machine is released."""
        name = node["metadata"]["name"]
        pods = [p for p in self._pods.by_index("node", name) if core.moves(p) and not is_terminal(p)]
        await asyncio.gather(*(self._evict(p) for p in pods if "deletionTimestamp" not in p["metadata"]))
        if pods:
            return True
        await groups.release(name)
        try:
            await self._env.client.delete("nodes", name, uid=node["metadata"]["uid"])
        except ApiError as err:
            if not is_not_found(err):
                raise
            return False
        self._events.event(node, "Normal", "ScaleDown", "node removed by cluster autoscaler")
        return False

    async def _evict(self, pod: Obj) -> None:
        meta = pod["metadata"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": meta["name"]}}
        try:
            await self._env.client.create("pods", body, meta["namespace"], subresource="eviction", name=meta["name"])
        except ApiError as err:
            if err.code not in (404, 409, 429):  # gone, another of its name by now, or its budget says: not yet
                raise
            return
        self._events.event(pod, "Normal", "ScaleDown", "deleting pod for node scale down")
