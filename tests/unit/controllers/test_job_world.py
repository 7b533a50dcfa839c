"""Jobs as a whole controller on the in-memory store."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.errors import ApiError, internal
from cluster.controllers import job_indexes
from cluster.controllers.garbage_collector import GarbageCollector
from cluster.controllers.job import JobController
from cluster.controllers.job_core import FINALIZER
from cluster.controllers.job_ttl import JobTtlController
from cluster.machinery.client import Client, Obj, clone
from tests.support.controller_world import World, template

INDEXED: Obj = {"completionMode": "Indexed", "completions": 3, "parallelism": 3}
FAIL_INDEX: Obj = {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [9]}}]}


def job(name: str = "work", restart: str = "Never", **spec: Any) -> Obj:
    pod = {**template(name, "busybox:1", restartPolicy=restart)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": pod, **spec},
    }


async def start(w: World) -> None:
    await w.namespace()
    await w.node("n1")


async def get(w: World, name: str = "work") -> Obj:
    return await w.client.get("jobs.batch", name, "default")


async def running(w: World) -> list[Obj]:
    phases = ("Succeeded", "Failed")
    pods = [p for p in await w.items("pods") if "deletionTimestamp" not in p["metadata"]]
    return [p for p in pods if (p.get("status") or {}).get("phase") not in phases]


async def end(w: World, pod: Obj, phase: str = "Succeeded", code: int = 0) -> None:
    fresh = clone(await w.client.get("pods", pod["metadata"]["name"], "default"))
    state = {"terminated": {"exitCode": code}}
    status = {"name": "main", "image": "busybox:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    fresh["status"] = {**(fresh.get("status") or {}), "phase": phase, "containerStatuses": [status]}
    await w.client.update("pods", fresh, subresource="status")
    await w.settle()


def conditions(obj: Obj) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c.get("reason", "")) for c in (obj["status"].get("conditions") or ())}


async def reasons(w: World) -> set[str]:
    return {e["reason"] for e in await w.items("events")}


async def test_a_job_runs_to_completion() -> None:
    async with World(JobController) as w:
        await start(w)
        made = await w.create("jobs.batch", job(completions=3, parallelism=2))
        uid = made["metadata"]["uid"]
        assert made["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        assert (made["spec"]["backoffLimit"], made["spec"]["completionMode"]) == (6, "NonIndexed")
        await w.settle()
        pods = await running(w)
        assert len(pods) == 2 and all(p["metadata"]["finalizers"] == [FINALIZER] for p in pods)
        assert pods[0]["metadata"]["labels"]["job-name"] == "work"
        assert made["metadata"]["labels"] == made["spec"]["template"]["metadata"]["labels"]
        await w.kubelet()
        await w.settle()
        status = (await get(w))["status"]
        assert (status["active"], status["ready"]) == (2, 2) and status["startTime"]
        for _ in range(3):
            await end(w, (await running(w))[0])
        obj = await get(w)
        status = obj["status"]
        assert (status["succeeded"], "active" in status, status["uncountedTerminatedPods"]) == (3, False, {})
        assert conditions(obj) == {
            "SuccessCriteriaMet": ("True", "CompletionsReached"),
            "Complete": ("True", "CompletionsReached"),
        }
        assert status["completionTime"]
        assert all(not p["metadata"].get("finalizers") for p in await w.items("pods"))
        assert {"SuccessfulCreate", "Completed"} <= await reasons(w)
        before = await w.revision()
        w.controllers[0].resync()
        await w.settle()
        assert w.store.revision == before


async def test_failures_are_retried_with_a_delay_until_the_limit() -> None:
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job(backoffLimit=1))
        await w.settle()
        await end(w, (await running(w))[0], "Failed", 1)
        assert await running(w) == []
        await w.tick(5)
        assert await running(w) == []
        await w.tick(6)
        assert len(await running(w)) == 1
        await end(w, (await running(w))[0], "Failed", 1)
        obj = await get(w)
        assert obj["status"]["failed"] == 2
        assert conditions(obj)["Failed"] == ("True", "BackoffLimitExceeded")
        assert "completionTime" not in obj["status"]
        assert "BackoffLimitExceeded" in await reasons(w)


async def test_the_deadline_ends_the_pods_and_the_job() -> None:
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job(activeDeadlineSeconds=30, parallelism=2, completions=2))
        await w.settle()
        await w.kubelet()
        await w.tick(31)
        obj = await get(w)
        assert conditions(obj)["FailureTarget"] == ("True", "DeadlineExceeded")
        assert "Failed" not in conditions(obj)
        await w.settle_with_kubelet()
        obj = await get(w)
        assert conditions(obj)["Failed"] == ("True", "DeadlineExceeded")
        assert obj["status"]["failed"] == 2 and await w.items("pods") == []


async def test_a_deleted_pod_is_a_failure_and_is_replaced() -> None:
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job())
        await w.settle()
        await w.kubelet()
        pod = (await running(w))[0]
        await w.client.delete("pods", pod["metadata"]["name"], "default")
        await w.settle()
        assert (await get(w))["status"]["failed"] == 1
        await w.tick(11)
        assert len(await running(w)) == 1


async def test_only_failed_pods_are_replaced_when_told_so() -> None:
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job(podReplacementPolicy="Failed"))
        await w.settle()
        await w.kubelet()
        pod = (await running(w))[0]
        await w.client.delete("pods", pod["metadata"]["name"], "default")
        await w.settle()
        await w.tick(60)
        assert await running(w) == []
        assert (await get(w))["status"]["terminating"] == 1
        await end(w, pod, "Failed", 137)
        await w.tick(60)
        assert len(await running(w)) == 1


async def test_suspending_ends_pods_without_counting_them() -> None:
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job(parallelism=2, completions=2))
        await w.settle()
        await w.client.patch("jobs.batch", "work", {"spec": {"suspend": True}}, "default")
        await w.settle_with_kubelet()
        obj = await get(w)
        assert await w.items("pods") == [] and not obj["status"].get("failed")
        assert conditions(obj) == {"Suspended": ("True", "JobSuspended")}
        await w.client.patch("jobs.batch", "work", {"spec": {"suspend": False}}, "default")
        await w.settle()
        assert len(await running(w)) == 2
        assert conditions(await get(w)) == {"Suspended": ("False", "JobResumed")}
        assert {"Suspended", "Resumed"} <= await reasons(w)


async def test_a_job_made_suspended_does_not_start() -> None:
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job(suspend=True))
        await w.settle()
        assert await w.items("pods") == [] and "startTime" not in (await get(w))["status"]


async def test_scaling_parallelism_down_drops_pods_uncounted() -> None:
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job(parallelism=3, completions=5))
        await w.settle()
        await w.client.patch("jobs.batch", "work", {"spec": {"parallelism": 1}}, "default")
        await w.settle_with_kubelet()
        assert len(await running(w)) == 1 and not (await get(w))["status"].get("failed")


async def test_indexed_jobs_give_each_index_one_success() -> None:
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job(completionMode="Indexed", completions=4, parallelism=3))
        await w.settle()
        pods = {job_indexes.index_of(p): p for p in await running(w)}
        assert sorted(pods) == [0, 1, 2]
        pod = pods[1]
        assert pod["metadata"]["name"].startswith("work-1-") and pod["spec"]["hostname"] == "work-1"
        assert pod["spec"]["containers"][0]["env"][0]["name"] == "JOB_COMPLETION_INDEX"
        assert pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "1"
        await end(w, pods[0])
        await end(w, pods[2], "Failed", 3)
        await end(w, pods[1])
        assert (await get(w))["status"]["completedIndexes"] == "0,1"
        await w.tick(30)
        for pod in await running(w):
            await end(w, pod)
        await w.tick(30)
        for pod in await running(w):
            await end(w, pod)
        obj = await get(w)
        assert obj["status"]["completedIndexes"] == "0-3" and obj["status"]["succeeded"] == 4
        assert "Complete" in conditions(obj) and obj["status"]["failed"] == 1


async def test_without_completions_one_success_ends_the_job_when_the_others_have_ended() -> None:
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job(parallelism=2))
        await w.settle()
        await end(w, (await running(w))[0])
        assert len(await running(w)) == 1 and "Complete" not in conditions(await get(w))
        await end(w, (await running(w))[0])
        assert "Complete" in conditions(await get(w))


async def test_pod_failure_policy() -> None:
    rules = [
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
    ]
    async with World(JobController) as w:
        await start(w)
        await w.create("jobs.batch", job(podFailurePolicy={"rules": rules}))
        await w.settle()
        pod = clone((await running(w))[0])
        pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
        pod = await w.client.update("pods", pod, subresource="status")
        await end(w, pod, "Failed", 1)
        assert not (await get(w))["status"].get("failed")
        pod = (await running(w))[0]
        await end(w, pod, "Failed", 42)
        obj = await get(w)
        assert conditions(obj)["Failed"] == ("True", "PodFailurePolicy")
        message = next(c["message"] for c in obj["status"]["conditions"] if c["type"] == "Failed")
        where = f"pod default/{pod['metadata']['name']}"
        assert message == f"Container main for {where} failed with exit code 42 matching FailJob rule at index 0"


async def test_counts_stay_exact_when_the_controller_dies_after_each_write() -> None:
    for nth in range(1, 14):
        failures = _Failures(nth)
        async with World(JobController, wrap=failures.wrap) as w:
            await start(w)
            await w.create("jobs.batch", job(completions=3, parallelism=3))
            for _ in range(8):
                await w.settle()
                for pod in await running(w):
                    await end(w, pod)
            status = (await get(w))["status"]
            assert (status["succeeded"], status.get("failed", 0)) == (3, 0), f"after write {nth}"
            assert len(await w.items("pods")) == 3, f"after write {nth}"


class _Failures:
    """The n-th write of the controllers is carried out, but its answer is lost."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def wrap(self, client: Client) -> Client:
        outer = self

        class Lossy:
            def __getattr__(self, name: str) -> Any:
                inner = getattr(client, name)
                if name not in ("create", "update", "patch", "delete"):
                    return inner

                async def call(*args: Any, **kwargs: Any) -> Any:
                    result = await inner(*args, **kwargs)
                    if args[0] != "events":
                        outer._left -= 1
                        if outer._left == 0:
                            raise internal("the answer was lost")
                    return result

                return call

        return Lossy()  # type: ignore[return-value]


async def test_a_deleted_job_lets_its_pods_go() -> None:
    async with World(JobController, GarbageCollector) as w:
        await start(w)
        await w.create("jobs.batch", job(parallelism=2))
        await w.settle()
        await w.kubelet()
        await w.client.delete("jobs.batch", "work", "default", propagation="Background")
        await w.settle_with_kubelet()
        assert await w.items("pods") == []


async def test_ttl_deletes_a_finished_job() -> None:
    async with World(JobController, JobTtlController, GarbageCollector) as w:
        await start(w)
        await w.create("jobs.batch", job(ttlSecondsAfterFinished=60))
        await w.settle()
        await end(w, (await running(w))[0])
        await w.tick(30)
        assert len(await w.items("jobs.batch")) == 1
        await w.tick(31)
        await w.settle_with_kubelet()
        assert await w.items("jobs.batch") == [] and await w.items("pods") == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"restart": "Always"}, 'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'),
        ({"completionMode": "Indexed", "parallelism": 1}, "spec.completions: Required value"),
        ({"parallelism": -1}, "must be greater than or equal to 0"),
        ({"backoffLimitPerIndex": 1}, "requires indexed completion mode"),
        (INDEXED | {"maxFailedIndexes": 1}, "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is"),
        (INDEXED | {"backoffLimitPerIndex": 1, "restart": "OnFailure"}, 'only "Never" is supported when backoffLimit'),
        (INDEXED | {"podFailurePolicy": FAIL_INDEX}, "requires the backoffLimitPerIndex to be set"),
        ({"successPolicy": {"rules": [{"succeededCount": 1}]}}, "requires indexed completion mode"),
        (INDEXED | {"successPolicy": {"rules": []}}, "at least one rules must be specified"),
        (INDEXED | {"successPolicy": {"rules": [{}]}}, "at least one of succeededCount or succeededIndexes"),
        (INDEXED | {"successPolicy": {"rules": [{"succeededIndexes": "2,1"}]}}, "non-increasing order"),
        (INDEXED | {"successPolicy": {"rules": [{"succeededIndexes": "0-3"}]}}, "too large index"),
        (INDEXED | {"successPolicy": {"rules": [{"succeededCount": 4}]}}, "must be less than or equal to 3"),
    ],
)
async def test_bad_jobs_are_refused(spec: Obj, message: str) -> None:
    async with World() as w:
        await w.namespace()
        with pytest.raises(ApiError) as caught:
            await w.create("jobs.batch", job(**spec))
        assert caught.value.code == 422 and message in caught.value.message


async def test_the_template_and_completions_are_immutable() -> None:
    async with World() as w:
        await w.namespace()
        made = await w.create("jobs.batch", job(completions=2))
        for change in ({"completions": 3}, {"template": {"spec": {"restartPolicy": "OnFailure"}}}):
            with pytest.raises(ApiError, match="field is immutable"):
                await w.client.patch("jobs.batch", "work", {"spec": change}, "default")
        assert (await w.client.patch("jobs.batch", "work", {"spec": {"parallelism": 2}}, "default"))["spec"]
        assert made["metadata"]["labels"].items() >= {"app": "work", "job-name": "work"}.items()


def test_index_texts() -> None:
    assert job_indexes.render({1, 3, 4, 5, 7}) == "1,3-5,7"
    assert job_indexes.render([1, 2]) == "1,2" and job_indexes.render([]) == ""
    assert job_indexes.parse("1,3-5,7,x", 5) == {1, 3, 4}
    assert job_indexes.free(5, {0, 2}, 2) == [1, 3]
