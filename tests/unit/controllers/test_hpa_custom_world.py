"""Autoscaling by metrics of pods, of one object and from outside, as an adapter's metrics APIs give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.controllers.env import Controller, Env
from cluster.controllers.hpa import HpaController
from cluster.machinery.client import Obj
from tests.support.controller_world import World
from tests.unit.controllers.test_hpa_world import conditions, get, replicas, start

SERVED = (("v1beta2", "custom.metrics.k8s.io"), ("v1beta1", "external.metrics.k8s.io"))


class Adapter:
    """Answers by path; remembers what it was asked."""

    def __init__(self, answers: Mapping[str, list[Obj]]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def get(self, service: Obj, path: str, query: Mapping[str, str]) -> Obj:
        self.asked.append((path, dict(query)))
        if path not in self._answers:
            raise ApiError(404, "NotFound", f"the server could not find the metric {path.rpartition('/')[2]}")
        return {"items": self._answers[path]}


def reading(adapter: Adapter | None) -> Callable[[Env], Controller]:
    return lambda env: HpaController(replace(env, outside=replace(env.outside, aggregated=adapter)))


async def serve(w: World) -> None:
    for version, group in SERVED:
        spec = {"group": group, "version": version, "service": {"namespace": "monitoring", "name": "adapter"}}
        spec |= {"groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": True}
        await w.create("apiservices.apiregistration.k8s.io", {"metadata": {"name": f"{version}.{group}"}, "spec": spec})


async def scaled_by(metric: Obj, adapter: Adapter | None) -> tuple[int, Obj]:
    """Replicas of a Deployment of 3 ready pods after one period, and the autoscaler."""
    async with World(reading(adapter)) as w:
        await serve(w)
        await start(w, metrics=[metric])
        for i in range(3):
            meta = {"name": f"p{i}", "namespace": "default", "labels": {"app": "checkout"}}
            pod = {"metadata": meta, "spec": {"containers": [{"name": "main", "image": "x"}]}}
            await w.create("pods", pod)
        deployment = await w.client.get("deployments.apps", "checkout", "default")
        deployment = {**deployment, "status": {"replicas": 3}}
        await w.client.update("deployments.apps", deployment, subresource="status")
        await w.kubelet()
        await w.tick(15)
        return await replicas(w), await get(w)


def of_pod(name: str, value: str) -> Obj:
    return {"describedObject": {"kind": "Pod", "name": name}, "timestamp": rfc3339(0.0), "value": value}


def shown(hpa: Obj) -> Any:
    (entry,) = hpa["status"]["currentMetrics"]
    return entry[entry["type"][0].lower() + entry["type"][1:]]["current"]


async def test_a_metric_of_the_pods() -> None:
    path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/requests_per_second"
    adapter = Adapter({path: [of_pod("p0", "200"), of_pod("p1", "250m"), of_pod("p2", "99750m")]})
    target = {"type": "AverageValue", "averageValue": "50"}
    selector = {"matchLabels": {"verb": "GET"}}
    metric = {"metric": {"name": "requests_per_second", "selector": selector}, "target": target}
    count, hpa = await scaled_by({"type": "Pods", "pods": metric}, adapter)
    assert count == 6 and shown(hpa) == {"averageValue": "100"}
    query = {"labelSelector": "app=checkout", "metricLabelSelector": "verb=GET"}
    assert adapter.asked[-1] == (path, query)


async def test_a_metric_of_an_object_as_a_whole_and_for_each_pod() -> None:
    path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/ingresses.networking.k8s.io/front/hits"
    adapter = Adapter({path: [{"value": "6k", "timestamp": rfc3339(0.0)}]})
    ref = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "front"}
    for target, want, current in (
        ({"type": "Value", "value": "4k"}, 5, {"value": "6k"}),
        ({"type": "AverageValue", "averageValue": "1k"}, 6, {"averageValue": "2k"}),
    ):
        metric = {"metric": {"name": "hits"}, "describedObject": ref, "target": target}
        count, hpa = await scaled_by({"type": "Object", "object": metric}, adapter)
        assert count == want and shown(hpa) == current


async def test_a_metric_from_outside_sums_all_series() -> None:
    path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue_length"
    adapter = Adapter({path: [{"value": "30"}, {"value": "20"}]})
    selector = {"matchLabels": {"queue": "work"}}
    target = {"type": "AverageValue", "averageValue": "10"}
    metric = {"metric": {"name": "queue_length", "selector": selector}, "target": target}
    count, hpa = await scaled_by({"type": "External", "external": metric}, adapter)
    assert count == 5 and shown(hpa) == {"averageValue": "16667m"}
    assert adapter.asked[-1] == (path, {"labelSelector": "queue=work"})
    assert conditions(hpa)["ScalingActive"] == ("True", "ValidMetricFound")


async def test_what_cannot_be_read_is_said() -> None:
    metric = {"metric": {"name": "none"}, "target": {"type": "AverageValue", "averageValue": "10"}}
    for adapter, why in (
        (Adapter({}), "the server could not find the metric none"),
        (None, "no external.metrics.k8s.io API is registered: install an adapter that serves it"),
    ):
        count, hpa = await scaled_by({"type": "External", "external": metric}, adapter)
        assert count == 3 and conditions(hpa)["ScalingActive"] == ("False", "FailedGetExternalMetric")
        message = next(c["message"] for c in hpa["status"]["conditions"] if c["type"] == "ScalingActive")
        failed = "failed to get external metric none"
        assert message == f"the HPA was unable to compute the replica count: {failed}: {why}"
