"""The Job controller: carries out what `job_core.decide` says.

A thin shell: reads informers, writes pods, their finalizers and the job's status, in the order that makes counting
exact (see job_core). Keys are jobs, and `pod:<namespace>/<name>` for pods that hold the tracking finalizer without a
job that will ever count them: the finalizer is taken off, or they could not be deleted.

Race: caches of two resources are not in step. A job seen at revision R with pods seen at an older one may show a pod
that is counted and released already; so a pod that would be counted is looked up at the API unless the pods' cache has
reached R.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from cluster.api.errors import ApiError
from cluster.api.meta import controller_of
from cluster.controllers import job_core as core
from cluster.controllers.env import Env
from cluster.controllers.job_indexes import identify
from cluster.controllers.ownership import candidates, concerned, index_by_owner, owned, selector_of
from cluster.controllers.pod_control import PodControl, pod_from_template
from cluster.controllers.refs import claim
from cluster.controllers.status import present, report
from cluster.machinery.client import Obj, clone, is_not_found, key_of, split_key
from cluster.machinery.informer import revision_of
from cluster.machinery.reconciler import Reconciler, Result

_JOBS = "jobs.batch"
_POD = "pod:"
MANAGER = "kubernetes.io/job-controller"


class JobController:
    name = "job"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._jobs = env.informer(_JOBS)
        self._pods = env.informer("pods")
        self._events = env.recorder("job-controller")
        self._control = PodControl(env.client, self._pods, self._events, env.clock)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_job_syncs)
        index_by_owner(self._pods)
        self._jobs.add_handler(self._on_job)
        self._pods.add_handler(self._on_pod)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._jobs.items())
        for pod in self._pods.items():
            self._look_for_lost(pod)

    # ---- what wakes it

    def _on_job(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self.reconciler.queue.add(key_of(new))
        elif old is not None:
            for pod in owned(self._pods, old):
                self._look_for_lost(pod)

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        for key in concerned("Job", self._jobs, old, new):
            self.reconciler.queue.add(key)
        if new is not None:
            self._look_for_lost(new)

    def _look_for_lost(self, pod: Obj) -> None:
        if core.tracked(pod) and self._jobs.synced and self._job_of(pod) is None:
            self.reconciler.queue.add(_POD + key_of(pod))

    def _job_of(self, pod: Obj) -> Obj | None:
        ref = controller_of(pod)
        if ref is None or ref.get("kind") != "Job":
            return None
        job = self._jobs.get(pod["metadata"]["namespace"], ref["name"])
        return job if job is not None and job["metadata"]["uid"] == ref["uid"] else None

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        if key.startswith(_POD):
            await self._release_lost(*split_key(key.removeprefix(_POD)))
            return None
        job = self._jobs.get(*split_key(key))
        if job is None or job["spec"].get("managedBy") not in (None, MANAGER):
            return None
        pods = await self._confirmed(job, await self._owned(job))
        plan = core.decide(job, pods, self._env.clock())
        error = await self._pods_of(job, plan)
        await report(self._env.client, _JOBS, job, present(plan.status, "ready", "terminating"))
        for note in plan.notes:
            self._events.event(job, note.type, note.reason, note.message)
        await asyncio.gather(*(self._release(pod) for pod in plan.release))
        if error is not None:
            raise error
        return Result(plan.recheck_after_s)

    async def _owned(self, job: Obj) -> list[Obj]:
        mine = owned(self._pods, job)
        there = mine if core.is_finished(job) else candidates(self._pods, job)
        pods = await claim(self._env.client, "pods", job, there, selector_of(job).matches)
        before = {p["metadata"]["uid"] for p in mine}
        adopted = [self._track(p) for p in pods if p["metadata"]["uid"] not in before and not core.tracked(p)]
        fresh = {p["metadata"]["uid"]: p for p in await asyncio.gather(*adopted)}
        return self._control.known(fresh.get(p["metadata"]["uid"], p) for p in pods)

    async def _track(self, pod: Obj) -> Obj:
        changed = clone(pod)
        changed["metadata"].setdefault("finalizers", []).append(core.FINALIZER)
        return await self._env.client.update("pods", changed)

    async def _confirmed(self, job: Obj, pods: list[Obj]) -> list[Obj]:
        """The pods; those to be counted as the API knows them, where the cache may be older than the job."""
        if int(self._pods.resource_version) >= revision_of(job):
            return pods
        stale = {p["metadata"]["uid"]: p for p in core.to_confirm(job, pods)}
        found = await asyncio.gather(*(self._live(p) for p in stale.values()))
        seen = dict(zip(stale, found, strict=True))
        out = [seen.get(p["metadata"]["uid"], p) for p in pods]
        return [p for p in out if p is not None]

    async def _live(self, pod: Obj) -> Obj | None:
        meta = pod["metadata"]
        try:
            found = await self._env.client.get("pods", meta["name"], meta["namespace"])
        except ApiError as err:
            if is_not_found(err):
                return None
            raise
        if found["metadata"]["uid"] != meta["uid"]:
            return None
        return self._control.known([found])[0]

    # ---- writes

    async def _pods_of(self, job: Obj, plan: core.Plan) -> ApiError | None:
        """Ends and makes pods; the first error, after which the status says how many there really are."""
        errors = [e for e in await asyncio.gather(*(self._drop(job, p) for p in plan.drop)) if e]
        errors += [e for e in await asyncio.gather(*(self._control.end(job, p) for p in plan.delete)) if e]
        pods = [_new_pod(job, index, plan.annotations) for index in plan.create]
        made, error = await self._control.create(job, pods)
        plan.status["active"] = int(plan.status.get("active") or 0) - (len(plan.create) - len(made)) + len(errors)
        return errors[0] if errors else error

    async def _drop(self, job: Obj, pod: Obj) -> ApiError | None:
        """End a pod that is not to be counted: it goes without its finalizer."""
        try:
            await self._release(pod)
        except ApiError as err:
            self._events.event(job, "Warning", "FailedDelete", f"Error deleting: {err.message}")
            return err
        return await self._control.end(job, pod)

    async def _release(self, pod: Obj) -> None:
        """Take the finalizer off, whatever else happens to the pod meanwhile."""
        meta = pod["metadata"]
        for _ in range(5):
            current = self._pods.get(meta["namespace"], meta["name"])
            if current is None or current["metadata"]["uid"] != meta["uid"]:
                current = pod
            finalizers = [f for f in current["metadata"].get("finalizers") or [] if f != core.FINALIZER]
            patch = {"uid": meta["uid"], "resourceVersion": current["metadata"]["resourceVersion"]}
            try:
                body = {"metadata": {**patch, "finalizers": finalizers or None}}
                await self._env.client.patch("pods", meta["name"], body, meta["namespace"])
                return
            except ApiError as err:
                if is_not_found(err):
                    return
                if err.code != 409:
                    raise
            live = await self._live(pod)
            if live is None or not core.tracked(live):
                return
            self._env.informers.observe("pods", live)
            pod = live

    async def _release_lost(self, namespace: str, name: str) -> None:
        pod = self._pods.get(namespace, name)
        if pod is None or not core.tracked(pod) or self._job_of(pod) is not None:
            return
        ref = controller_of(pod)
        if ref is not None and ref.get("kind") == "Job":
            try:
                job = await self._env.client.get(_JOBS, ref["name"], namespace)
            except ApiError as err:
                if not is_not_found(err):
                    raise
            else:
                if job["metadata"]["uid"] == ref["uid"]:
                    return  # its watch is behind; the job will wake us
        await self._release(pod)


def _new_pod(job: Obj, index: int | None, annotations: Mapping[int, dict[str, str]]) -> Obj:
    """Of a job's template; with the finalizer that keeps it until it was counted."""
    pod = pod_from_template(job["spec"]["template"], job)
    meta = pod["metadata"]
    meta["labels"] = dict(meta.get("labels") or {})
    meta["annotations"] = dict(meta.get("annotations") or {})
    meta["finalizers"] = [*(meta.get("finalizers") or []), core.FINALIZER]
    if index is not None:
        identify(pod, job["metadata"]["name"], index)
        meta["annotations"] |= annotations.get(index, {})
    return pod
