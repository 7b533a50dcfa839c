"""Indexed Jobs whose indexes fail and succeed each for itself: retry budgets, FailIndex, policies of success."""

from __future__ import annotations

from typing import Any

from cluster.controllers import job_indexes
from cluster.controllers.job import JobController
from cluster.controllers.job_per_index import FAILURES, IGNORED
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World
from tests.unit.controllers.test_job_world import FAIL_INDEX, INDEXED, conditions, end, get, job, running, start


async def made(w: World, **spec: Any) -> None:
    await start(w)
    await w.create("jobs.batch", job(**INDEXED, **spec))
    await w.settle()


async def by_index(w: World) -> dict[int, Obj]:
    return {i: p for p in await running(w) if (i := job_indexes.index_of(p)) is not None}


def annotation(pod: Obj, key: str) -> str:
    return str(pod["metadata"]["annotations"].get(key, ""))


async def test_an_index_fails_when_its_own_budget_is_used_up() -> None:
    async with World(JobController) as w:
        await made(w, backoffLimitPerIndex=1)
        pods = await by_index(w)
        assert {annotation(p, FAILURES) for p in pods.values()} == {"0"}
        await end(w, pods[1], "Failed", 1)
        status = (await get(w))["status"]
        assert (status.get("failed", 0), status["failedIndexes"]) == (0, "")  # it waits for the one that carries on
        assert 1 not in await by_index(w)
        await w.tick(11)
        again = (await by_index(w))[1]
        assert annotation(again, FAILURES) == "1" and (await get(w))["status"]["failed"] == 1
        await end(w, again, "Failed", 1)
        status = (await get(w))["status"]
        assert (status["failed"], status["failedIndexes"]) == (2, "1")
        for index in (0, 2):
            await end(w, pods[index])
        obj = await get(w)
        assert conditions(obj)["Failed"] == ("True", "FailedIndexes")
        assert (obj["status"]["completedIndexes"], obj["status"]["failedIndexes"]) == ("0,2", "1")
        assert obj["spec"]["backoffLimit"] == 2**31 - 1
        assert not any(p["metadata"].get("finalizers") for p in await w.items("pods"))


async def test_too_many_failed_indexes_end_the_job_at_once() -> None:
    async with World(JobController) as w:
        await made(w, backoffLimitPerIndex=0, maxFailedIndexes=1)
        pods = await by_index(w)
        await end(w, pods[0], "Failed", 1)
        assert "Failed" not in conditions(await get(w)) and len(await running(w)) == 2
        await end(w, pods[2], "Failed", 1)
        await w.kubelet(ready=False)
        await w.settle()
        obj = await get(w)
        assert conditions(obj)["Failed"] == ("True", "MaxFailedIndexesExceeded")
        assert not await running(w) and obj["status"]["failedIndexes"] == "0,2"


async def test_a_rule_fails_an_index_or_ignores_a_failure() -> None:
    policy = clone(FAIL_INDEX)
    policy["rules"].append({"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}})
    async with World(JobController) as w:
        await made(w, backoffLimitPerIndex=1, podFailurePolicy=policy)
        pods = await by_index(w)
        await end(w, pods[0], "Failed", 9)
        assert (await get(w))["status"]["failedIndexes"] == "0"
        await end(w, pods[1], "Failed", 7)
        await w.tick(11)
        again = (await by_index(w))[1]
        assert (annotation(again, FAILURES), annotation(again, IGNORED)) == ("0", "1")
        assert (await get(w))["status"]["failed"] == 1


async def test_a_budget_survives_a_restart_of_the_controller() -> None:
    async with World(JobController) as w:
        await made(w, backoffLimitPerIndex=2)
        await end(w, (await by_index(w))[0], "Failed", 1)
    async with World(JobController, store=w.store, clock=w.clock) as later:
        await later.settle()
        assert 0 not in await by_index(later)
        await later.tick(11)
        assert annotation((await by_index(later))[0], FAILURES) == "1"


async def test_success_by_the_indexes_or_their_number() -> None:
    rules = [{"succeededIndexes": "0,2", "succeededCount": 2}, {"succeededIndexes": "1"}]
    for ends, rule in (((0, 2), 0), ((1,), 1)):
        async with World(JobController) as w:
            await made(w, successPolicy={"rules": rules})
            pods = await by_index(w)
            for index in ends[:-1]:
                await end(w, pods[index])
                assert "SuccessCriteriaMet" not in conditions(await get(w))
            await end(w, pods[ends[-1]])
            await w.kubelet(ready=False)
            await w.settle()
            obj = await get(w)
            assert conditions(obj)["SuccessCriteriaMet"] == ("True", "SuccessPolicy")
            assert conditions(obj)["Complete"] == ("True", "SuccessPolicy")
            message = next(c["message"] for c in obj["status"]["conditions"] if c["type"] == "Complete")
            assert message == f"Matched rules at index {rule}" and not await running(w)
            assert obj["status"]["completedIndexes"] == ",".join(str(i) for i in ends)
