"""A Job's policies of failure and success, case by case as upstream's tables of them have it
(kubernetes pkg/controller/job/{pod_failure_policy,success_policy}_test.go)."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.controllers.job_failures import judge
from cluster.controllers.job_indexes import parse
from cluster.controllers.job_per_index import success
from cluster.machinery.client import Obj

DISRUPTED = ("DisruptionTarget", "True")


def exits(*codes: int | None, init: int | None = None) -> Obj:
    """A pod's status: containers c0, c1, ... and what they ended with, None for one that has not."""

    def ended(name: str, code: int | None) -> Obj:
        return {"name": name, "state": {} if code is None else {"terminated": {"exitCode": code}}}

    status: Obj = {"phase": "Failed", "containerStatuses": [ended(f"c{i}", code) for i, code in enumerate(codes)]}
    return status if init is None else status | {"initContainerStatuses": [ended("init", init)]}


def conditions(*found: tuple[str, str]) -> Obj:
    return {"phase": "Failed", "conditions": [{"type": type_, "status": status} for type_, status in found]}


def on_exit(action: str, *values: int, operator: str = "In", container: str = "") -> Obj:
    wanted: Obj = {"operator": operator, "values": list(values)}
    return {"action": action, "onExitCodes": wanted | ({"containerName": container} if container else {})}


def on_condition(action: str, *patterns: tuple[str, str]) -> Obj:
    return {"action": action, "onPodConditions": [{"type": type_, "status": status} for type_, status in patterns]}


def exited(container: str, code: int, rule: int) -> str:
    return f"Container {container} for pod default/p failed with exit code {code} matching FailJob rule at index {rule}"


@pytest.mark.parametrize(
    ("rules", "status", "action", "message"),
    [
        ([], exits(2), "Count", ""),
        ([on_exit("Later", 1, 2), on_exit("FailJob", 2, 3)], exits(2), "FailJob", exited("c0", 2, 1)),
        ([on_condition("Later", DISRUPTED), on_condition("Ignore", DISRUPTED)], conditions(DISRUPTED), "Ignore", ""),
        ([on_exit("Ignore", 1, operator="Near"), on_exit("FailJob", 2)], exits(2), "FailJob", exited("c0", 2, 1)),
        ([on_exit("Ignore", 1, 2, 3)], exits(2), "Ignore", ""),
        ([on_exit("Ignore", -1073741676, -1073741510)], exits(-1073741510), "Ignore", ""),
        ([on_exit("FailJob", 1, 2, 3)], exits(2), "FailJob", exited("c0", 2, 0)),
        ([on_exit("FailJob", 111, operator="NotIn")], exits(111, 0, init=0), "Count", ""),
        ([on_exit("FailJob", 0, operator="NotIn")], exits(1, 0), "FailJob", exited("c0", 1, 0)),
        ([on_exit("FailIndex", 1, 2, 3)], exits(2), "FailIndex", ""),
        ([on_exit("Count", 1, 2, 3), on_exit("FailJob", 4, 5, 6)], exits(6), "FailJob", exited("c0", 6, 1)),
        ([on_exit("Count", 1, 2, 3)], exits(None, 2), "Count", ""),
        ([on_exit("FailJob", 1, 2)], exits(None, init=2), "FailJob", exited("init", 2, 0)),
        ([on_exit("FailJob", 2, container="c0")], exits(1, 2), "Count", ""),
        ([on_exit("FailJob", 2, container="c1")], exits(1, 2), "FailJob", exited("c1", 2, 0)),
        ([on_exit("FailJob", 2, 3)], exits(3, init=2), "FailJob", exited("c0", 3, 0)),
        ([on_exit("Ignore", 9)], exits(1), "Count", ""),
        ([on_condition("FailIndex", DISRUPTED)], conditions(DISRUPTED), "FailIndex", ""),
        (
            [on_condition("Ignore", ("DisruptionTarget", "False"))],
            conditions(("DisruptionTarget", "False")),
            "Ignore",
            "",
        ),
        ([on_condition("Ignore", ("DisruptionTarget", "Unknown"))], conditions(DISRUPTED), "Count", ""),
        ([on_condition("Ignore", ("DisruptionTarget", "False"))], conditions(DISRUPTED), "Count", ""),
        (
            [on_condition("FailJob", ("B", "True"), ("A", "True"))],
            conditions(("A", "True"), ("B", "True")),
            "FailJob",
            "Pod default/p has condition A matching FailJob rule at index 0",
        ),
    ],
)
def test_the_first_rule_that_matches_a_failed_pod(rules: list[Obj], status: Obj, action: str, message: str) -> None:
    pod = {"metadata": {"namespace": "default", "name": "p"}, "status": status}
    found = judge({"spec": {"podFailurePolicy": {"rules": rules}}}, pod)
    assert found.action == action
    if action == "FailJob":
        assert found.message == message


def rule(indexes: str | None = None, count: int | None = None) -> Obj:
    found: dict[str, Any] = {"succeededIndexes": indexes, "succeededCount": count}
    return {k: v for k, v in found.items() if v is not None}


@pytest.mark.parametrize(
    ("done", "rules", "matched"),
    [
        ("0", [], None),
        ("0", [rule("invalid-form")], None),
        ("0-2,4-7", [rule("0-2")], 0),
        ("0-2", [rule("3")], None),
        ("0-2", [rule(count=2)], 0),
        ("0-2", [rule(count=4)], None),
        ("0-2,4-7", [rule("9"), rule("4,6")], 1),
        ("0-2,4-7", [rule("0,1"), rule("5")], 0),
        ("0-2,4-7", [rule("3-6", 2)], 0),
        ("0-2,6-7", [rule("3-6", 2)], None),
        ("", [rule(count=4)], None),
        ("1-9", [rule("2-4,6-8")], 0),
        ("2-4,6-9", [rule("2-4,6-9")], 0),
        ("1-3", [rule("")], None),
        ("", [rule("")], None),
        ("1-3,5-7", [rule("10-12,14-16")], None),
        ("2-4,6-8", [rule("1-3,5-7")], None),
        ("2-4,6-8", [rule("1-3,5-7", 4)], 0),
        ("1-3,5-7", [rule("2-4,6-9", 4)], 0),
        ("1-3,7-8", [rule("0-4,6-9", 5)], 0),
        ("1-3,7-8", [rule("0-4,6-9")], None),
        ("1-3,5-9", [rule("0-6,8-9", 7)], 0),
        ("1-5,7-9", [rule("0-5,7-9", 8)], 0),
    ],
)
def test_the_first_rule_of_success_that_holds(done: str, rules: list[Obj], matched: int | None) -> None:
    job = {"spec": {"completions": 10, "successPolicy": {"rules": rules}}}
    assert success(job, parse(done, 10)) == ("" if matched is None else f"Matched rules at index {matched}")
