"""How many volumes of a driver a node takes, whoever holds them."""

from __future__ import annotations

from typing import Any

from cluster.scheduler.attachments import Volume
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.decide import Pending, Placement, place
from cluster.scheduler.shape import shape_of
from cluster.scheduler.volume_view import limits_of
from tests.unit.scheduler.test_profiles import node

DRIVER = "d.example.com"


def pod(name: str, *handles: str) -> Pending:
    made: dict[str, Any] = {"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": []}}
    return Pending(name, ("default", name), shape_of(made), volumes=tuple((DRIVER, h) for h in handles))


def limited(*limits: int) -> NodeColumns:
    made = NodeColumns()
    for i, most in enumerate(limits):
        made.set_node(node(f"n{i}", "8", "8Gi"))
        made.set_volume_limits(f"n{i}", {DRIVER: most})
    return made


def where(columns: NodeColumns, *pods: Pending) -> list[str]:
    return [o.node if isinstance(o, Placement) else o.message for o in place(columns, pods)]


FULL = "0/1 nodes are available: 1 node(s) exceed max volume count."


def test_a_volume_counts_once_however_many_pods_use_it() -> None:
    columns = limited(2)
    assert where(columns, pod("a", "v"), pod("b", "v"), pod("c", "v", "w"), pod("d", "x")) == ["n0"] * 3 + [FULL]
    columns.remove_pod("c")
    assert where(columns, pod("e", "x")) == ["n0"]


def test_equal_pods_that_share_a_volume_are_not_dealt_out_past_the_limit() -> None:
    columns = limited(1, 0)
    assert where(columns, *(pod(f"p{i}", "v") for i in range(20))) == ["n0"] * 20


def test_what_is_being_detached_counts_until_it_is_gone() -> None:
    columns, volume = limited(1), (DRIVER, "old")
    columns.set_attached("att", "n0", volume)
    assert where(columns, pod("a", "new")) == [FULL]
    assert where(columns, pod("b", "old")) == ["n0"], "it is there already"
    columns.remove_pod("b")
    columns.set_attached("att", "n0", None)
    assert where(columns, pod("a", "new")) == ["n0"]


def test_limits_and_attachments_may_be_known_before_their_node_and_outlive_it() -> None:
    columns, volume = NodeColumns(), (DRIVER, "v")
    columns.set_volume_limits("n0", {DRIVER: 1})
    columns.set_attached("att", "n0", volume)
    for _ in range(2):
        columns.set_node(node("n0", "8", "8Gi"))
        assert where(columns, pod("a", "other")) == [FULL]
        columns.remove_node("n0")
    columns.set_node(node("n1", "8", "8Gi"))
    assert where(columns, pod("a", "other")) == ["n1"], "the row was used by another node before"


def test_many_nodes_grow_the_arrays() -> None:
    columns = limited(*([0] * 100), 1)
    assert where(columns, pod("a", "v")) == ["n100"]


def test_a_node_s_limits_are_its_csinode_s() -> None:
    drivers = [{"name": "a", "allocatable": {"count": 3}}, {"name": "b"}, {"name": "c", "allocatable": {}}]
    assert limits_of({"spec": {"drivers": drivers}}) == {"a": 3}
    assert limits_of(None) == limits_of({"spec": {"drivers": None}}) == {}


def held(columns: NodeColumns, volume: Volume) -> float:
    return float(columns.attachments.counts[volume[0]].sum())


def test_a_pod_whose_claim_got_its_volume_counts_with_it() -> None:
    columns = limited(1)
    columns.place_pod("a", "n0", pod("a").shape, volumes=((DRIVER, "default/data"),))
    columns.place_pod("a", "n0", pod("a").shape, volumes=((DRIVER, "handle"),))
    assert held(columns, (DRIVER, "handle")) == 1
    assert where(columns, pod("b", "handle")) == ["n0"]
