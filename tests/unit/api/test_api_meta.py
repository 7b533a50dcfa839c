"""Times, owners, conditions, and what a pod asks for."""

from __future__ import annotations

import uuid

import pytest

from cluster.api import meta, pods


def test_times_are_written_and_read_in_rfc3339() -> None:
    assert meta.rfc3339(0) == "1970-01-01T00:00:00Z"
    assert meta.rfc3339_micro(1.5) == "1970-01-01T00:00:01.500000Z"
    assert meta.parse_time("1970-01-01T02:00:01.5+02:00") == 1.5
    with pytest.raises(ValueError, match="parsing time"):
        meta.parse_time("yesterday")


def test_uuids_are_of_version_4() -> None:
    for bits in (0, 2**128 - 1, 0x0123456789ABCDEF0123456789ABCDEF):
        assert meta.uuid4(bits) == str(uuid.UUID(int=bits, version=4))


def test_owner_reference_round_trip() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r", "uid": "u"}}
    ref = meta.owner_reference(owner)
    assert meta.controller_of({"metadata": {"ownerReferences": [ref]}}) == ref
    assert meta.controller_of({"metadata": {}}) is None


def test_condition_moves_only_with_its_status() -> None:
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": meta.rfc3339(5)}]
    assert not meta.set_condition(conditions, {"type": "Ready", "status": "True"}, 9)
    assert meta.set_condition(conditions, {"type": "Ready", "status": "True", "reason": "x"}, 9)
    assert conditions[0]["lastTransitionTime"] == meta.rfc3339(5)
    assert meta.set_condition(conditions, {"type": "Ready", "status": "False"}, 9)
    assert conditions[0]["lastTransitionTime"] == meta.rfc3339(9)
    assert meta.set_condition(conditions, {"type": "Other", "status": "True"}, 9)
    assert len(conditions) == 2


def _c(cpu: str, **more: object) -> dict[str, object]:
    return {"resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}, **more}


def test_pod_requests_is_the_larger_of_init_and_running() -> None:
    spec = {
        "containers": [_c("100m"), _c("200m")],
        "initContainers": [_c("50m", restartPolicy="Always"), _c("1")],
        "overhead": {"cpu": "10m"},
    }
    assert pods.pod_requests({"metadata": {}, "spec": spec}) == {"cpu": 1060, "memory": 3 * 2**20}


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_qos(resources: dict[str, object], qos: str) -> None:
    assert pods.qos_class({"metadata": {}, "spec": {"containers": [{"resources": resources}]}}) == qos


def test_ready_and_terminal() -> None:
    assert pods.is_ready({"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    assert not pods.is_ready({"metadata": {}})
    assert pods.is_terminal({"metadata": {}, "status": {"phase": "Failed"}})
