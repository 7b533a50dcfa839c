"""The autoscaler's custom and external metrics read from Prometheus: what prometheus-adapter's usual rules would say.

The expressions are pure. A metric `m` is the series `m`, or, where there is none, the rate of counter `m_total` over
two minutes. Series of a namespace are seen from that namespace alone; external ones may have no namespace at all. A pod
is known by the label `pod`, another object by a label of its kind's name (`ingress`, `service`, ...).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from cluster.api.errors import ApiError
from cluster.api.selectors import LabelSelector, Requirement, from_label_selector
from cluster.controllers.hpa_core import Sample
from cluster.machinery.client import Obj
from cluster.machinery.prometheus import Point

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_RATE_S = 120.0


class Series(Protocol):
    """`cluster.machinery.prometheus.Prometheus` fulfils it."""

    async def query(self, expression: str) -> Sequence[Point]:
        """Raises ApiError."""
        ...


class PrometheusMetrics:
    """As `hpa_custom.CustomMetrics`, in thousandths; all raise ApiError."""

    def __init__(self, series: Series) -> None:
        self._series = series

    async def of_pods(self, namespace: str, metric: Obj) -> dict[str, Sample]:
        """By pod's name; of all pods of the namespace."""
        points = await self._series.query(expression(metric, [_is("namespace", namespace), 'pod!=""'], by="pod"))
        return {p.labels["pod"]: Sample(_milli(p), p.at, _RATE_S) for p in self._some(points, metric)}

    async def of_object(self, namespace: str, metric: Obj, ref: Obj) -> int:
        label = str(ref["kind"]).lower()
        matchers = [_is(label, ref["name"])]
        if label != "namespace" and namespace:
            matchers.append(_is("namespace", namespace))
        return self._sum(await self._series.query(expression(metric, matchers)), metric)

    async def external(self, namespace: str, metric: Obj) -> int:
        """The sum of all series that the selector matches."""
        matchers = [f"namespace=~{_quoted(f'{re.escape(namespace)}|')}"]
        return self._sum(await self._series.query(expression(metric, matchers)), metric)

    def _sum(self, points: Sequence[Point], metric: Obj) -> int:
        return sum(_milli(p) for p in self._some(points, metric))

    @staticmethod
    def _some(points: Sequence[Point], metric: Obj) -> Sequence[Point]:
        if not points:
            raise ApiError(404, "NotFound", f"Prometheus has no series for metric {metric['name']}")
        return points


def expression(metric: Obj, matchers: Sequence[str], by: str = "") -> str:
    """PromQL. Raises ApiError for names that Prometheus cannot have."""
    name = metric["name"]
    if not _NAME.fullmatch(name):
        raise ApiError(404, "NotFound", f"{name!r} is no name of a Prometheus metric: letters, digits, _ and : are")
    where = ",".join([*_selected(from_label_selector(metric.get("selector") or {})), *matchers])
    total = f"sum by ({by})" if by else "sum"
    return f"{total} ({name}{{{where}}}) or {total} (rate({name}_total{{{where}}}[{_RATE_S:.0f}s]))"


def _selected(selector: LabelSelector) -> list[str]:
    return [_matcher(requirement) for requirement in selector.requirements]


def _matcher(requirement: Requirement) -> str:
    key = requirement.key
    if not _LABEL.fullmatch(key):
        raise ApiError(404, "NotFound", f"{key!r} is no label of a Prometheus series: letters, digits and _ are")
    values = "|".join(re.escape(v) for v in requirement.values)
    match requirement.op:
        case "In":
            return f"{key}=~{_quoted(values)}"
        case "NotIn":
            return f"{key}!~{_quoted(values)}"
        case "Exists":
            return f'{key}!=""'
        case _:
            return f'{key}=""'


def _is(label: str, value: str) -> str:
    return f"{label}={_quoted(value)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _milli(point: Point) -> int:
    return round(point.value * 1000)
