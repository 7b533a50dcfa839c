"""ResourceQuota and LimitRange: defaults and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import defaults, validation
from cluster.api.scheme import SCHEME

Object = dict[str, Any]


def _faults(resource: str, spec: Object) -> list[str]:
    info = SCHEME.named(resource)
    obj = {"metadata": {"name": "x", "namespace": "default"}, "spec": spec}
    defaults.apply(info, obj)
    return [str(c) for c in validation.create(info, obj)]


def test_a_quota_of_everything_passes() -> None:
    hard = {"pods": "4", "requests.cpu": "1", "limits.memory": "1Gi", "count/deployments.apps": "3", "example.com/x": 1}
    assert _faults("resourcequotas", {"hard": hard}) == []
    scoped = {"hard": {"pods": "4"}, "scopes": ["BestEffort"]}
    assert _faults("resourcequotas", scoped) == []
    priority = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
    assert _faults("resourcequotas", {"hard": {"cpu": "1"}, "scopeSelector": {"matchExpressions": [priority]}}) == []


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"hard": {"pods": "-1"}}, 'spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0'),
        ({"hard": {"pods": "1500m"}}, 'spec.hard[pods]: Invalid value: "1500m": must be an integer'),
        ({"hard": {"zap": "1"}}, 'spec.hard[zap]: Invalid value: "zap": must be a standard resource for quota'),
        (
            {"hard": {"pods": 1}, "scopes": ["BestEffort", "NotBestEffort"]},
            'spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes',
        ),
        (
            {"hard": {"secrets": 1}, "scopes": ["Terminating"]},
            'spec.scopes: Invalid value: ["Terminating"]: unsupported scope applied to resource',
        ),
        ({"hard": {}, "scopes": ["Odd"]}, 'spec.scopes: Invalid value: ["Odd"]: unsupported scope'),
        (
            {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}},
            "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is "
            "'In' or 'NotIn' for scope selector",
        ),
    ],
)
def test_quota_faults(spec: Object, fault: str) -> None:
    assert fault in _faults("resourcequotas", spec)


def test_scopes_are_immutable() -> None:
    info = SCHEME.named("resourcequotas")
    old = {"metadata": {"name": "x", "namespace": "default"}, "spec": {"scopes": ["BestEffort"]}}
    new = {"metadata": {"name": "x", "namespace": "default"}, "spec": {"scopes": []}}
    assert [str(c) for c in validation.update(info, new, old)] == ["spec.scopes: Invalid value: []: field is immutable"]


def test_limit_range_defaults_come_from_max_and_min() -> None:
    item: Object = {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}}
    obj = {"metadata": {"name": "x"}, "spec": {"limits": [item]}}
    for _ in range(2):
        defaults.apply(SCHEME.named("limitranges"), obj)
        assert item["default"] == {"cpu": "2"}
        assert item["defaultRequest"] == {"cpu": "2", "memory": "1Mi"}


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        (
            {"type": "Pod", "default": {"cpu": 1}},
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        ),
        (
            {"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}},
            'spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1',
        ),
        (
            {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "2"}},
            'spec.limits[0].defaultRequest[cpu]: Invalid value: "2": default request value 2 is greater than default '
            "limit value 1",
        ),
        (
            {"type": "PersistentVolumeClaim"},
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither "
            "was provided",
        ),
        (
            {"type": "Odd"},
            'spec.limits[0].type: Invalid value: "Odd": must be a standard limit type or fully qualified',
        ),
        (
            {"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}},
            'spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1',
        ),
    ],
)
def test_limit_range_faults(item: Object, fault: str) -> None:
    assert fault in _faults("limitranges", {"limits": [item]})


def test_one_item_per_type() -> None:
    items = [{"type": "Pod", "max": {"cpu": "1"}}] * 2
    assert _faults("limitranges", {"limits": items}) == ['spec.limits[1].type: Duplicate value: "Pod"']
