"""The ReplicaSet controller, and the ReplicationController's: keeps the wanted number of pods of one template.

The two differ in what `Replicated` says and in nothing else. A thin shell around `replicaset_core`: reads informers,
writes pods and status. Pods are made in slow-start batches (1, 2, 4, ...), so that a template no admission accepts
costs one failed request and not hundreds.

Race: a pod we deleted gracefully shows its deletionTimestamp only when the watch delivers it; until then its uid is
remembered in `_deleted`, or the next sync would delete another one:
  1. 4 pods, 3 wanted: A deleted, uid noted.  2. sync again before the watch: A is not counted, nothing to do.
  3. the watch shows A terminating or gone: uid forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cluster.api.errors import ApiError
from cluster.api.meta import controller_of, owner_reference
from cluster.api.selectors import LabelSelector, from_label_selector, from_map
from cluster.controllers.env import Env
from cluster.controllers.refs import claim
from cluster.controllers.replicaset_core import active_pods, plan, same_status, status_of
from cluster.machinery.client import Obj, clone, ignore_not_found, is_not_found, key_of, split_key
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
        self._deleted: set[str] = set()
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_replicaset_syncs)
        self._sets.add_index("owner-uid", owner_uid)
        self._pods.add_index("owner-uid", owner_uid)
        self._pods.add_index("orphan-namespace", orphan_namespace)
        self._sets.add_handler(self._on_set)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for rs in self._sets.items():
            self.reconciler.queue.add(key_of(rs))

    # ---- what wakes it

    def _on_set(self, old: Obj | None, new: Obj | None) -> None:
        obj = new or old
        if obj is not None:
            self.reconciler.queue.add(key_of(obj))

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            ref = controller_of(pod)
            if ref is not None:
                if ref.get("kind") == self._is.kind:
                    self.reconciler.queue.add(f"{pod['metadata']['namespace']}/{ref['name']}")
            elif pod is new:
                self._wake_selecting(pod)
        if new is None and old is not None:
            self._deleted.discard(old["metadata"]["uid"])
        elif new is not None and "deletionTimestamp" in new["metadata"]:
            self._deleted.discard(new["metadata"]["uid"])

    def _wake_selecting(self, pod: Obj) -> None:
        labels = pod["metadata"].get("labels") or {}
        if not labels:
            return
        for rs in self._sets.in_namespace(pod["metadata"]["namespace"]):
            if self._is.selector(rs).matches(labels):
                self.reconciler.queue.add(key_of(rs))

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        namespace, name = split_key(key)
        rs = self._sets.get(namespace, name)
        if rs is None:
            return None
        selector = self._is.selector(rs)
        uid = rs["metadata"]["uid"]
        candidates = self._pods.by_index("owner-uid", uid) + self._pods.by_index("orphan-namespace", namespace)
        pods = await claim(self._env.client, "pods", rs, candidates, selector.matches)
        active = active_pods(pods, self._deleted)
        now = self._env.clock()
        steps = plan(rs, active, lambda: self._related(rs, active), now, self._env.config.replica_set_burst)
        failure, error = "", None
        if steps.create:
            made, error = await self._create(rs, steps.create)
            active += made
            failure = "FailedCreate" if error else ""
        elif steps.delete:
            gone, error = await self._delete(rs, steps.delete)
            active = [p for p in active if p["metadata"]["uid"] not in gone]
            failure = "FailedDelete" if error else ""
        await self._report(rs, active, now, error.message if error else "", failure)
        if error is not None:
            raise error
        return Result(steps.recheck_after_s)

    def _related(self, rs: Obj, active: Sequence[Obj]) -> list[Obj]:
        ref = controller_of(rs)
        if ref is None:
            return list(active)
        siblings = self._sets.by_index("owner-uid", ref["uid"])
        return [
            pod
            for sibling in siblings
            for pod in active_pods(self._pods.by_index("owner-uid", sibling["metadata"]["uid"]), self._deleted)
        ]

    async def _create(self, rs: Obj, count: int) -> tuple[list[Obj], ApiError | None]:
        meta = rs["metadata"]

        async def one() -> Obj:
            pod = pod_from_template(rs["spec"]["template"], rs)
            try:
                made = await self._env.client.create("pods", pod, meta["namespace"])
            except ApiError as err:
                self._events.event(rs, "Warning", "FailedCreate", f"Error creating: {err.message}")
                raise
            self._events.event(rs, "Normal", "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")
            return made

        return await slow_start(count, one)

    async def _delete(self, rs: Obj, victims: Sequence[Obj]) -> tuple[set[str], ApiError | None]:
        gone: set[str] = set()
        errors: list[ApiError] = []

        async def one(pod: Obj) -> None:
            meta = pod["metadata"]
            try:
                await self._env.client.delete("pods", meta["name"], meta["namespace"], uid=meta["uid"])
            except ApiError as err:
                if not is_not_found(err):
                    errors.append(err)
                    self._events.event(rs, "Warning", "FailedDelete", f"Error deleting: {err.message}")
                    return
            gone.add(meta["uid"])
            current = self._pods.get(meta["namespace"], meta["name"])
            if current is not None and "deletionTimestamp" not in current["metadata"]:
                self._deleted.add(meta["uid"])
            self._events.event(rs, "Normal", "SuccessfulDelete", f"Deleted pod: {meta['name']}")

        await asyncio.gather(*(one(pod) for pod in victims))
        return gone, errors[0] if errors else None

    async def _report(self, rs: Obj, active: Sequence[Obj], now: float, failure: str, reason: str) -> None:
        status = status_of(rs, active, now, failure, reason)
        if same_status(rs.get("status"), status):
            return
        changed = clone(rs)
        changed["status"] = status
        with ignore_not_found():
            await self._env.client.update(self._is.resource, changed, subresource="status")


def pod_from_template(template: Obj, owner: Obj) -> Obj:
    """A new pod of the owner's: labels, annotations, finalizers and spec of the template; named `<owner>-<random>`."""
    meta = template.get("metadata") or {}
    prefix = f"{owner['metadata']['name']}-"
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": prefix,
            "namespace": owner["metadata"]["namespace"],
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": clone(template["spec"]),
    }
    for field in ("labels", "annotations", "finalizers"):
        if meta.get(field):
            pod["metadata"][field] = meta[field]
    return pod


async def slow_start(count: int, make: Callable[[], Awaitable[Obj]]) -> tuple[list[Obj], ApiError | None]:
    """Call `make` `count` times in batches of 1, 2, 4, ...; stops after the first batch with an error."""
    made: list[Obj] = []
    batch = 1
    while len(made) < count:
        results = await asyncio.gather(*(make() for _ in range(min(batch, count - len(made)))), return_exceptions=True)
        error: ApiError | None = None
        for result in results:
            if isinstance(result, ApiError):
                error = error or result
            elif isinstance(result, BaseException):
                raise result
            else:
                made.append(result)
        if error is not None:
            return made, error
        batch *= 2
    return made, None


def owner_uid(obj: Obj) -> list[str]:
    """Index: the uid of the controller that owns the object."""
    ref = controller_of(obj)
    return [ref["uid"]] if ref is not None else []


def orphan_namespace(obj: Obj) -> list[str]:
    """Index: the namespace of an object that no controller owns."""
    return [] if controller_of(obj) is not None else [obj["metadata"].get("namespace", "")]
