"""The pure half of the scheduler: filters, scores, batches."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.deal import best_of
from cluster.scheduler.decide import Pending, Placement, Unschedulable, place
from cluster.scheduler.filters import match_expression, tolerates
from cluster.scheduler.shape import shape_of


def node(name: str, cpu: str = "4", memory: str = "8Gi", **extra: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name} | extra.pop("labels", {})},
        "spec": extra.pop("spec", {}),
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": extra.pop("pods", "110")} | extra},
    }


def pod(name: str, cpu: str = "100m", memory: str = "100Mi", **spec: Any) -> dict[str, Any]:
    requests = {"cpu": cpu, "memory": memory}
    container = {"name": "c", "image": "i", "resources": {"requests": requests}} | spec.pop("container", {})
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}"} | spec.pop("metadata", {})
    return {"metadata": meta, "spec": {"containers": [container], **spec}, "status": {}}


def pending(body: dict[str, Any], **more: Any) -> Pending:
    meta = body["metadata"]
    return Pending(meta["uid"], (meta["namespace"], meta["name"]), shape_of(body), **more)


def columns(*nodes: dict[str, Any]) -> NodeColumns:
    made = NodeColumns(size=2)
    for one in nodes:
        made.set_node(one)
    return made


def nodes_of(outcomes: list[Placement | Unschedulable]) -> list[str]:
    return [o.node if isinstance(o, Placement) else "" for o in outcomes]


def test_equal_pods_in_one_batch_land_as_one_by_one() -> None:
    nodes = [node("a", cpu="4"), node("b", cpu="8"), node("c", cpu="2", memory="16Gi")]
    pods = [pending(pod(f"p{i}", cpu="300m", memory="700Mi")) for i in range(30)]
    together = nodes_of(place(columns(*nodes), pods))
    separate = columns(*nodes)
    assert together == [nodes_of(place(separate, [one]))[0] for one in pods]
    assert {"a", "b", "c"} <= set(together)


def test_spreads_pods_of_one_owner() -> None:
    cluster = columns(node("a", cpu="64", memory="64Gi"), node("b"), node("c"))
    spread = b'{"matchLabels":{"app":"web"}}'
    bodies = [pod(f"p{i}", metadata={"labels": {"app": "web"}}) for i in range(3)]
    pods = [Pending(b["metadata"]["uid"], ("default", b["metadata"]["name"]), shape_of(b, spread)) for b in bodies]
    landed = nodes_of(place(cluster, pods))
    assert sorted(landed) == ["a", "b", "c"]


def test_never_overcommits_and_says_why() -> None:
    cluster = columns(node("a", cpu="1"), node("b", cpu="1"))
    outcomes = place(cluster, [pending(pod(f"p{i}", cpu="600m")) for i in range(3)])
    assert sorted(nodes_of(outcomes)) == ["", "a", "b"]
    assert isinstance(outcomes[2], Unschedulable)
    assert outcomes[2].message == "0/2 nodes are available: 2 Insufficient cpu."


def test_counts_each_reason_once_per_node() -> None:
    cluster = columns(
        node("a", spec={"unschedulable": True}),
        node("b", spec={"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}),
        node("c", labels={"disk": "hdd"}),
    )
    (outcome,) = place(cluster, [pending(pod("p", nodeSelector={"disk": "ssd"}))])
    assert isinstance(outcome, Unschedulable)
    assert outcome.message == (
        "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, "
        "1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable."
    )


def test_pod_limit_of_a_node() -> None:
    outcomes = place(columns(node("a", pods="1")), [pending(pod("p1")), pending(pod("p2"))])
    assert isinstance(outcomes[1], Unschedulable)
    assert "Too many pods" in outcomes[1].message


def test_host_ports_collide() -> None:
    wants = {"ports": [{"containerPort": 80, "hostPort": 8080}]}
    outcomes = place(columns(node("a"), node("b")), [pending(pod(f"p{i}", container=wants)) for i in range(3)])
    assert sorted(nodes_of(outcomes)) == ["", "a", "b"]


def test_removed_pod_frees_its_room_and_removed_node_its_row() -> None:
    cluster = columns(node("a", cpu="1"))
    place(cluster, [pending(pod("p1", cpu="1"))])
    assert isinstance(place(cluster, [pending(pod("p2", cpu="1"))])[0], Unschedulable)
    assert cluster.remove_pod("uid-p1")
    assert nodes_of(place(cluster, [pending(pod("p2", cpu="1"))])) == ["a"]
    cluster.remove_node("a")
    (outcome,) = place(cluster, [pending(pod("p3"))])
    assert isinstance(outcome, Unschedulable) and outcome.message == "no nodes available to schedule pods"
    cluster.set_node(node("b", cpu="1"))
    assert nodes_of(place(cluster, [pending(pod("p3", cpu="1"))])) == ["b"]


def test_extended_resources_known_only_to_some_nodes() -> None:
    wants = {"resources": {"requests": {"cpu": "1", "nvidia.com/gpu": "1"}}}
    cluster = columns(node("a"), node("b", **{"nvidia.com/gpu": "1"}))
    outcomes = place(cluster, [pending(pod("p1", container=wants)), pending(pod("p2", container=wants))])
    assert nodes_of(outcomes) == ["b", ""]
    assert "Insufficient nvidia.com/gpu" in getattr(outcomes[1], "message", "")


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        ("In", ["1"], ["a"]),
        ("NotIn", ["1"], ["b", "c"]),
        ("Exists", [], ["a", "b"]),
        ("DoesNotExist", [], ["c"]),
        ("Gt", ["1"], ["b"]),
        ("Lt", ["5"], ["a"]),
    ],
)
def test_node_selector_operators(operator: str, values: list[str], expected: list[str]) -> None:
    cluster = columns(node("a", labels={"gen": "1"}), node("b", labels={"gen": "7"}), node("c"))
    mask = match_expression(cluster, {"key": "gen", "operator": operator, "values": values}) & cluster.alive
    assert sorted(cluster.names[i] for i in mask.nonzero()[0]) == expected


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "k", "value": "other"}, False),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"value": "v"}, False),
    ],
)
def test_tolerations(toleration: dict[str, str], tolerated: bool) -> None:
    assert tolerates([toleration], ("k", "v", "NoSchedule")) is tolerated


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_best_rows_are_those_a_full_sort_puts_first(scores: list[int], most: int, rng: random.Random) -> None:
    ties = list(range(len(scores)))
    rng.shuffle(ties)
    wanted = sorted(range(len(scores)), key=lambda i: (-scores[i], ties[i]))[:most]
    assert best_of(np.array(scores, dtype=float), np.array(ties), most).tolist() == wanted
