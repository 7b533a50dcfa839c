"""Groups of pods: all or none, near or far as they ask, and no two groups in each other's way."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.config import DEFAULT
from cluster.scheduler.decide import Pending, Placement, Unschedulable
from cluster.scheduler.gang_place import place_gang
from cluster.scheduler.gangs import MIN_AVAILABLE, STRATEGIES, STRATEGY, TOPOLOGY_KEY, Gang, gang_of, group_of
from cluster.scheduler.nominated import Nominations
from cluster.scheduler.shape import shape_of
from tests.unit.scheduler.shell import Cluster

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
GROUP = "scheduling.x-k8s.io/pod-group"


def columns(*cpus: int) -> NodeColumns:
    """n0, n1, ...: zones a and b in turn."""
    made = NodeColumns(2)
    for i, cpu in enumerate(cpus):
        labels = {HOST: f"n{i}", ZONE: "ab"[i % 2]}
        status = {"allocatable": {"cpu": str(cpu), "memory": "64Gi", "pods": "110"}}
        made.set_node({"metadata": {"name": f"n{i}", "labels": labels}, "status": status})
    return made


def members(*cpus: int, prefix: str = "g") -> list[Pending]:
    made = []
    for i, cpu in enumerate(cpus):
        name = f"{prefix}{i}"
        spec = {"containers": [{"name": "c", "resources": {"requests": {"cpu": str(cpu)}}}]}
        body = {"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec}
        made.append(Pending(name, ("default", name), shape_of(body)))
    return made


def gang(count: int, strategy: str, key: str = HOST) -> Gang:
    return Gang("default", "train", count, strategy, key)


def decide(cluster: NodeColumns, one: Gang, pods: list[Pending], running: tuple[int, ...] = ()) -> list[str]:
    """Nodes of the placed, "" for the others, in the order of the pods."""
    outcomes = place_gang(cluster, one, pods, running, None, DEFAULT, Nominations())
    nodes = {o.pod.uid: o.node if isinstance(o, Placement) else "" for o in outcomes}
    return [nodes[p.uid] for p in pods]


@pytest.mark.parametrize(
    ("strategy", "cpus", "pods", "places"),
    [
        ("PACK", (4, 8, 4), (2, 2, 2, 2), 1),
        ("PACK", (4, 4, 4), (2, 2, 2, 2), 2),
        ("SPREAD", (8, 8, 8), (2, 2, 2), 3),
        ("SPREAD", (8, 8), (2, 2, 2), 2),
        ("STRICT_PACK", (4, 6, 4), (2, 2, 2), 1),
        ("STRICT_SPREAD", (8, 8, 8), (2, 2, 2), 3),
    ],
)
def test_strategies(strategy: str, cpus: tuple[int, ...], pods: tuple[int, ...], places: int) -> None:
    nodes = decide(columns(*cpus), gang(len(pods), strategy), members(*pods))
    assert "" not in nodes
    assert len(set(nodes)) == places


@pytest.mark.parametrize(
    ("strategy", "cpus", "pods"),
    [("STRICT_PACK", (4, 4, 4), (2, 2, 2)), ("STRICT_SPREAD", (8, 8), (2, 2, 2)), ("PACK", (4, 4), (3, 3, 3))],
)
def test_none_is_placed_where_not_all_can_be(strategy: str, cpus: tuple[int, ...], pods: tuple[int, ...]) -> None:
    cluster = columns(*cpus)
    assert decide(cluster, gang(len(pods), strategy), members(*pods)) == [""] * len(pods)
    assert not cluster.placed
    assert (cluster.free == cluster.allocatable).all()


def test_the_hardest_to_place_goes_first() -> None:
    """In their own order, the small ones would take the room the large one needs."""
    assert decide(columns(4, 2), gang(3, "SPREAD"), members(1, 1, 4)) == ["n1", "n1", "n0"]


def test_a_zone_can_be_the_place() -> None:
    cluster = columns(2, 4, 2, 2)
    nodes = decide(cluster, gang(3, "STRICT_PACK", ZONE), members(2, 2, 2))
    assert set(nodes) <= {"n1", "n3"}
    assert decide(columns(8, 8, 8), gang(3, "STRICT_SPREAD", ZONE), members(1, 1, 1)) == ["", "", ""]


def test_one_small_place_is_found_among_many_that_are_not_allowed() -> None:
    cluster = columns(*[64] * 100, 4)
    cluster.set_node(
        {
            "metadata": {"name": "n100", "labels": {HOST: "n100", "pool": "x"}},
            "status": {"allocatable": {"cpu": "4", "memory": "64Gi", "pods": "110"}},
        }
    )
    pods = members(2, 2)
    pods = [replace(p, shape=replace(p.shape, node_selector=(("pool", "x"),))) for p in pods]
    assert decide(cluster, gang(2, "STRICT_PACK"), pods) == ["n100", "n100"]


def test_members_that_come_later_join_those_that_run() -> None:
    cluster = columns(8, 8)
    first = decide(cluster, gang(2, "STRICT_PACK"), members(1, 1))
    row = cluster.rows[first[0]]
    assert decide(cluster, gang(2, "STRICT_PACK"), members(1, prefix="late"), (row, row)) == [first[0]]


def test_more_than_the_minimum_are_placed_as_room_allows() -> None:
    assert sorted(decide(columns(4), gang(2, "PACK"), members(2, 2, 2))) == ["", "n0", "n0"]


def test_too_few_siblings_and_bad_labels_say_so() -> None:
    cluster = columns(8)
    (outcome,) = place_gang(cluster, gang(3, "PACK"), members(1), (), None, DEFAULT, Nominations())
    assert isinstance(outcome, Unschedulable)
    assert outcome.message == (
        "0/1 nodes are available: pod group train cannot find enough sibling pods, "
        "current pods number: 1, minMember of group: 3."
    )
    meta = {"name": "p", "namespace": "default", "labels": {GROUP: "train", MIN_AVAILABLE: "two"}}
    assert group_of({"metadata": meta}) == ("default", "train")
    assert "of pod p is 'two': it must be 1 or more" in gang_of(("default", "train"), [{"metadata": meta}]).problem
    meta["labels"] = {GROUP: "train", MIN_AVAILABLE: "2"}
    meta["annotations"] = {STRATEGY: "TIGHT"}
    assert "use one of PACK, SPREAD" in gang_of(("default", "train"), [{"metadata": meta}]).problem


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**48), st.sampled_from(STRATEGIES), st.sampled_from((HOST, ZONE)))
def test_all_or_none_and_as_the_strategy_says(seed: int, strategy: str, key: str) -> None:
    rng = random.Random(seed)
    cluster = columns(*(rng.randint(1, 8) for _ in range(rng.randint(1, 6))))
    pods = members(*(rng.randint(1, 4) for _ in range(rng.randint(1, 6))))
    least = rng.randint(1, len(pods))
    nodes = [n for n in decide(cluster, gang(least, strategy, key), pods) if n]
    assert len(nodes) == len(cluster.placed)
    assert not nodes or len(nodes) >= least
    assert (cluster.free[0] >= 0).all()
    places = [n if key == HOST else "ab"[int(n[1:]) % 2] for n in nodes]
    if strategy == "STRICT_PACK":
        assert len(set(places)) <= 1
    if strategy == "STRICT_SPREAD":
        assert len(set(places)) == len(places)


# ---- through the shell


async def grouped(cluster: Cluster, name: str, group: str, size: int, cpu: str = "1", **notes: str) -> Any:
    labels = {GROUP: group, MIN_AVAILABLE: str(size)}
    return await cluster.pod(name, cpu=cpu, labels=labels, annotations=notes)


async def test_a_group_is_bound_when_its_last_pod_has_come(cluster: Cluster) -> None:
    for name in "ab":
        await cluster.node(name, cpu="4")
    for i in range(2):
        await grouped(cluster, f"g{i}", "train", 3)
        assert "cannot find enough sibling pods" in await cluster.refused(f"g{i}")
    assert cluster.scheduler.health()["nodes"] == 2
    await grouped(cluster, "g2", "train", 3)
    assert len({await cluster.bound(f"g{i}") for i in range(3)}) == 1, "PACK is the default"


async def test_two_groups_for_one_place_do_not_block_each_other(cluster: Cluster) -> None:
    """Each wants all four places; their pods come in turn. One group runs, and when it is gone the other."""
    await cluster.node("a", cpu="4")
    for i in range(4):
        for group in ("x", "y"):
            await grouped(cluster, f"{group}{i}", group, 4)
    pods = {}
    for _ in range(1000):
        pods = {p["metadata"]["name"]: p["spec"].get("nodeName", "") for p in await cluster.pods()}
        if sum(map(bool, pods.values())) == 4:
            break
        await cluster.pause()
    running = {name[0] for name, node in pods.items() if node}
    assert len(running) == 1, "four pods of one group, none of the other"
    for i in range(4):
        await cluster.client.delete("pods", f"{next(iter(running))}{i}", "default", grace_period_s=0)
    other = ({"x", "y"} - running).pop()
    assert {await cluster.bound(f"{other}{i}") for i in range(4)} == {"a"}


async def test_a_strict_group_waits_whole_and_starts_when_a_node_comes(cluster: Cluster) -> None:
    for name in "ab":
        await cluster.node(name, cpu="2")
    for i in range(3):
        await grouped(cluster, f"g{i}", "train", 3, **{STRATEGY: "STRICT_SPREAD", TOPOLOGY_KEY: HOST})
    for i in range(3):
        await cluster.until(f"g{i}", lambda p: "STRICT_SPREAD" in str(p.get("status", {}).get("conditions", "")))
    await cluster.node("c", cpu="2")
    assert {await cluster.bound(f"g{i}") for i in range(3)} == set("abc")
