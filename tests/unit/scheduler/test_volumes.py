"""What claims say about where a pod may run."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.scheduler.volumes import SELECTED_NODE, Confined, Storage, VolumeVerdict, attachable, check_claims, take
from tests.unit.scheduler.test_profiles import columns, node

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
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


def storage(*claims: Any, storage_class: Any = None, volumes: tuple[Any, ...] = ()) -> Storage:
    by_name, by_claim = ({o["metadata"]["name"]: o for o in objects} for objects in (volumes, claims))
    return Storage(
        lambda _, name: by_claim.get(name),
        lambda _, name: by_name.get(name),
        lambda _, __: storage_class,
        lambda: list(volumes),
    )


def check(one: Any, storage_class: Any = None, volumes: tuple[Any, ...] = ()) -> VolumeVerdict:
    claims = () if one is None else (one,)
    return check_claims("default", ["data"], CLUSTER, storage(*claims, storage_class=storage_class, volumes=volumes))


def nowhere(reason: str, plugin: str = "VolumeBinding", **more: Any) -> VolumeVerdict:
    return VolumeVerdict("", (Confined(plugin, reason, frozenset(), **more),))


def reachable(*names: str) -> tuple[Confined, ...]:
    return (Confined("VolumeBinding", "node(s) didn't find available persistent volumes to bind", frozenset(names)),)


def test_a_bound_volume_keeps_its_pod_near() -> None:
    near = Confined("VolumeBinding", "node(s) had volume node affinity conflict", frozenset("b"))
    assert check(claim("v"), volumes=(volume("v", "b"),)) == VolumeVerdict("", (near,))
    assert check(claim("v"), volumes=(volume("v"),)) == VolumeVerdict()


def test_a_volume_with_zone_labels_keeps_its_pod_in_the_zone() -> None:
    there = volume("v")
    there["metadata"]["labels"] = {ZONE: "a__c"}
    zoned = columns(*(node(name, "8", "8Gi", **{ZONE: name}) for name in "abc"), node("d", "8", "8Gi"))
    verdict = check_claims("default", ["data"], zoned, storage(claim("v"), volumes=(there,)))
    assert verdict.confined == (Confined("VolumeZone", "node(s) had no available volume zone", frozenset("acd")),)


def test_what_keeps_a_pod_waiting() -> None:
    assert check(None).refusal == 'persistentvolumeclaim "data" not found'
    leaving = claim(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    assert check(leaving).refusal == 'persistentvolumeclaim "data" is being deleted'
    immediate = {"volumeBindingMode": "Immediate"}
    assert check(claim(), immediate).refusal == "pod has unbound immediate PersistentVolumeClaims"
    gone = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
    assert check(claim("v")) == nowhere(gone)


def test_a_claim_of_one_pod_alone_is_not_shared() -> None:
    alone, reason = (
        claim("v", modes=("ReadWriteOncePod",)),
        "node has pod using PersistentVolumeClaim with the same name",
    )
    CLUSTER.claims[("default", "data")] = 1
    try:
        verdict = check(alone, volumes=(volume("v"),))
    finally:
        CLUSTER.claims.clear()
    assert verdict == nowhere(f"{reason} and ReadWriteOncePod access mode", "VolumeRestrictions", resolvable=True)


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
    assert check(one, STATIC, volumes) == VolumeVerdict("", reachable(*allowed), ("data",))


def test_where_none_would_do_every_node_says_so() -> None:
    assert check(claim(), STATIC) == VolumeVerdict("", reachable(), ("data",))
    assert check(claim(), STATIC, (volume("v"),)) == VolumeVerdict("", (), ("data",)), "one that is anywhere"


def test_claims_of_one_pod_need_a_volume_each() -> None:
    two = [claim(metadata={"name": name}) for name in ("data", "logs")]
    volumes = volume("v", "a"), volume("w", "b"), volume("x", "b", "3Gi")
    there = storage(*two, storage_class=STATIC, volumes=volumes)
    assert check_claims("default", ["data", "logs"], CLUSTER, there).confined == reachable("b")
    taken = take(two, "b", CLUSTER, there)
    assert taken is not None and {c: v["metadata"]["name"] for c, v in taken[0].items()} == {"data": "w", "logs": "x"}
    assert take(two, "a", CLUSTER, there) is None, "one of them is left without"


def test_a_volume_is_made_only_where_none_that_is_there_will_do() -> None:
    term = {"matchLabelExpressions": [{"key": "zone", "values": ["b"]}]}
    there = storage(claim(), storage_class=DYNAMIC | {"allowedTopologies": [term]}, volumes=(volume("v", "a"),))
    assert check_claims("default", ["data"], CLUSTER, there).confined == reachable("a", "b")
    reserved, made = take([claim()], "a", CLUSTER, there) or ({}, [])
    assert list(reserved) == ["data"] and made == []
    assert take([claim()], "b", CLUSTER, there) == ({}, ["data"])


def test_a_class_may_allow_some_topologies_only() -> None:
    term = {"matchLabelExpressions": [{"key": "zone", "values": ["b", "c"]}]}
    assert check(claim(), DYNAMIC | {"allowedTopologies": [term]}).confined == reachable("b", "c")
    assert check(claim(), DYNAMIC) == VolumeVerdict("", (), ("data",))


def test_a_volume_on_its_way_is_waited_for() -> None:
    chosen = claim(metadata={"annotations": {SELECTED_NODE: "b"}})
    assert check(chosen, DYNAMIC).provisioning
    gone = claim(metadata={"annotations": {SELECTED_NODE: "gone"}})
    assert not check(gone, DYNAMIC).provisioning, "the node was removed meanwhile: another is chosen"
    one = claim(metadata={"namespace": "default", "uid": "u"})
    reserved = volume("v", "b", claimRef={"namespace": "default", "name": "data", "uid": "u"})
    assert check(one, STATIC, (reserved,)).provisioning
    others = volume("v", "b", claimRef={"namespace": "default", "name": "data", "uid": "another"})
    assert not check(one, STATIC, (others,)).provisioning


def test_what_is_attached_is_the_driver_s_handle_or_what_its_class_will_make() -> None:
    csi = volume("v", csi={"driver": "d.example.com", "volumeHandle": "h"})
    there = storage(claim("v"), storage_class=DYNAMIC, volumes=(csi, volume("w")))
    assert attachable("default", ["data", "none"], there) == (("d.example.com", "h"),)
    assert attachable("default", ["data"], storage(claim(), storage_class=DYNAMIC)) == (("x", "default/data"),)
    assert attachable("default", ["data"], storage(claim("w"), volumes=(volume("w"),))) == ()
