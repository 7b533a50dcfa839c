"""The ReplicaSet controller, and the ReplicationController's: keeps the wanted number of pods of one template.

The two differ in what `Replicated` says and in nothing else. A thin shell around `replicaset_core`: reads informers,
writes pods and status. Pods are made in batches of 1, 2, 4, ... (`slow_start`), so that a template no admission accepts
costs one failed request and not hundreds.

Race: a pod we deleted gracefully shows its deletionTimestamp only when the watch delivers it; until then it is in
`PodControl.deleted`, or the next sync would delete another one:
  1. 4 pods, 3 wanted: A deleted, uid noted.  2. sync again before the watch: A is not counted, nothing to do.
  3. the watch shows A terminating or gone: uid forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.api.errors import ApiError
from cluster.api.meta import controller_of
from cluster.api.selectors import LabelSelector, from_label_selector, from_map
from cluster.controllers.env import Env
from cluster.controllers.ownership import OWNER_UID, candidates, concerned, index_by_owner, owned
from cluster.controllers.pod_control import PodControl, pod_from_template
from cluster.controllers.refs import claim
from cluster.controllers.replicaset_core import active_pods, plan, rest_s, status_of
from cluster.controllers.status import report
from cluster.machinery.client import Obj, split_key
from cluster.machinery.reconciler import Reconciler, Result


@dataclass(frozen=True, slots=True)
class Replicated:
    """A kind that is a number of pods of one template: its names, and how it says which pods are its own."""

    name: str
    kind: str
    resource: str
    component: str
    selector: Callable[[Obj], LabelSelector]


def _selector_of_set(rs: Obj) -> LabelSelector:
    return from_label_selector(rs["spec"].get("selector"))


def _selector_of_controller(rc: Obj) -> LabelSelector:
    """A map of labels; the API makes it the template's when it is left out, and an empty one selects nothing."""
    return from_map(rc["spec"].get("selector"))


REPLICA_SETS = Replicated("replicaset", "ReplicaSet", "replicasets.apps", "replicaset-controller", _selector_of_set)
REPLICATION_CONTROLLERS = Replicated(
    "replicationcontroller",
    "ReplicationController",
    "replicationcontrollers",
    "replication-controller",
    _selector_of_controller,
)


def replication_controllers(env: Env) -> ReplicaSetController:
    """The older kind, by the same controller."""
    return ReplicaSetController(env, REPLICATION_CONTROLLERS)


class ReplicaSetController:
    def __init__(self, env: Env, replicated: Replicated = REPLICA_SETS) -> None:
        self._env = env
        self._is = replicated
        self.name = replicated.name
        self._sets = env.informer(replicated.resource)
        self._pods = env.informer("pods")
        self._events = env.recorder(replicated.component)
        self._control = PodControl(env.client, self._pods, self._events, env.clock)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_replicaset_syncs)
        index_by_owner(self._sets)
        index_by_owner(self._pods)
        self._sets.add_handler(self.reconciler.enqueue)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._sets.items())

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        for key in concerned(self._is.kind, self._sets, old, new, self._is.selector):
            self.reconciler.queue.add(key)

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        namespace, name = split_key(key)
        rs = self._sets.get(namespace, name)
        if rs is None:
            return None
        selector = self._is.selector(rs)
        pods = await claim(self._env.client, "pods", rs, candidates(self._pods, rs), selector.matches)
        active = active_pods(pods, self._control.deleted)
        now = self._env.clock()
        steps = plan(rs, active, lambda: self._related(rs, active), now, self._env.config.replica_set_burst)
        failure, error = "", None
        if steps.create:
            wanted = [pod_from_template(rs["spec"]["template"], rs) for _ in range(steps.create)]
            made, error = await self._control.create(rs, wanted)
            active += made
            failure = "FailedCreate" if error else ""
        elif steps.delete:
            gone, error = await self._delete(rs, steps.delete)
            active = [p for p in active if p["metadata"]["uid"] not in gone]
            failure = "FailedDelete" if error else ""
        await self._report(rs, active, now, error.message if error else "", failure)
        if error is not None:
            raise error
        looked_at = max(len(pods), len(active))
        return Result(steps.recheck_after_s, rest_s(steps, looked_at, self._env.config.replica_set_burst))

    def _related(self, rs: Obj, active: Sequence[Obj]) -> list[Obj]:
        ref = controller_of(rs)
        if ref is None:
            return list(active)
        siblings = self._sets.by_index(OWNER_UID, ref["uid"])
        return [pod for sibling in siblings for pod in active_pods(owned(self._pods, sibling), self._control.deleted)]

    async def _delete(self, rs: Obj, victims: Sequence[Obj]) -> tuple[set[str], ApiError | None]:
        """The uids of those that have gone, and the first error."""
        outcomes = await asyncio.gather(*(self._control.end(rs, pod) for pod in victims))
        gone = {pod["metadata"]["uid"] for pod, err in zip(victims, outcomes, strict=True) if err is None}
        return gone, next((err for err in outcomes if err is not None), None)

    async def _report(self, rs: Obj, active: Sequence[Obj], now: float, failure: str, reason: str) -> None:
        status = status_of(rs, active, now, failure, reason)
        await report(self._env.client, self._is.resource, rs, status)
