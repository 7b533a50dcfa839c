"""Metrics that are not a pod's CPU or memory: read from custom.metrics.k8s.io and external.metrics.k8s.io.

Those APIs are served by whoever has the metrics (an adapter for Prometheus, KEDA), under an APIService. Where none is
registered, a Prometheus that the controllers know (`prometheus-url`) is read instead (`hpa_prometheus`). Values are in
thousandths, since quantities are. Source: k8s.io/metrics, kubernetes pkg/controller/podautoscaler/metrics/client.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.api.errors import ApiError, service_unavailable
from cluster.api.meta import parse_time
from cluster.api.quantity import millis
from cluster.api.selectors import LabelSelector, from_label_selector
from cluster.controllers.env import Env
from cluster.controllers.hpa_core import Sample
from cluster.controllers.hpa_prometheus import PrometheusMetrics
from cluster.machinery.client import Obj

_CUSTOM, _EXTERNAL = "custom.metrics.k8s.io", "external.metrics.k8s.io"
_VERSIONS = {_CUSTOM: ("v1beta2", "v1beta1"), _EXTERNAL: ("v1beta1",)}


class CustomMetrics:
    """All raise ApiError when the API is not served, or does not know the metric."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._prometheus = None if env.outside.series is None else PrometheusMetrics(env.outside.series)
        self._services = env.informer("apiservices.apiregistration.k8s.io")

    async def of_pods(self, namespace: str, metric: Obj, pods: LabelSelector) -> dict[str, Sample]:
        """By pod's name."""
        if (prometheus := self._instead_of(_CUSTOM)) is not None:
            return await prometheus.of_pods(namespace, metric)
        query = {"labelSelector": str(pods)} | _query("metricLabelSelector", metric)
        items = await self._items(_CUSTOM, f"/namespaces/{namespace}/pods/*/{metric['name']}", query)
        return {i["describedObject"]["name"]: _sample(i) for i in items}

    async def of_object(self, namespace: str, metric: Obj, ref: Obj) -> int:
        if (prometheus := self._instead_of(_CUSTOM)) is not None:
            return await prometheus.of_object(namespace, metric, ref)
        path = f"{self._object_path(namespace, ref)}/{metric['name']}"
        items = await self._items(_CUSTOM, path, _query("metricLabelSelector", metric))
        if len(items) != 1:
            raise service_unavailable(f"expected one value of {metric['name']}, the metrics API gave {len(items)}")
        return _milli(items[0]["value"])

    async def external(self, namespace: str, metric: Obj) -> int:
        """The sum of all series that the selector matches."""
        if (prometheus := self._instead_of(_EXTERNAL)) is not None:
            return await prometheus.external(namespace, metric)
        query = _query("labelSelector", metric)
        items = await self._items(_EXTERNAL, f"/namespaces/{namespace}/{metric['name']}", query)
        return sum(_milli(i["value"]) for i in items)

    def _instead_of(self, group: str) -> PrometheusMetrics | None:
        served = any(self._services.get("", f"{version}.{group}") is not None for version in _VERSIONS[group])
        return None if served else self._prometheus

    def _object_path(self, namespace: str, ref: Obj) -> str:
        group, _, version = str(ref.get("apiVersion") or "v1").rpartition("/")
        info = self._env.resources.for_kind(group, version, ref["kind"])
        if info is None:
            raise service_unavailable(f'no matches for kind "{ref["kind"]}" in version "{ref.get("apiVersion")}"')
        if info.name == "namespaces":
            return f"/namespaces/{ref['name']}/metrics"
        plural = f"{info.plural}.{info.group}" if info.group else info.plural
        return f"{f'/namespaces/{namespace}' if info.namespaced else ''}/{plural}/{ref['name']}"

    async def _items(self, group: str, path: str, query: dict[str, str]) -> Sequence[Obj]:
        for version in _VERSIONS[group]:
            service = self._services.get("", f"{version}.{group}")
            if service is None or not service["spec"].get("service") or self._env.outside.aggregated is None:
                continue
            answer = await self._env.outside.aggregated.get(service, f"/apis/{group}/{version}{path}", query)
            items: list[Any] = answer.get("items") or []
            if not items:
                raise ApiError(404, "NotFound", f"no metrics returned from {group} for {path.rpartition('/')[2]}")
            return items
        raise ApiError(404, "NotFound", f"no {group} API is registered: install an adapter that serves it")


def _query(parameter: str, metric: Obj) -> dict[str, str]:
    selector = metric.get("selector")
    return {parameter: str(from_label_selector(selector))} if selector else {}


def _sample(item: Obj) -> Sample:
    return Sample(_milli(item["value"]), parse_time(item["timestamp"]), float(item.get("windowSeconds") or 60))


def _milli(quantity: str) -> int:
    return millis(quantity)
