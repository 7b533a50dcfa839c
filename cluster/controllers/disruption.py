"""The disruption controller: keeps the status of PodDisruptionBudgets, from which evictions are granted.

A thin shell around `disruption_core`. Status writes carry the budget's resourceVersion, so that an eviction granted
meanwhile (registry/eviction) is never overwritten: the write conflicts, and the budget is judged anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.api.meta import controller_of
from cluster.api.selectors import from_label_selector
from cluster.controllers import disruption_core as core
from cluster.controllers.env import Env
from cluster.controllers.pod_control import namespace_of
from cluster.controllers.status import report
from cluster.machinery.client import Obj, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_BUDGETS = "poddisruptionbudgets.policy"
_SCALED = {
    "ReplicaSet": "replicasets.apps",
    "StatefulSet": "statefulsets.apps",
    "ReplicationController": "replicationcontrollers",
}


class DisruptionController:
    name = "disruption"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._budgets = env.informer(_BUDGETS)
        self._pods = env.informer("pods")
        self._deployments = env.informer("deployments.apps")
        self._sets = {kind: env.informer(resource) for kind, resource in _SCALED.items()}
        self._events = env.recorder("controllermanager")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_disruption_syncs)
        self._pods.add_index("namespace", namespace_of)
        self._budgets.add_handler(self._on_budget)
        self._pods.add_handler(self._on_pod)
        for informer in (self._deployments, *self._sets.values()):
            informer.add_handler(self._on_scale)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._budgets.items())

    # ---- what wakes it

    def _on_budget(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self.reconciler.queue.add(key_of(new))

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        pod = new or old
        if pod is None:
            return
        sides = [p["metadata"].get("labels") or {} for p in (old, new) if p is not None]
        for budget in self._budgets.in_namespace(pod["metadata"]["namespace"]):
            selector = from_label_selector(budget["spec"].get("selector"))
            if any(selector.matches(labels) for labels in sides):
                self.reconciler.queue.add(key_of(budget))

    def _on_scale(self, old: Obj | None, new: Obj | None) -> None:
        """A workload wants another number of pods."""
        if old is not None and new is not None and old["spec"].get("replicas") == new["spec"].get("replicas"):
            return
        obj = new or old
        for budget in self._budgets.in_namespace(obj["metadata"]["namespace"]) if obj is not None else ():
            self.reconciler.queue.add(key_of(budget))

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        budget = self._budgets.get(*split_key(key))
        if budget is None:
            return None
        selector = from_label_selector(budget["spec"].get("selector"))
        namespace = budget["metadata"]["namespace"]
        pods = [
            p
            for p in self._pods.by_index("namespace", namespace)
            if selector.matches(p["metadata"].get("labels") or {})
        ]
        if not pods:
            self._events.event(budget, "Normal", "NoPods", "No matching pods found")
        expected, why = len(pods), ""
        if core.needs_scale(budget):
            expected, why = self._expected(namespace, pods)
        if why:
            self._events.event(
                budget,
                "Warning",
                "CalculateExpectedPodCountFailed",
                f"Failed to calculate the number of expected pods: {why}",
            )
            await report(self._env.client, _BUDGETS, budget, core.failed(budget, why, self._env.clock()))
            return None
        verdict = core.decide(budget, pods, expected, self._env.clock())
        for name in verdict.late:
            pod = self._pods.get(namespace, name)
            if pod is not None:
                what = f"Pod was expected by PDB {key} to be deleted but it wasn't"
                self._events.event(pod, "Warning", "NotDeleted", what)
        await report(self._env.client, _BUDGETS, budget, verdict.status)
        return Result(verdict.recheck_after_s)

    def _expected(self, namespace: str, pods: list[Obj]) -> tuple[int, str]:
        """What the pods' controllers want together, or why that is not known. Pods of nobody are not expected."""
        sizes: dict[str, int] = {}
        for pod in pods:
            ref = controller_of(pod)
            if ref is None or ref["uid"] in sizes:
                continue
            informer = self._sets.get(ref["kind"])
            owner = informer.get(namespace, ref["name"]) if informer is not None else None
            if informer is None:
                return 0, f"{_plural(ref)} does not implement the scale subresource"
            if owner is None or owner["metadata"]["uid"] != ref["uid"]:
                continue
            above = controller_of(owner)
            deployment = None
            if above is not None and above.get("kind") == "Deployment":
                deployment = self._deployments.get(namespace, above["name"])
            if deployment is not None and above is not None and deployment["metadata"]["uid"] == above["uid"]:
                owner = deployment
            sizes[owner["metadata"]["uid"]] = _replicas(owner)
        return sum(sizes.values()), ""


def _replicas(owner: Obj) -> int:
    value = owner["spec"].get("replicas")
    return 1 if value is None else int(value)


def _plural(ref: Mapping[str, Any]) -> str:
    group = str(ref.get("apiVersion", "")).rpartition("/")[0]
    plural = f"{str(ref['kind']).lower()}s"
    return f"{plural}.{group}" if group else plural
