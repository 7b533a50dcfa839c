"""The DaemonSet controller: carries out what `daemonset_core.decide` says.

A thin shell: reads informers, writes pods, ControllerRevisions and status. A node's heartbeat changes only its status,
which decides nothing here: only labels, taints and the coming and going of nodes wake the sets. A pod that fails again
and again on a node is deleted with a growing delay (1 s to 15 min).
"""

from __future__ import annotations

import asyncio

from cluster.api.errors import ApiError
from cluster.controllers import daemonset_core as core
from cluster.controllers.daemonset_pods import new_pod, pod_hash, target_node
from cluster.controllers.env import Env
from cluster.controllers.ownership import candidates, concerned, index_by_owner, selector_of
from cluster.controllers.pod_control import PodControl
from cluster.controllers.refs import claim
from cluster.controllers.revisions import RevisionHistory
from cluster.controllers.revisions_core import REVISION_HASH_LABEL
from cluster.controllers.status import report
from cluster.machinery.client import Obj, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_SETS = "daemonsets.apps"
_BURST = 250
_BACKOFF_BASE_S = 1.0
_BACKOFF_MAX_S = 900.0


class DaemonSetController:
    name = "daemonset"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._sets = env.informer(_SETS)
        self._pods = env.informer("pods")
        self._nodes = env.informer("nodes")
        self._events = env.recorder("daemonset-controller")
        self._history = RevisionHistory(env, _SETS, REVISION_HASH_LABEL)
        self._control = PodControl(env.client, self._pods, self._events, env.clock)
        self._backoff = _Backoff()
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_daemonset_syncs)
        index_by_owner(self._pods)
        self._sets.add_handler(self.reconciler.enqueue)
        self._pods.add_handler(self._on_pod)
        self._nodes.add_handler(self._on_node)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._sets.items())

    # ---- what wakes it

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if old is None or new is None or _concerns(old) != _concerns(new):
            self.resync()

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        for key in concerned("DaemonSet", self._sets, old, new):
            self.reconciler.queue.add(key)

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        ds = self._sets.get(*split_key(key))
        if ds is None:
            self._backoff.forget(key)
            return None
        if selector_of(ds).empty:
            why = "This daemon set is selecting all pods. A non-empty selector is required."
            self._events.event(ds, "Warning", "SelectingAll", why)
            return None
        if "deletionTimestamp" in ds["metadata"]:
            return None
        pods = await self._owned(ds)
        revisions = await self._history.owned(ds)
        wanted = await self._history.current(ds, revisions)
        digest = wanted["metadata"]["labels"][REVISION_HASH_LABEL]
        plan = core.decide(ds, self._nodes.items(), pods, digest, self._env.clock())
        error, wait_s = await self._sync(ds, plan, digest)
        await report(self._env.client, _SETS, ds, plan.status)
        if error is not None:
            raise error
        await self._trim(ds, revisions, pods, wanted)
        waits = [s for s in (wait_s, plan.recheck_after_s) if s is not None]
        return Result(min(waits) if waits else None)

    async def _owned(self, ds: Obj) -> list[Obj]:
        pods = await claim(self._env.client, "pods", ds, candidates(self._pods, ds), selector_of(ds).matches)
        return self._control.known(pods)

    async def _trim(self, ds: Obj, revisions: list[Obj], pods: list[Obj], wanted: Obj) -> None:
        used = {pod_hash(p) for p in pods}
        live = {r["metadata"]["name"] for r in revisions if r["metadata"]["labels"].get(REVISION_HASH_LABEL) in used}
        await self._history.trim(ds, revisions, live | {wanted["metadata"]["name"]})

    async def _sync(self, ds: Obj, plan: core.Plan, digest: str) -> tuple[ApiError | None, float | None]:
        """The first error, and how long pods that failed have to wait for their deletion."""
        held = self._hold_failed(ds, plan)
        _, error = await self._control.create(ds, [new_pod(ds, digest, node) for node in plan.create[:_BURST]])
        victims = [p for p in plan.delete if p["metadata"]["uid"] not in held][:_BURST]
        errors = await asyncio.gather(*(self._control.end(ds, pod) for pod in victims))
        error = error or next((e for e in errors if e is not None), None)
        return error, min(held.values()) if held else None

    def _hold_failed(self, ds: Obj, plan: core.Plan) -> dict[str, float]:
        """uids of failed pods that must wait, and how long; says so for those that go now."""
        held: dict[str, float] = {}
        now = self._env.monotonic()
        for pod in plan.failed:
            meta, node = pod["metadata"], target_node(pod)
            wait_s = self._backoff.wait_s(key_of(ds), node, meta["uid"], now)
            if wait_s > 0:
                held[meta["uid"]] = wait_s
                continue
            what = f"Found failed daemon pod {key_of(pod)} on node {node}, will try to kill it"
            self._events.event(ds, "Warning", "FailedDaemonPod", what)
        for pod in plan.succeeded:
            what = f"Found succeeded daemon pod {key_of(pod)} on node {target_node(pod)}, will try to delete it"
            self._events.event(ds, "Normal", "SucceededDaemonPod", what)
        return held


class _Backoff:
    """Per set and node: how long the deletion of a failed pod waits; doubles with each pod that fails in a row."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], tuple[str, float, float]] = {}

    def wait_s(self, key: str, node: str, uid: str, now: float) -> float:
        """0 when the pod may go now."""
        last_uid, delay_s, since = self._entries.get((key, node), ("", 0.0, now))
        if uid == last_uid:
            return max(since + delay_s - now, 0.0)
        first = not last_uid or now - since > 2 * _BACKOFF_MAX_S
        delay_s = 0.0 if first else min(max(delay_s * 2, _BACKOFF_BASE_S), _BACKOFF_MAX_S)
        self._entries[key, node] = (uid, delay_s, now)
        return delay_s

    def forget(self, key: str) -> None:
        for entry in [e for e in self._entries if e[0] == key]:
            del self._entries[entry]


def _concerns(node: Obj) -> tuple[object, ...]:
    spec = node.get("spec") or {}
    return (node["metadata"].get("labels"), spec.get("taints"), spec.get("unschedulable"))
