"""What claims say about where a pod may run."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.scheduler.volumes import SELECTED_NODE, VolumeVerdict, check_claims
from tests.unit.scheduler.test_profiles import columns, node

HOST = "kubernetes.io/hostname"
CLUSTER = columns(*(node(name, "8", "8Gi", zone=name) for name in "abc"))
STATIC = {"provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}
DYNAMIC = {"provisioner": "x", "volumeBindingMode": "WaitForFirstConsumer"}


def claim(volume: str = "", size: str = "1Gi", modes: tuple[str, ...] = ("ReadWriteOnce",), **more: Any) -> Any:
    spec = {"storageClassName": "c", "accessModes": list(modes), "resources": {"requests": {"storage": size}}}
    status = {"phase": "Bound" if volume else "Pending"}
    meta = {"name": "data", **more.pop("metadata", {})}
    return {"metadata": meta, "spec": spec | more | ({"volumeName": volume} if volume else {}), "status": status}


def volume(name: str, host: str = "", size: str = "1Gi", **more: Any) -> Any:
    spec = {"storageClassName": "c", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, **more}
    if host:
        expression = {"key": HOST, "operator": "In", "values": [host]}
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    return {"metadata": {"name": name, "labels": {"tier": name}}, "spec": spec, "status": {"phase": "Available"}}


def check(one: Any, storage_class: Any = None, volumes: tuple[Any, ...] = ()) -> VolumeVerdict:
    by_name = {v["metadata"]["name"]: v for v in volumes}
    return check_claims(
        "default",
        ["data"],
        CLUSTER,
        lambda _, __: one,
        lambda _, name: by_name.get(name),
        lambda _, __: storage_class,
        lambda: list(volumes),
    )


def test_a_bound_volume_keeps_its_pod_near() -> None:
    assert check(claim("v"), volumes=(volume("v", "b"),)) == VolumeVerdict("", frozenset("b"))
    assert check(claim("v"), volumes=(volume("v"),)) == VolumeVerdict()


def test_what_keeps_a_pod_waiting() -> None:
    assert check(None).refusal == 'persistentvolumeclaim "data" not found'
    alone = claim("v", modes=("ReadWriteOncePod",))
    CLUSTER.claims[("default", "data")] = 1
    try:
        assert check(alone, volumes=(volume("v"),)).refusal == (
            "3 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
        )
    finally:
        CLUSTER.claims.clear()
    leaving = claim(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert check(leaving).refusal == 'persistentvolumeclaim "data" is being deleted'
    assert (
        check(claim(), {"volumeBindingMode": "Immediate"}).refusal == "pod has unbound immediate PersistentVolumeClaims"
    )


@pytest.mark.parametrize(
    ("one", "volumes", "allowed"),
    [
        (claim(), (volume("v", "a"), volume("w", "c")), "ac"),
        (claim(size="2Gi"), (volume("v", "a"), volume("w", "c", "3Gi")), "c"),
        (claim(), (volume("v", "a", claimRef={"name": "other"}), volume("w", "b")), "b"),
        (claim(selector={"matchLabels": {"tier": "w"}}), (volume("v", "a"), volume("w", "b")), "b"),
        (claim(volumeMode="Block"), (volume("v", "a"), volume("w", "b", volumeMode="Block")), "b"),
        (claim(modes=("ReadWriteMany",)), (volume("v", "a"), volume("w", "c", accessModes=["ReadWriteMany"])), "c"),
    ],
)
def test_where_volumes_are_made_by_hand_the_pod_goes_where_one_would_do(one: Any, volumes: Any, allowed: str) -> None:
    assert check(one, STATIC, volumes) == VolumeVerdict("", frozenset(allowed), ("data",))


def test_no_volume_by_hand_is_said_as_kube_scheduler_says_it() -> None:
    assert check(claim(), STATIC).refusal == "3 node(s) didn't find available persistent volumes to bind"
    assert check(claim(), STATIC, (volume("v"),)) == VolumeVerdict("", None, ("data",)), "one that is anywhere"


def test_a_class_may_allow_some_topologies_only() -> None:
    term = {"matchLabelExpressions": [{"key": "zone", "values": ["b", "c"]}]}
    assert check(claim(), DYNAMIC | {"allowedTopologies": [term]}).allowed == frozenset("bc")
    assert check(claim(), DYNAMIC) == VolumeVerdict("", None, ("data",))


def test_a_volume_on_its_way_is_waited_for() -> None:
    chosen = claim(metadata={"annotations": {SELECTED_NODE: "b"}})
    assert check(chosen, DYNAMIC).provisioning
    gone = claim(metadata={"annotations": {SELECTED_NODE: "gone"}})
    assert not check(gone, DYNAMIC).provisioning, "the node was removed meanwhile: another is chosen"
