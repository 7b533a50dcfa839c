"""Autoscaling as a whole controller, with played metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster.controllers.definitions import DefinitionController
from cluster.controllers.deployment import DeploymentController
from cluster.controllers.env import Controller, Env
from cluster.controllers.hpa import HpaController
from cluster.controllers.replicaset import ReplicaSetController
from cluster.machinery.client import Obj
from cluster.machinery.pod_metrics import PodUsage
from tests.support.controller_world import World, deployment, template


class Load:
    """Shared evenly by the pods that run."""

    def __init__(self) -> None:
        self.millicores = 0
        self.world: World | None = None

    async def of_pods(self, namespace: str, pods: Sequence[dict[str, Any]]) -> Mapping[str, PodUsage]:
        assert self.world is not None
        running = [p for p in pods if (p.get("status") or {}).get("phase") == "Running"]
        now = self.world.clock()
        each = self.millicores // max(len(running), 1)
        return {p["metadata"]["name"]: PodUsage(now, 15.0, {"main": {"cpu": each}}) for p in running}


def metered(load: Load | None) -> Callable[[Env], Controller]:
    return lambda env: HpaController(replace(env, outside=replace(env.outside, metrics=load)))


async def start(w: World, **spec: Any) -> None:
    await w.namespace()
    await w.node("n1")
    body = deployment("checkout", replicas=3)
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    await w.create("deployments.apps", body)
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "checkout"}
    target = {"type": "Utilization", "averageUtilization": 70}
    metrics = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    hpa = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
    meta = {"name": "checkout", "namespace": "default"}
    full = {"scaleTargetRef": ref, "minReplicas": 3, "maxReplicas": 10, "metrics": metrics, **spec}
    await w.settle_with_kubelet()
    await w.create("horizontalpodautoscalers.autoscaling", {**hpa, "metadata": meta, "spec": full})
    await w.settle()


async def get(w: World) -> Obj:
    return await w.client.get("horizontalpodautoscalers.autoscaling", "checkout", "default")


async def replicas(w: World) -> int:
    return int((await w.client.get("deployments.apps", "checkout", "default"))["spec"]["replicas"])


def conditions(hpa: Obj) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c["reason"]) for c in hpa["status"]["conditions"]}


async def test_checkout_goes_from_3_to_10_and_back() -> None:
    load = Load()
    async with World(DeploymentController, ReplicaSetController, metered(load)) as w:
        load.world, load.millicores = w, 690
        await start(w)
        seen = [await replicas(w)]
        for _ in range(45):
            await w.tick(15)
            await w.settle_with_kubelet()
            seen.append(await replicas(w))
        assert seen[0] in (3, 6) and seen[-1] == 10 and seen == sorted(seen)
        load.millicores = 30
        quiet = 0
        while await replicas(w) == 10:
            await w.tick(15)
            await w.settle_with_kubelet()
            quiet += 15
            if await replicas(w) == 10:
                held = conditions(await get(w))
                assert held["AbleToScale"] == ("True", "ScaleDownStabilized")
                assert held["ScalingLimited"] == ("False", "DesiredWithinRange")
        assert 285 <= quiet <= 330
        for _ in range(30):
            await w.tick(15)
            await w.settle_with_kubelet()
        assert await replicas(w) == 3
        hpa = await get(w)
        assert conditions(hpa)["ScalingActive"] == ("True", "ValidMetricFound")
        assert conditions(hpa)["ScalingLimited"] == ("True", "TooFewReplicas")
        assert "SuccessfulRescale" in {e["reason"] for e in await w.items("events")}


async def test_without_metrics_it_says_so_and_does_nothing() -> None:
    async with World(DeploymentController, ReplicaSetController, metered(None)) as w:
        await start(w)
        await w.tick(15)
        assert await replicas(w) == 3
        assert conditions(await get(w)) == {
            "AbleToScale": ("True", "SucceededGetScale"),
            "ScalingActive": ("False", "FailedGetResourceMetric"),
        }
        why = "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from "
        why += "resource metrics API: no source of pod metrics is configured"
        told = {e["message"] for e in await w.items("events") if e["reason"] == "FailedComputeMetricsReplicas"}
        assert told == {f"invalid metrics (1 invalid out of 1), first error is: {why}"}


async def test_a_size_out_of_range_is_mended_whatever_metrics_say() -> None:
    async with World(DeploymentController, ReplicaSetController, metered(None)) as w:
        await start(w)
        await w.client.patch("deployments.apps", "checkout", {"spec": {"replicas": 15}}, "default")
        await w.tick(15)
        assert await replicas(w) == 10
        told = {e["message"] for e in await w.items("events") if e["reason"] == "SuccessfulRescale"}
        assert told == {"New size: 10; reason: Current number of replicas above Spec.MaxReplicas"}


async def test_a_target_that_is_not_there() -> None:
    async with World(metered(None)) as w:
        ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "nobody"}
        await start(w, scaleTargetRef=ref)
        assert conditions(await get(w)) == {"AbleToScale": ("False", "FailedGetScale")}


async def test_a_custom_resource_with_scale() -> None:
    """The HPA sees its replicas and its selector where the definition says they are."""
    pytest.importorskip("cel_expr_python", reason="`make bootstrap` installs it")
    load = Load()
    async with World(DefinitionController, metered(load)) as w:
        load.world, load.millicores = w, 690
        await w.create("customresourcedefinitions.apiextensions.k8s.io", fleet_definition())
        await w.settle()
        await w.registry.catalog.fresh()
        await start(w, scaleTargetRef={"apiVersion": "example.com/v1", "kind": "Fleet", "name": "f"})
        fleet = {"apiVersion": "example.com/v1", "kind": "Fleet", "metadata": {"name": "f", "namespace": "default"}}
        await w.create("fleets.example.com", {**fleet, "spec": {"size": 3}, "status": {"match": "app=f"}})
        body = template("f", nodeName="n1")
        body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
        for i in range(3):
            meta = {"name": f"p{i}", "namespace": "default", "labels": {"app": "f"}}
            await w.create("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body["spec"]})
        await w.settle_with_kubelet()
        for _ in range(3):
            await w.tick(15)
            await w.settle_with_kubelet()
        assert conditions(await get(w))["AbleToScale"][0] == "True"
        assert (await w.client.get("fleets.example.com", "f", "default"))["spec"]["size"] > 3


def fleet_definition() -> Obj:
    scale = {
        "specReplicasPath": ".spec.size",
        "statusReplicasPath": ".status.size",
        "labelSelectorPath": ".status.match",
    }
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    spec = {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "fleets", "kind": "Fleet"},
        "versions": [{**version, "subresources": {"scale": scale}}],
    }
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    return {**crd, "metadata": {"name": "fleets.example.com"}, "spec": spec}
