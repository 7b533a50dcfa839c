"""What `sk8 explain` prints."""

from __future__ import annotations

from typing import Any

from cluster.cli.explain import render


def fits(name: str, score: float) -> dict[str, Any]:
    return {"name": name, "refused": [], "scores": {"NodeResourcesFit": score}, "total": 2 * score}


def refused(name: str, reason: str) -> dict[str, Any]:
    return {"name": name, "refused": [{"plugin": "NodeResourcesFit", "reason": reason}]}


def found(*decisions: dict[str, Any], now: Any = None) -> dict[str, Any]:
    return {"pod": "default/web", "scheduler": "m2", "leading": True, "decisions": list(decisions), "now": now}


def decision(node: str, nodes: Any, **more: Any) -> dict[str, Any]:
    made = {"at": 0.0, "uid": "u", "schedulerName": "default-scheduler", "node": node, "message": "", "alike": 1}
    return made | {"nodes": nodes, "weights": {"NodeResourcesFit": 2}} | more


def test_best_nodes_first_and_the_chosen_one_marked() -> None:
    seen = [fits("n1", 10), fits("n2", 40), refused("n3", "Insufficient cpu")]
    text = render(found(decision("n2", seen)), now=False, rows=20)
    assert "1970-01-01 00:00:00 UTC: placed on n2 (profile default-scheduler)" in text
    lines = [line.split() for line in text.splitlines()]
    assert lines.index(["n2", "<-", "40", "80"]) < lines.index(["n1", "10", "20"])
    assert ["n3", "NodeResourcesFit", "Insufficient", "cpu"] in lines


def test_many_nodes_are_counted() -> None:
    seen = [fits(f"n{i:02}", i) for i in range(30)] + [refused(f"r{i}", "Insufficient cpu") for i in range(30)]
    text = render(found(decision("n00", seen)), now=False, rows=5)
    assert "n29" in text
    assert "n00 <-" in text, "the chosen one is shown wherever it stands"
    assert "(24 more nodes fit; --nodes 0 shows all)" in text
    assert "30 nodes   NodeResourcesFit   Insufficient cpu" in text
    assert "r17" in render(found(decision("n00", seen)), now=False, rows=0)


def test_what_is_not_remembered_says_so() -> None:
    text = render(found(decision("n1", None), now={"weights": {}, "nodes": []}), now=False, rows=5)
    assert "its nodes are not remembered" in text
    assert "Decided now, it would be:\nthere are no nodes" in text


def test_a_pod_that_the_scheduler_knows_nothing_about() -> None:
    text = render(found(), now=False, rows=5)
    assert "It has decided nothing about this pod" in text and "try: kubectl get pod shows spec.schedulerName" in text
