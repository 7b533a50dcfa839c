"""Claims for devices: defaults, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import defaults, validation
from cluster.api.scheme import SCHEME

CLAIMS = SCHEME.named("resourceclaims.resource.k8s.io")


def _faults(*requests: dict[str, Any]) -> list[str]:
    claim = {"metadata": {"name": "c", "namespace": "n"}, "spec": {"devices": {"requests": list(requests)}}}
    defaults.apply(CLAIMS, claim)
    return [f"{c.field}: {c.message}" for c in validation.create(CLAIMS, claim)]


def test_a_request_is_for_one_device_unless_it_says_otherwise() -> None:
    request: dict[str, Any] = {"name": "r", "exactly": {"deviceClassName": "gpu.example.com"}}
    assert _faults(request) == []
    assert request["exactly"] == {"deviceClassName": "gpu.example.com", "allocationMode": "ExactCount", "count": 1}


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"name": "r"}, "spec.devices.requests[0]: Required value: exactly one of"),
        ({"exactly": {"deviceClassName": "c"}}, "spec.devices.requests[0].name: Required value"),
        ({"name": "r", "exactly": {}}, "spec.devices.requests[0].exactly.deviceClassName: Required value"),
        (
            {"name": "r", "exactly": {"deviceClassName": "c", "count": -1}},
            "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
        ),
        (
            {"name": "r", "firstAvailable": [{"name": "a", "deviceClassName": "c", "allocationMode": "Some"}]},
            'spec.devices.requests[0].firstAvailable[0].allocationMode: Unsupported value: "Some"',
        ),
    ],
)
def test_what_is_refused(request_: dict[str, Any], why: str) -> None:
    assert any(fault.startswith(why) for fault in _faults(request_))


def test_names_are_unique() -> None:
    one = {"name": "r", "exactly": {"deviceClassName": "c"}}
    assert 'spec.devices.requests[1].name: Duplicate value: "r"' in _faults(dict(one), dict(one))
