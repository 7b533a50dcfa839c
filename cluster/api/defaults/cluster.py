"""Defaults of CSI drivers and of API priority and fairness (pkg/apis/{storage,flowcontrol}/v1/defaults.go). Pure, in
place.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

_DRIVER: dict[str, Any] = {
    "attachRequired": True,
    "podInfoOnMount": False,
    "storageCapacity": False,
    "fsGroupPolicy": "ReadWriteOnceWithFSType",
    "requiresRepublish": False,
    "seLinuxMount": False,
}
_QUEUING = {"queues": 64, "handSize": 8, "queueLengthLimit": 50}


def default_driver(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    for field, value in _DRIVER.items():
        spec.setdefault(field, value)
    if not spec.get("volumeLifecycleModes"):
        spec["volumeLifecycleModes"] = ["Persistent"]


def default_flow_schema(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("matchingPrecedence"):
        spec["matchingPrecedence"] = 1000


def default_priority_level(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if spec.get("type") == "Exempt":
        exempt = spec.setdefault("exempt", {})
        exempt.setdefault("nominalConcurrencyShares", 0)
        exempt.setdefault("lendablePercent", 0)
    limited = spec.get("limited")
    if limited is None:
        return
    limited.setdefault("nominalConcurrencyShares", 30)
    limited.setdefault("lendablePercent", 0)
    response = limited.setdefault("limitResponse", {})
    if response.get("type") == "Queue" and response.get("queuing") is not None:
        for field, value in _QUEUING.items():
            response["queuing"].setdefault(field, value)
