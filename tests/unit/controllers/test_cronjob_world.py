"""CronJobs as a whole controller on the in-memory store."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.meta import parse_time, rfc3339
from cluster.controllers.cronjob import CronJobController
from cluster.controllers.cronjob_core import decide
from cluster.controllers.garbage_collector import GarbageCollector
from cluster.controllers.job import JobController
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World, template
from tests.support.fake_clock import FakeClock

BEGIN = parse_time("2026-05-01T10:00:30Z")


def cron_job(schedule: str = "*/5 * * * *", **spec: Any) -> Obj:
    pod = {**template("tick", "busybox:1", restartPolicy="Never")}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "default"},
        "spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": pod}}, **spec},
    }


def world(*more: Any) -> World:
    return World(CronJobController, *more, clock=FakeClock(BEGIN))


async def get(w: World) -> Obj:
    return await w.client.get("cronjobs.batch", "tick", "default")


async def job_names(w: World) -> list[str]:
    return sorted(j["metadata"]["name"] for j in await w.items("jobs.batch") if _alive(j))


def _alive(obj: Obj) -> bool:
    return "deletionTimestamp" not in obj["metadata"]


def at(text: str) -> str:
    return f"tick-{int(parse_time(text)) // 60}"


async def finish(w: World, name: str, kind: str = "Complete") -> None:
    job = clone(await w.client.get("jobs.batch", name, "default"))
    now = rfc3339(w.clock())
    job["status"] = {"startTime": now, "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now}]}
    if kind == "Complete":
        job["status"]["completionTime"] = now
    await w.client.update("jobs.batch", job, subresource="status")
    await w.settle()


async def test_a_run_is_made_when_it_is_due() -> None:
    async with world() as w:
        await w.namespace()
        await w.create("cronjobs.batch", cron_job())
        await w.settle()
        assert await job_names(w) == []
        await w.tick(270.5)
        name = at("2026-05-01T10:05:00Z")
        assert await job_names(w) == [name]
        job = await w.client.get("jobs.batch", name, "default")
        assert job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"] == (
            "2026-05-01T10:05:00Z"
        )
        assert job["metadata"]["ownerReferences"][0]["kind"] == "CronJob"
        status = (await get(w))["status"]
        assert status["lastScheduleTime"] == "2026-05-01T10:05:00Z"
        assert [r["name"] for r in status["active"]] == [name]
        await finish(w, name)
        status = (await get(w))["status"]
        assert "active" not in status and status["lastSuccessfulTime"] == "2026-05-01T10:05:00Z"
        assert {"SuccessfulCreate", "SawCompletedJob"} <= {e["reason"] for e in await w.items("events")}
        before = await w.revision()
        w.controllers[0].resync()
        await w.settle()
        assert w.store.revision == before


async def test_of_many_missed_runs_only_the_latest_is_made() -> None:
    async with world() as w:
        await w.namespace()
        await w.create("cronjobs.batch", cron_job())
        await w.settle()
        await w.tick(3600 * 24)
        assert await job_names(w) == [at("2026-05-02T10:00:00Z")]
        assert "TooManyMissedTimes" in {e["reason"] for e in await w.items("events")}


async def test_a_run_older_than_its_deadline_is_not_made() -> None:
    async with world() as w:
        await w.namespace()
        await w.create("cronjobs.batch", cron_job(startingDeadlineSeconds=20))
        await w.settle()
        await w.tick(330)  # 10:06:00, a minute after the due time
        assert await job_names(w) == []
        await w.tick(255)  # 10:10:15
        assert await job_names(w) == [at("2026-05-01T10:10:00Z")]


@pytest.mark.parametrize(("policy", "left"), [("Allow", [5, 10]), ("Forbid", [5]), ("Replace", [10])])
async def test_concurrency_policies(policy: str, left: list[int]) -> None:
    async with world(GarbageCollector) as w:
        await w.namespace()
        await w.create("cronjobs.batch", cron_job(concurrencyPolicy=policy))
        await w.settle()
        await w.tick(271)
        await w.tick(300)
        want = [at(f"2026-05-01T10:{m:02}:00Z") for m in left]
        assert await job_names(w) == want
        assert [r["name"] for r in (await get(w))["status"]["active"]] == want
        if policy == "Forbid":
            assert "JobAlreadyActive" in {e["reason"] for e in await w.items("events")}
            await finish(w, want[0])
            assert len(await job_names(w)) == 2  # what was held back starts now


async def test_history_limits() -> None:
    async with world(GarbageCollector) as w:
        await w.namespace()
        await w.create("cronjobs.batch", cron_job(successfulJobsHistoryLimit=2, failedJobsHistoryLimit=0))
        await w.settle()
        await w.tick(271)
        for i in range(5):
            active = (await get(w))["status"]["active"][0]["name"]
            await finish(w, active, "Failed" if i == 4 else "Complete")
            await w.tick(300)
        names = await job_names(w)
        assert names == [at("2026-05-01T10:15:00Z"), at("2026-05-01T10:20:00Z"), at("2026-05-01T10:30:00Z")]


async def test_what_never_started_is_the_last_to_be_forgotten() -> None:
    def ended(name: str, started: str) -> Obj:
        status: Obj = {"conditions": [{"type": "Failed", "status": "True"}]} | (
            {"startTime": started} if started else {}
        )
        return {"metadata": {"name": name, "namespace": "default", "uid": name}, "status": status}

    jobs = [ended("a", ""), ended("c", "2026-05-01T09:00:00Z"), ended("b", "2026-05-01T09:00:00Z"), ended("d", "")]
    cj = cron_job(failedJobsHistoryLimit=1, suspend=True)
    cj["metadata"]["creationTimestamp"] = "2026-05-01T08:00:00Z"
    assert [j["metadata"]["name"] for j in decide(cj, jobs, BEGIN).forget] == ["b", "c", "a"]


async def test_a_job_that_its_cache_does_not_show_yet_is_not_missing() -> None:
    """Caches of two resources are not in step; taken for gone, it would get company in spite of Forbid."""
    async with world() as w:
        await w.namespace()
        await w.create("cronjobs.batch", cron_job(concurrencyPolicy="Forbid"))
        await w.settle()
        await w.tick(271)
        (job,) = await w.items("jobs.batch")
        w.informers.of("jobs.batch")._remove(("default", job["metadata"]["name"]))
        await w.tick(300)
        assert [r["uid"] for r in (await get(w))["status"]["active"]] == [job["metadata"]["uid"]]
        assert len(await w.items("jobs.batch")) == 1
        assert "MissingJob" not in {e["reason"] for e in await w.items("events")}
        await w.client.delete("jobs.batch", job["metadata"]["name"], "default", propagation="Background")
        await w.tick(300)
        assert "MissingJob" in {e["reason"] for e in await w.items("events")}


async def test_a_job_of_the_name_that_is_somebody_elses_is_left_to_him() -> None:
    async with world() as w:
        await w.namespace()
        made = await w.create("cronjobs.batch", cron_job())
        await w.settle()
        meta = {"name": at("2026-05-01T10:05:00Z"), "namespace": "default"}
        spec = made["spec"]["jobTemplate"]["spec"]
        await w.create("jobs.batch", {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec})
        await w.tick(271)
        assert "active" not in ((await get(w)).get("status") or {})
        await w.tick(300)
        assert [r["name"] for r in (await get(w))["status"]["active"]] == [at("2026-05-01T10:10:00Z")]


async def test_the_time_zone_is_honoured_and_suspend_too() -> None:
    async with world() as w:
        await w.namespace()
        await w.create("cronjobs.batch", cron_job("30 12 * * *", timeZone="Europe/Berlin"))
        await w.settle()
        await w.tick(29 * 60 + 31)  # 10:30:01 UTC is 12:30 in Berlin
        job = (await w.items("jobs.batch"))[0]
        stamp = job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"]
        assert stamp == "2026-05-01T12:30:00+02:00"
        await w.client.patch("cronjobs.batch", "tick", {"spec": {"suspend": True}}, "default")
        await w.tick(24 * 3600)
        assert len(await w.items("jobs.batch")) == 1


async def test_a_day_that_never_comes_is_an_event() -> None:
    async with world() as w:
        await w.namespace()
        await w.create("cronjobs.batch", cron_job("59 23 31 2 *"))
        await w.settle()
        event = (await w.items("events"))[0]
        assert (event["type"], event["reason"]) == ("Warning", "InvalidSchedule")
        assert event["message"].startswith("invalid schedule: 59 23 31 2 * : ")


async def test_a_job_made_before_a_crash_is_found_by_its_name() -> None:
    async with world() as w:
        await w.namespace()
        made = await w.create("cronjobs.batch", cron_job())
        await w.settle()
        w.clock.advance(271)
        template_ = made["spec"]["jobTemplate"]["spec"]
        owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": made["metadata"]["uid"]}
        meta = {"name": at("2026-05-01T10:05:00Z"), "namespace": "default"}
        refs = [{**owner, "controller": True}]
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {**meta, "ownerReferences": refs}}
        await w.create("jobs.batch", {**body, "spec": template_})
        await w.tick(1)
        assert len(await w.items("jobs.batch")) == 1
        status = (await get(w))["status"]
        assert status["lastScheduleTime"] == "2026-05-01T10:05:00Z" and len(status["active"]) == 1


async def test_a_run_to_the_end_with_the_job_controller() -> None:
    async with world(JobController) as w:
        await w.namespace()
        await w.node("n1")
        await w.create("cronjobs.batch", cron_job())
        await w.settle()
        await w.tick(271)
        pod = clone((await w.items("pods"))[0])
        pod["status"] = {**pod["status"], "phase": "Succeeded"}
        await w.client.update("pods", pod, subresource="status")
        await w.settle()
        assert "lastSuccessfulTime" in (await get(w))["status"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"schedule": "every day"}, "spec.schedule: Invalid value"),
        ({"schedule": "TZ=UTC 0 0 * * *"}, "use timeZone field instead"),
        ({"timeZone": "Mars/Base"}, "unknown time zone Mars/Base"),
        ({"timeZone": "Local"}, "must be an explicit time zone"),
        ({"concurrencyPolicy": "Maybe"}, "spec.concurrencyPolicy: Unsupported value"),
        ({"startingDeadlineSeconds": -1}, "must be greater than or equal to 0"),
    ],
)
async def test_bad_cron_jobs_are_refused(spec: Obj, message: str) -> None:
    async with world() as w:
        await w.namespace()
        with pytest.raises(ApiError) as caught:
            await w.create("cronjobs.batch", cron_job(**spec))
        assert caught.value.code == 422 and message in caught.value.message
