"""A controller whose n-th write is carried out but never answered ends where it would have ended otherwise.

That is what dying right after a write looks like to the next instance, and what a time-out looks like to this one.
"""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.errors import internal
from cluster.controllers.cronjob import CronJobController
from cluster.controllers.daemonset import DaemonSetController
from cluster.controllers.statefulset import StatefulSetController
from cluster.machinery.client import Client, Obj
from tests.support.controller_world import World, template


def losing(nth: int) -> Any:
    """A wrapper of clients; Events do not count."""
    left = [nth]

    def wrap(client: Client) -> Any:
        class Lossy:
            def __getattr__(self, name: str) -> Any:
                inner = getattr(client, name)
                if name not in ("create", "create_all", "update", "patch", "delete"):
                    return inner

                async def call(*args: Any, **kwargs: Any) -> Any:
                    result = await inner(*args, **kwargs)
                    left[0] -= args[0] != "events"
                    if left[0] == 0:
                        left[0] -= 1
                        raise internal("the answer was lost")
                    return result

                return call

        return Lossy()

    return wrap


def workload(kind: str, **spec: Any) -> Obj:
    selector = {"matchLabels": {"app": "w"}}
    meta = {"name": "w", "namespace": "default"}
    body = {"selector": selector, "template": template("w", "v:1"), **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": body}


async def new_image(w: World, resource: str) -> None:
    containers = [{"name": "main", "image": "v:2"}]
    await w.client.patch(resource, "w", {"spec": {"template": {"spec": {"containers": containers}}}}, "default")


@pytest.mark.parametrize("nth", range(1, 16))
async def test_stateful_set(nth: int) -> None:
    async with World(StatefulSetController, wrap=losing(nth)) as w:
        await w.namespace()
        await w.node("n1")
        claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
        claim["spec"]["resources"] = {"requests": {"storage": "1Gi"}}  # type: ignore[index]
        spec: Obj = {"replicas": 2, "serviceName": "w", "volumeClaimTemplates": [claim]}
        await w.create("statefulsets.apps", workload("StatefulSet", **spec))
        await w.settle_with_kubelet()
        await new_image(w, "statefulsets.apps")
        await w.settle_with_kubelet()
        pods = {p["metadata"]["name"]: p["spec"]["containers"][0]["image"] for p in await w.items("pods")}
        assert pods == {"w-0": "v:2", "w-1": "v:2"}
        assert len(await w.items("persistentvolumeclaims")) == 2
        assert sorted(r["revision"] for r in await w.items("controllerrevisions.apps")) == [1, 2]
        status = (await w.client.get("statefulsets.apps", "w", "default"))["status"]
        assert status["currentRevision"] == status["updateRevision"] and status["readyReplicas"] == 2


@pytest.mark.parametrize("nth", range(1, 12))
async def test_daemon_set(nth: int) -> None:
    async with World(DaemonSetController, wrap=losing(nth)) as w:
        await w.namespace()
        for name in ("n1", "n2"):
            await w.node(name)
        await w.create("daemonsets.apps", workload("DaemonSet"))
        await w.settle_with_kubelet()
        await new_image(w, "daemonsets.apps")
        await w.settle_with_kubelet()
        pods = sorted((p["spec"]["nodeName"], p["spec"]["containers"][0]["image"]) for p in await w.items("pods"))
        assert pods == [("n1", "v:2"), ("n2", "v:2")]
        assert sorted(r["revision"] for r in await w.items("controllerrevisions.apps")) == [1, 2]


@pytest.mark.parametrize("nth", range(1, 6))
async def test_cron_job(nth: int) -> None:
    async with World(CronJobController, wrap=losing(nth)) as w:
        await w.namespace()
        pod = template("w", "v:1", restartPolicy="Never")
        body: Obj = {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": pod}}}
        meta = {"name": "w", "namespace": "default"}
        await w.create("cronjobs.batch", {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta, "spec": body})
        await w.settle()
        for _ in range(3):
            await w.tick(60)
        assert len(await w.items("jobs.batch")) == 3
        assert len((await w.client.get("cronjobs.batch", "w", "default"))["status"]["active"]) == 3
