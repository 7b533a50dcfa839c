"""Whom to evict: as few and as unimportant as possible, budgets first, and in words when nobody."""

from __future__ import annotations

from typing import Any

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.config import DEFAULT
from cluster.scheduler.decide import Pending, Placement, Unschedulable, diagnose, place
from cluster.scheduler.nominated import Nominations
from cluster.scheduler.preempt import Budget, Candidate, preempt
from cluster.scheduler.shape import shape_of


def columns(*cpus: str) -> NodeColumns:
    made = NodeColumns(4)
    for i, cpu in enumerate(cpus):
        labels = {"kubernetes.io/hostname": f"n{i}"}
        status = {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}
        made.set_node({"metadata": {"name": f"n{i}", "labels": labels}, "status": status})
    return made


def body(name: str, cpu: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    meta = {"name": name, "namespace": "default", "uid": name, "labels": {"app": name[0]}}
    return {"metadata": meta, "spec": {"containers": [container], **spec}}


def put(cluster: NodeColumns, node: str, name: str, cpu: str, priority: int, started: float = 0.0) -> None:
    shape = shape_of(body(name, cpu))
    cluster.place_pod(name, node, shape, key=("default", name), priority=priority, started=started)


def ask(
    cluster: NodeColumns, cpu: str, priority: int = 100, *, nominated: Nominations | None = None, **more: Any
) -> Any:
    budgets = more.pop("budgets", ())
    pod = Pending("new", ("default", "new"), shape_of(body("new", cpu, **more)), priority=priority)
    waiting = nominated or Nominations()
    resolvable = diagnose(cluster, pod, DEFAULT, waiting).resolvable
    return preempt(cluster, pod, resolvable, DEFAULT, waiting, budgets)


def names(candidate: Any) -> tuple[str, list[str]]:
    assert isinstance(candidate, Candidate), candidate
    return candidate.node, sorted(v.uid for v in candidate.victims)


def test_fewest_and_lowest_victims() -> None:
    cluster = columns("4", "4")
    put(cluster, "n0", "a", "2", 50)
    put(cluster, "n0", "b", "2", 1)
    put(cluster, "n1", "c", "2", 5)
    put(cluster, "n1", "d", "2", 5)
    assert names(ask(cluster, "2")) == ("n0", ["b"])
    assert names(ask(cluster, "4")) == ("n1", ["c", "d"])


def test_among_equals_the_youngest_go() -> None:
    cluster = columns("2", "2")
    put(cluster, "n0", "a", "2", 1, started=10.0)
    put(cluster, "n1", "b", "2", 1, started=99.0)
    assert names(ask(cluster, "1")) == ("n1", ["b"])


def test_budgets_are_respected_where_possible() -> None:
    cluster = columns("2", "2")
    put(cluster, "n0", "a", "2", 1)
    put(cluster, "n1", "b", "2", 50)
    guard = Budget("default", {"matchLabels": {"app": "a"}}, 0)
    assert names(ask(cluster, "1", budgets=(guard,))) == ("n1", ["b"])
    both = (guard, Budget("default", {"matchLabels": {"app": "b"}}, 0))
    found = ask(cluster, "1", budgets=both)
    assert names(found) == ("n0", ["a"]) and found.violations == 1


def test_says_why_nobody() -> None:
    cluster = columns("2", "2", "1")
    put(cluster, "n0", "a", "2", 100)
    put(cluster, "n1", "b", "2", 200)
    assert ask(cluster, "2") == (
        "0/3 nodes are available: 1 Preemption is not helpful for scheduling, "
        "2 No preemption victims found for incoming pod."
    )
    put(cluster, "n2", "c", "500m", 1)
    put(cluster, "n2", "d", "500m", 300)
    assert "1 Insufficient cpu" in ask(cluster, "1")


def test_a_nominated_pod_keeps_its_room() -> None:
    cluster, waiting = columns("2"), Nominations()
    first = Pending("first", ("default", "first"), shape_of(body("first", "2")), priority=100)
    waiting.set("first", "n0", first.shape, 100)
    late = Pending("late", ("default", "late"), shape_of(body("late", "1")), priority=100)
    (outcome,) = place(cluster, [late], None, DEFAULT, waiting)
    assert isinstance(outcome, Unschedulable)
    urgent = Pending("urgent", ("default", "urgent"), late.shape, priority=101)
    assert isinstance(place(cluster, [urgent], None, DEFAULT, waiting)[0], Placement)
    cluster.remove_pod("urgent")
    assert isinstance(place(cluster, [first], None, DEFAULT, waiting)[0], Placement)


def test_makes_way_for_anti_affinity() -> None:
    cluster = columns("4")
    put(cluster, "n0", "x1", "1", 1)
    put(cluster, "n0", "y1", "1", 1)
    term = {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    assert names(ask(cluster, "1", affinity=apart)) == ("n0", ["x1"])
    assert cluster.is_placed("x1") and cluster.is_placed("y1")


def test_host_ports_of_victims_are_freed() -> None:
    cluster = columns("4")
    port = {"ports": [{"containerPort": 80, "hostPort": 80}]}
    taken = body("x", "1")
    taken["spec"]["containers"][0] |= port
    cluster.place_pod("x", "n0", shape_of(taken), key=("default", "x"), priority=1)
    wanted = body("new", "1")
    wanted["spec"]["containers"][0] |= port
    pod = Pending("new", ("default", "new"), shape_of(wanted), priority=9)
    found = preempt(cluster, pod, diagnose(cluster, pod).resolvable, DEFAULT, Nominations())
    assert names(found) == ("n0", ["x"])
