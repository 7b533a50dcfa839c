"""What Ray's cluster file says of machines, and which raylet is which machine of which type."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

from actors.ray_groups import RayNodeGroups, machine_of, type_of, types_in
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


async def test_a_head_that_does_not_answer_is_not_asked_again_meanwhile() -> None:
    asked: list[str] = []
    begun, answer = threading.Event(), threading.Event()

    def stop(node: str) -> None:
        asked.append(node)
        begun.set()
        answer.wait()

    groups = RayNodeGroups("", 110, stop=stop)
    try:
        waiting = asyncio.create_task(groups.release("n1"))
        await asyncio.to_thread(begun.wait)
        waiting.cancel()  # as its deadline does
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for _ in range(3):
            with pytest.raises(ProviderError, match="has not answered the last call yet"):
                await groups.release("n2")
    finally:
        answer.set()
    assert groups._call is not None
    await asyncio.to_thread(concurrent.futures.wait, [groups._call])
    await groups.release("n3")
    assert asked == ["n1", "n3"]
