"""Profiles: the reference's worked examples, strategies, and settings that say what is wrong with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.config import DEFAULT, REFERENCE, DefaultConstraint, Profile, SchedulerConfig
from cluster.scheduler.decide import (
    Pending,
    Placement,
    Unschedulable,
    best_row,
    diagnose,
    feasible,
    nodes_to_find,
    place,
)
from cluster.scheduler.owners import default_spread
from cluster.scheduler.scores import balanced_allocation, explain, image_locality, node_resources_fit, normalized_image
from cluster.scheduler.shape import canonical, shape_of


def node(name: str, cpu: str, memory: str, images: list[Any] | None = None, **labels: str) -> dict[str, Any]:
    status = {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}, "images": images or []}
    return {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name} | labels}, "status": status}


def pod(name: str, cpu: str, memory: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "web", "resources": {"requests": {"cpu": cpu, "memory": memory}}}
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": {"app": "web"}}
    return {"metadata": meta, "spec": {"containers": [container], **spec}}


def pending(body: dict[str, Any], spread: bytes = b"") -> Pending:
    meta = body["metadata"]
    return Pending(meta["uid"], (meta["namespace"], meta["name"]), shape_of(body, spread))


def columns(*nodes: dict[str, Any]) -> NodeColumns:
    made = NodeColumns(4)
    for one in nodes:
        made.set_node(one)
    return made


def test_reference_4a_filtering() -> None:
    """Six nodes; 2 cores, 4 GB, SSD, us-east-1a: nodes 5 and 6 pass, and each other is refused for its own reason."""
    ssd, hdd = {"disk": "ssd"}, {"disk": "hdd"}
    here, there = {"zone": "us-east-1a"}, {"zone": "us-east-1b"}
    cluster = columns(
        node("node-1", "1", "16Gi", **ssd, **here),
        node("node-2", "8", "2Gi", **ssd, **here),
        node("node-3", "8", "16Gi", **hdd, **here),
        node("node-4", "8", "16Gi", **ssd, **there),
        node("node-5", "8", "16Gi", **ssd, **here),
        node("node-6", "8", "16Gi", **ssd, **here),
    )
    wanted = pending(pod("web", "2", "4Gi", nodeSelector={"disk": "ssd", "zone": "us-east-1a"}))
    possible = feasible(cluster, wanted, REFERENCE)
    assert sorted(cluster.names[row] for row in np.flatnonzero(possible)) == ["node-5", "node-6"]
    why = diagnose(cluster, wanted, REFERENCE, by_row=True)
    assert {name: why.reasons_of(row) for name, row in cluster.rows.items() if why.reasons_of(row)} == {
        "node-1": ["Insufficient cpu"],
        "node-2": ["Insufficient memory"],
        "node-3": ["node(s) didn't match Pod's node affinity/selector"],
        "node-4": ["node(s) didn't match Pod's node affinity/selector"],
    }


def test_reference_4a_scoring() -> None:
    """75 + 100 + 30 against 25 + 40 + 100: node-5 wins with 68 to 55."""
    cluster = columns(node("node-5", "8", "8Gi"), node("node-6", "8", "20Gi"))
    for name in ("w1", "w2"):
        idle = pod(name, "0", "0")
        cluster.place_pod(f"uid-{name}", "node-5", shape_of(idle))
    other = pod("other", "4", "0")
    other["metadata"]["labels"] = {"app": "db"}
    cluster.place_pod("uid-other", "node-6", shape_of(other))
    wanted = pending(pod("web-pod-1", "2", "2Gi"), default_spread({"app": "web"}, [SERVICE], None))
    parts = explain(cluster, wanted.shape, REFERENCE, feasible(cluster, wanted, REFERENCE))
    by_node = {name: [float(part[cluster.rows[name]]) for part in parts.values()] for name in cluster.rows}
    assert by_node == {"node-5": [75.0, 100.0, 30.0], "node-6": [25.0, 40.0, 100.0]}
    assert {name: int(sum(scores) / 3) for name, scores in by_node.items()} == {"node-5": 68, "node-6": 55}
    row = best_row(cluster, wanted.shape, feasible(cluster, wanted, REFERENCE), None, REFERENCE)
    assert cluster.names[row] == "node-5"


SERVICE = {"metadata": {"namespace": "default"}, "spec": {"selector": {"app": "web"}}}


def test_default_spread_needs_a_service_or_an_owner() -> None:
    owner = {"spec": {"selector": {"matchLabels": {"app": "web"}}}}
    assert default_spread({"app": "web"}, [], None) == b""
    assert default_spread({"app": "db"}, [SERVICE], None) == b""
    assert b'"app":"web"' in default_spread({"app": "web"}, [SERVICE], None)
    assert b'"values":["web"]' in default_spread({"app": "web"}, [], owner)


@pytest.mark.parametrize(
    ("strategy", "expected"), [("LeastAllocated", 75.0), ("MostAllocated", 25.0), ("RequestedToCapacityRatio", 25.0)]
)
def test_strategies(strategy: str, expected: float) -> None:
    cluster = columns(node("a", "8", "8Gi"))
    profile = replace(DEFAULT, strategy=strategy)
    scores = node_resources_fit(cluster, shape_of(pod("p", "2", "2Gi")), profile)
    assert scores[cluster.rows["a"]] == expected


def test_packing_profile_fills_a_node_first() -> None:
    cluster = columns(node("a", "8", "8Gi"), node("b", "8", "8Gi"))
    packing = replace(DEFAULT, strategy="MostAllocated", weights=(("NodeResourcesFit", 1),))
    outcomes = place(cluster, [pending(pod(f"p{i}", "1", "1Gi")) for i in range(8)], None, packing)
    assert len({o.node for o in outcomes if isinstance(o, Placement)}) == 1


def test_image_locality_prefers_nodes_that_have_the_image() -> None:
    image = {"names": ["web:latest"], "sizeBytes": 900 * 1024**2}
    cluster = columns(node("a", "8", "8Gi"), node("b", "8", "8Gi", [image]))
    shape = shape_of(pod("p", "1", "1Gi"))
    scores = image_locality(cluster, shape, cluster.alive, DEFAULT)
    assert scores is not None and scores[cluster.rows["a"]] == 0
    assert scores[cluster.rows["b"]] == 100 * (450 - 23) // (1000 - 23)
    assert normalized_image("reg:5000/x") == "reg:5000/x:latest" and normalized_image("x:1") == "x:1"


def test_a_filter_can_be_turned_off() -> None:
    cluster = columns(node("a", "1", "8Gi"))
    wanted = pending(pod("p", "2", "1Gi"))
    assert isinstance(place(cluster, [wanted])[0], Unschedulable)
    off = replace(DEFAULT, disabled_filters=frozenset(("NodeResourcesFit",)))
    assert isinstance(place(cluster, [wanted], None, off)[0], Placement)


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        (Profile(scheduler_name=""), "the usual name is default-scheduler"),
        (Profile(weights=(("Nonsense", 1),)), "unknown score plugin 'Nonsense'"),
        (Profile(weights=(("ImageLocality", 101),)), "use 1 to 100"),
        (Profile(disabled_filters=frozenset(("Nonsense",))), "unknown plugin 'Nonsense'"),
        (Profile(strategy="Most"), "use one of LeastAllocated"),
        (Profile(resources=()), "name at least one"),
        (Profile(utilization_shape=((50, 1), (10, 2))), "must grow"),
        (Profile(utilization_shape=((50, 11),)), "score 0 to 10"),
    ],
)
def test_profiles_say_what_is_wrong(profile: Profile, says: str) -> None:
    with pytest.raises(ValueError) as error:
        SchedulerConfig(profiles=(profile,)).validate()
    assert says in str(error.value)


def test_two_profiles_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two profiles"):
        SchedulerConfig(profiles=(DEFAULT, DEFAULT)).validate()


# ---- what a KubeSchedulerConfiguration can set


def test_added_affinity_is_enforced_on_every_pod() -> None:
    required = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["batch"]}]}]}
    added = canonical({"requiredDuringSchedulingIgnoredDuringExecution": required})
    profile = replace(DEFAULT, added_affinity=added)
    cluster = columns(node("a", "8", "8Gi"), node("b", "8", "8Gi", pool="batch"))
    (outcome,) = place(cluster, [pending(pod("p", "1", "1Gi"))], profile=profile)
    assert isinstance(outcome, Placement) and outcome.node == "b"
    (outcome,) = place(columns(node("a", "8", "8Gi")), [pending(pod("p", "1", "1Gi"))], profile=profile)
    assert isinstance(outcome, Unschedulable)
    assert outcome.message == "0/1 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity."


def test_default_constraints_of_ones_own_spread_pods_of_a_service() -> None:
    racks = columns(*(node(f"n{i}", "8", "8Gi", rack="ab"[i % 2]) for i in range(3)), node("bare", "80", "80Gi"))
    profile = replace(DEFAULT, default_constraints=(DefaultConstraint("rack", 1, hard=True),))
    spread = default_spread({"app": "web"}, [SERVICE], None)
    outcomes = place(racks, [pending(pod(f"p{i}", "1", "1Gi"), spread) for i in range(4)], profile=profile)
    used = [racks.rows[o.node] % 2 for o in outcomes if isinstance(o, Placement)]
    assert len(used) == 4 and abs(used.count(0) - used.count(1)) <= 1
    assert "bare" not in {o.node for o in outcomes if isinstance(o, Placement)}, "it has no such label"


def test_ignored_resources_are_not_looked_for() -> None:
    wanted = pod("p", "1", "1Gi")
    wanted["spec"]["containers"][0]["resources"]["requests"]["vendor.io/licence"] = "1"
    cluster = columns(node("a", "8", "8Gi"))
    (outcome,) = place(cluster, [pending(wanted)])
    assert isinstance(outcome, Unschedulable) and "Insufficient vendor.io/licence" in outcome.message
    many = [pending(wanted | {"metadata": wanted["metadata"] | {"uid": f"u{i}"}}) for i in range(12)]
    outcomes = place(cluster, many, profile=replace(DEFAULT, ignored_resources=("vendor.io/",)))
    assert [isinstance(o, Placement) for o in outcomes] == [True] * 8 + [False] * 4, "CPU still counts"


def test_balance_over_three_resources_is_their_deviation() -> None:
    gpus = {"allocatable": {"cpu": "10", "memory": "10Gi", "gpu": "10", "pods": "9"}}
    cluster = columns({"metadata": {"name": "a", "labels": {}}, "status": gpus})
    wanted = pod("p", "2", "4Gi")
    wanted["spec"]["containers"][0]["resources"]["requests"]["gpu"] = "9"
    profile = replace(DEFAULT, balanced=("cpu", "memory", "gpu"))
    score = balanced_allocation(cluster, shape_of(wanted), profile)[cluster.rows["a"]]
    assert score == 70, "shares 0.2, 0.4, 0.9: mean 0.5, deviation 0.294"


@pytest.mark.parametrize(
    ("nodes", "percentage", "expected"),
    [(50, 0, 50), (100, 0, 100), (500, 0, 230), (5000, 0, 500), (6000, 0, 300), (100_000, 0, 5000), (5000, 50, 2500)],
)
def test_how_many_nodes_are_looked_for(nodes: int, percentage: int, expected: int) -> None:
    """kube-scheduler's own table of numFeasibleNodesToFind."""
    assert nodes_to_find(nodes, percentage) == expected


def test_sampling_looks_at_some_nodes_and_each_time_at_others() -> None:
    cluster = columns(*(node(f"n{i}", "8", "8Gi") for i in range(300)))
    profile = replace(DEFAULT, percentage_to_score=10)
    order = np.random.default_rng(1).permutation(cluster.size)
    outcomes = place(cluster, [pending(pod(f"p{i}", "1", "1Gi")) for i in range(250)], order, profile)
    assert len({o.node for o in outcomes if isinstance(o, Placement)}) > 200
