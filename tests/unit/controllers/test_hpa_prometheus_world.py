"""Custom and external metrics out of a Prometheus, when no metrics API is registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.controllers.env import Controller, Env
from cluster.controllers.hpa import HpaController
from cluster.controllers.hpa_prometheus import expression
from cluster.machinery.client import Obj
from cluster.machinery.prometheus import Point
from tests.support.controller_world import World
from tests.unit.controllers.test_hpa_custom_world import shown
from tests.unit.controllers.test_hpa_world import conditions, get, replicas, start


class Server:
    """Answers every expression with the same points; remembers what it was asked."""

    def __init__(self, *points: tuple[Mapping[str, str], float]) -> None:
        self._points = [Point(labels, value, 0.0) for labels, value in points]
        self.asked: list[str] = []

    async def query(self, expression: str) -> Sequence[Point]:
        self.asked.append(expression)
        return self._points


async def scaled_by(metric: Obj, server: Server) -> tuple[int, Obj]:
    """Replicas of a Deployment of 3 ready pods after one period, and the autoscaler."""

    def controller(env: Env) -> Controller:
        return HpaController(replace(env, outside=replace(env.outside, series=server)))

    async with World(controller) as w:
        await start(w, metrics=[metric])
        for i in range(3):
            meta = {"name": f"p{i}", "namespace": "default", "labels": {"app": "checkout"}}
            await w.create("pods", {"metadata": meta, "spec": {"containers": [{"name": "main", "image": "x"}]}})
        deployment = await w.client.get("deployments.apps", "checkout", "default")
        await w.client.update("deployments.apps", {**deployment, "status": {"replicas": 3}}, subresource="status")
        await w.kubelet()
        await w.tick(15)
        return await replicas(w), await get(w)


async def test_an_external_metric_is_the_sum_of_its_series() -> None:
    server = Server(({}, 50.0))
    selector = {"matchLabels": {"queue": "work"}}
    target = {"type": "AverageValue", "averageValue": "10"}
    metric = {"metric": {"name": "queue_length", "selector": selector}, "target": target}
    count, hpa = await scaled_by({"type": "External", "external": metric}, server)
    assert count == 5 and shown(hpa) == {"averageValue": "16667m"}
    where = '{queue=~"work",namespace=~"default|"}'
    assert server.asked[-1] == f"sum (queue_length{where}) or sum (rate(queue_length_total{where}[120s]))"


async def test_a_metric_of_the_pods_counts_those_of_the_target() -> None:
    server = Server(({"pod": "p0"}, 120.0), ({"pod": "p1"}, 80.0), ({"pod": "p2"}, 100.0), ({"pod": "other"}, 1e6))
    metric = {"metric": {"name": "requests"}, "target": {"type": "AverageValue", "averageValue": "50"}}
    count, hpa = await scaled_by({"type": "Pods", "pods": metric}, server)
    assert count == 6 and shown(hpa) == {"averageValue": "100"}


async def test_a_metric_of_an_object() -> None:
    server = Server(({}, 6000.0))
    ref = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "front"}
    metric = {"metric": {"name": "hits"}, "describedObject": ref, "target": {"type": "Value", "value": "4k"}}
    count, _ = await scaled_by({"type": "Object", "object": metric}, server)
    assert count == 5 and 'hits{ingress="front",namespace="default"}' in server.asked[-1]


async def test_no_series_is_said() -> None:
    metric = {"metric": {"name": "none"}, "target": {"type": "AverageValue", "averageValue": "10"}}
    count, hpa = await scaled_by({"type": "External", "external": metric}, Server())
    assert count == 3 and conditions(hpa)["ScalingActive"] == ("False", "FailedGetExternalMetric")


@pytest.mark.parametrize(
    ("selector", "matcher"),
    [
        ({"key": "a", "operator": "NotIn", "values": ["x.y", "z"]}, r'a!~"x\\.y|z"'),
        ({"key": "a", "operator": "Exists"}, 'a!=""'),
        ({"key": "a", "operator": "DoesNotExist"}, 'a=""'),
    ],
)
def test_selectors_become_matchers(selector: dict[str, Any], matcher: str) -> None:
    assert f"m{{{matcher}}}" in expression({"name": "m", "selector": {"matchExpressions": [selector]}}, [])


@pytest.mark.parametrize("metric", [{"name": "a b"}, {"name": "m", "selector": {"matchLabels": {"a.b/c": "x"}}}])
def test_names_that_prometheus_cannot_have_are_refused(metric: Obj) -> None:
    with pytest.raises(ApiError, match="Prometheus"):
        expression(metric, [])
