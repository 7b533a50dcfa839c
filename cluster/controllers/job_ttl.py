"""TTL after finished: deletes a finished Job `spec.ttlSecondsAfterFinished` after its end, with its pods.

A thin shell with a pure rule. The job is read from the API before it is deleted, since its TTL may have been changed.
"""

from __future__ import annotations

from cluster.api.meta import parse_time
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, ignore_not_found, key_of, split_key
from cluster.machinery.reconciler import Reconciler, Result

_JOBS = "jobs.batch"


def expires_at(job: Obj) -> float | None:
    """When the job is to be deleted; None: not, or not yet known."""
    ttl = job["spec"].get("ttlSecondsAfterFinished")
    if ttl is None or "deletionTimestamp" in job["metadata"]:
        return None
    for condition in (job.get("status") or {}).get("conditions") or ():
        ended = condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True"
        if ended and condition.get("lastTransitionTime"):
            return parse_time(condition["lastTransitionTime"]) + float(ttl)
    return None


class JobTtlController:
    name = "ttl_after_finished"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._jobs = env.informer(_JOBS)
        self.reconciler = Reconciler(self.name, self._reconcile, workers=env.config.concurrent_job_syncs)
        self._jobs.add_handler(self._on_job)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for job in self._jobs.items():
            self._on_job(None, job)

    def _on_job(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and expires_at(new) is not None:
            self.reconciler.queue.add(key_of(new))

    async def _reconcile(self, key: str) -> Result | None:
        job = self._jobs.get(*split_key(key))
        due = expires_at(job) if job is not None else None
        if job is None or due is None:
            return None
        now = self._env.clock()
        if due > now:
            return Result(due - now)
        meta = job["metadata"]
        with ignore_not_found():
            fresh = await self._env.client.get(_JOBS, meta["name"], meta["namespace"])
            due = expires_at(fresh)
            if due is None or due > now or fresh["metadata"]["uid"] != meta["uid"]:
                return None  # changed: the watch wakes us
            await self._env.client.delete(
                _JOBS, meta["name"], meta["namespace"], uid=meta["uid"], propagation="Foreground"
            )
        return None
