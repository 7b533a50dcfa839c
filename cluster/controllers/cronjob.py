"""The CronJob controller: carries out what `cronjob_core.decide` says, and looks again when the next run is due.

A thin shell. Crash between making a job and writing status: the name is made of the due minute, so the next try finds
the job under its name and only writes the status.
"""

from __future__ import annotations

import asyncio

from cluster.api.errors import ApiError
from cluster.api.meta import controller_of, rfc3339
from cluster.controllers import cronjob_core as core
from cluster.controllers.env import Env
from cluster.controllers.job_core import is_finished
from cluster.controllers.ownership import index_by_owner, owned
from cluster.controllers.status import same_status
from cluster.machinery.client import Obj, clone, is_already_exists, is_not_found, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_CRON_JOBS = "cronjobs.batch"
_JOBS = "jobs.batch"


class CronJobController:
    name = "cronjob"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._cron_jobs = env.informer(_CRON_JOBS)
        self._jobs = env.informer(_JOBS)
        self._events = env.recorder("cronjob-controller")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_cron_job_syncs)
        index_by_owner(self._jobs)
        self._cron_jobs.add_handler(self._on_cron_job)
        self._jobs.add_handler(self._on_job)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._cron_jobs.items())

    def _on_cron_job(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self.reconciler.queue.add(key_of(new))

    def _on_job(self, old: Obj | None, new: Obj | None) -> None:
        for job in (old, new):
            ref = controller_of(job) if job is not None else None
            if job is not None and ref is not None and ref.get("kind") == "CronJob":
                self.reconciler.queue.add(f"{job['metadata']['namespace']}/{ref['name']}")

    # ---- reconcile

    async def _reconcile(self, key: str) -> Result | None:
        cj = self._cron_jobs.get(*split_key(key))
        if cj is None:
            return None
        jobs = await self._confirmed(cj, owned(self._jobs, cj))
        plan = core.decide(cj, jobs, self._env.clock())
        for note in plan.notes:
            self._events.event(cj, note.type, note.reason, note.message)
        cj = await self._report(cj, plan.status)
        for job in plan.forget:
            await self._delete(cj, job)
        if plan.create is not None:
            await self._start(cj, plan)
        return Result(plan.recheck_after_s)

    async def _confirmed(self, cj: Obj, jobs: list[Obj]) -> list[Obj]:
        """The jobs, and those that the status knows and their cache does not show: it may be behind, and what still
        runs must not be taken for gone."""
        shown = {job["metadata"]["uid"] for job in jobs}
        unseen = [ref for ref in (cj.get("status") or {}).get("active") or [] if ref["uid"] not in shown]
        found = await asyncio.gather(*(self._live(ref) for ref in unseen))
        return [*jobs, *(job for job in found if job is not None)]

    async def _live(self, ref: Obj) -> Obj | None:
        try:
            job = await self._env.client.get(_JOBS, ref["name"], ref["namespace"])
        except ApiError as err:
            if is_not_found(err):
                return None
            raise
        return job if job["metadata"]["uid"] == ref["uid"] else None

    async def _start(self, cj: Obj, plan: core.Plan) -> None:
        status = clone(plan.status)
        for job in plan.replace:
            await self._delete(cj, job)
            status["active"] = [r for r in status.get("active") or [] if r["uid"] != job["metadata"]["uid"]]
        made = await self._create(cj, plan.create or {})
        if made is None:
            return
        if not is_finished(made):
            status["active"] = [*(status.get("active") or []), core.reference(made)]
        status["lastScheduleTime"] = rfc3339(plan.due)
        await self._report(cj, status)

    async def _create(self, cj: Obj, job: Obj) -> Obj | None:
        """The job of this run, which may be there already; None when there is none: nothing can be made in a namespace
        that ends, and a job of the name that is somebody else's is left to him."""
        meta = job["metadata"]
        try:
            made = await self._env.client.create(_JOBS, job, meta["namespace"])
        except ApiError as err:
            if err.code == 403 and "NamespaceTerminating" in str(err.details):
                return None
            if not is_already_exists(err):
                self._events.event(cj, "Warning", "FailedCreate", f"Error creating job: {err.message}")
                raise
            found = await self._env.client.get(_JOBS, meta["name"], meta["namespace"])
            ref = controller_of(found)
            return found if ref is not None and ref.get("uid") == cj["metadata"]["uid"] else None
        self._events.event(cj, "Normal", "SuccessfulCreate", f"Created job {meta['name']}")
        return made

    async def _delete(self, cj: Obj, job: Obj) -> None:
        meta = job["metadata"]
        try:
            await self._env.client.delete(
                _JOBS, meta["name"], meta["namespace"], uid=meta["uid"], propagation="Background"
            )
        except ApiError as err:
            if is_not_found(err):
                return
            self._events.event(cj, "Warning", "FailedDelete", f"Deleted job: {err.message}")
            raise
        self._events.event(cj, "Normal", "SuccessfulDelete", f"Deleted job {meta['name']}")

    async def _report(self, cj: Obj, status: Obj) -> Obj:
        if same_status(cj.get("status"), status):
            return cj
        changed = clone(cj)
        changed["status"] = status
        return await self._env.client.update(_CRON_JOBS, changed, subresource="status")
