"""The walkthrough fails when a machine has not seen the Service, and says which machine, and what of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def walkthrough(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "infra"))
    return importlib.import_module("walkthrough")


def test_what_no_machine_misses_is_no_failure(walkthrough: Any) -> None:
    walkthrough.check({"m1": (1.0, 2.0), "m2": (2.0, 1.0)}, "10.96.0.7")
    walkthrough.check({}, "10.96.0.7")


@pytest.mark.parametrize(
    ("seen", "missing"),
    [((0.0, 2.0), "m2 does not reach 10.96.0.7:80"), ((1.0, 0.0), "m2 does not resolve the Service's name")],
)
def test_what_a_machine_misses_is_named(walkthrough: Any, seen: tuple[float, float], missing: str) -> None:
    with pytest.raises(SystemExit, match=missing):
        walkthrough.check({"m1": (1.0, 1.0), "m2": seen}, "10.96.0.7")


def test_each_row_of_the_reference_has_what_was_measured(walkthrough: Any) -> None:
    pods = walkthrough.DeploymentDone(stored=20.0, replica_set=30.0, pods=45.0, bound=60.0, ready=900.0)
    service = walkthrough.ServiceDone(asked=1000.0, endpoints=1010.0, rules=1030.0, names=1015.0)
    phases = walkthrough.summary(5.0, pods, service, 12.0)
    assert list(phases) == list(walkthrough.REFERENCE)
    assert phases["API validation + etcd write"] == (20.0, 15.0)
    assert phases["kubelet starts containers"] == (900.0, 840.0)
    assert phases["kube-proxy programs rules"] == (1030.0, 20.0)
    assert phases["**Total to application ready**"] == (930.0, None), "the pods' way and then the Service's"


def test_where_no_machine_can_be_looked_into_the_rows_are_empty(walkthrough: Any) -> None:
    pods = walkthrough.DeploymentDone(stored=20.0, replica_set=30.0, pods=45.0, bound=60.0, ready=900.0)
    service = walkthrough.ServiceDone(asked=1000.0, endpoints=1010.0, rules=None, names=None)
    phases = walkthrough.summary(5.0, pods, service, 12.0)
    assert phases["kube-proxy programs rules"] == phases["DNS registration"] == (None, None)
    assert "| DNS registration | t=2.6s | at once | — | — |" in walkthrough.table(phases)
