"""CSIStorageCapacities: near which nodes a driver still has room for a volume of a size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.scheduler.capacity import Room
from cluster.scheduler.volumes import Confined, check_claims
from tests.unit.scheduler.test_profiles import columns, node
from tests.unit.scheduler.test_volumes import DYNAMIC, HOST, claim, storage, volume

GI = 1 << 30
CLUSTER = columns(
    *(node(name, "8", "8Gi", disk=disk) for name, disk in zip("abcd", ("ssd", "ssd", "hdd", "none"), strict=True))
)


def capacity(size: str, topology: Any = None, **more: Any) -> Any:
    return {"storageClassName": "c", "capacity": size, **more} | (
        {} if topology is None else {"nodeTopology": topology}
    )


def near(*capacities: Any, size: int = GI) -> str:
    return "".join(CLUSTER.names[row] for row in np.flatnonzero(Room(capacities).holds(size, CLUSTER) & CLUSTER.alive))


@pytest.mark.parametrize(
    ("topology", "nodes"),
    [
        ({"matchLabels": {HOST: "b"}}, "b"),
        ({"matchLabels": {"disk": "ssd"}}, "ab"),
        ({"matchLabels": {"disk": "never seen"}}, ""),
        ({"matchLabels": {"no such label": "x"}}, ""),
        ({"matchLabels": {"disk": "ssd", HOST: "a"}}, "a"),
        ({"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]}, "cd"),
        ({"matchLabels": {"disk": "ssd"}, "matchExpressions": [{"key": HOST, "operator": "In", "values": ["b"]}]}, "b"),
        ({}, "abcd"),
        (None, ""),
    ],
)
def test_a_topology_says_for_which_nodes(topology: Any, nodes: str) -> None:
    assert near(capacity("1Gi", topology)) == nodes


def test_one_of_them_has_to_have_room_for_the_whole_volume() -> None:
    on_a, on_b = {"matchLabels": {HOST: "a"}}, {"matchLabels": {HOST: "b"}}
    assert near(capacity("1Gi", on_a), capacity("3Gi", on_b), size=2 * GI) == "b"
    assert near(capacity("1Gi", on_a), capacity("1Gi", on_a), size=2 * GI) == ""
    assert near(capacity("1Gi", on_a), capacity("3Gi", {"matchLabels": {"disk": "ssd"}}), size=2 * GI) == "ab"
    assert near(capacity("9Gi", on_a, maximumVolumeSize="1Gi"), size=2 * GI) == ""
    assert near({"storageClassName": "c", "nodeTopology": on_a}, size=1) == "", "it does not say how much"
    assert near() == ""


def test_a_claim_goes_where_its_driver_has_room_or_a_volume_is_there() -> None:
    room = Room([capacity("2Gi", {"matchLabels": {HOST: "b"}})])
    there = replace(storage(claim(), storage_class=DYNAMIC, volumes=(volume("v", "a"),)), room=lambda _: room)
    full = "node(s) did not have enough free storage"
    assert check_claims("default", ["data"], CLUSTER, there).confined == (
        Confined("VolumeBinding", full, frozenset("ab")),
    )
    elsewhere = {"matchLabelExpressions": [{"key": "disk", "values": ["ssd", "hdd"]}]}
    narrow = replace(there, classes=lambda *_: DYNAMIC | {"allowedTopologies": [elsewhere]})
    nothing = "node(s) didn't find available persistent volumes to bind"
    assert check_claims("default", ["data"], CLUSTER, narrow).confined == (
        Confined("VolumeBinding", nothing, frozenset("abc")),
        Confined("VolumeBinding", full, frozenset("abd")),
    ), "each node is refused for one reason"
    assert check_claims("default", ["data"], CLUSTER, replace(there, room=lambda _: None)).confined == ()
