"""What Ray's cluster file says of machines, and which raylet is which machine of which type."""

from __future__ import annotations

import pytest

from actors.ray_groups import machine_of, type_of, types_in
from cluster.machinery.provider import ProviderError

GIB = 1 << 30


def test_the_types_are_read_from_rays_file() -> None:
    resources = {"CPU": 4, "memory": 8 * GIB, "sk8-type:big": 1}
    kinds = {
        "head": {"resources": {"CPU": 2}},
        "big": {
            "resources": resources,
            "node_config": {"InstanceType": "m5.xlarge"},
            "min_workers": 1,
            "max_workers": 4,
        },
    }
    (found,) = types_in({"available_node_types": kinds, "max_workers": 9}, 110)
    assert (found.name, found.min_count, found.max_count) == ("big", 1, 4)
    assert found.allocatable == {"cpu": 4000, "memory": 8 * GIB, "pods": 110}
    assert found.labels == {"node.kubernetes.io/instance-type": "m5.xlarge"}


def test_a_type_without_the_mark_takes_no_part_and_one_without_a_size_is_refused() -> None:
    assert types_in({"available_node_types": {"plain": {"resources": {"CPU": 4}}}}, 110) == []
    with pytest.raises(ProviderError, match="node type x: its resources must say CPU and memory"):
        types_in({"available_node_types": {"x": {"resources": {"sk8-type:x": 1}}}}, 110)


def test_a_raylet_says_by_its_resources_what_it_is() -> None:
    node = {"Resources": {"CPU": 4, "sk8-type:big": 1, "sk8:m4": 1}}
    assert (machine_of(node), type_of(node)) == ("m4", "big")
    assert (machine_of({"Resources": {}}), type_of({"Resources": {}})) == ("", "")
