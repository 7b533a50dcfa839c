"""Every broken promise is found, and nothing is held against the cluster that was not promised."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.chaos.judge import (
    Call,
    Register,
    bank_problems,
    error_time,
    failing_spans,
    longest_pause,
    shared_addresses,
    shared_identities,
    stuck,
    two_leaders,
)


def pod(name: str, ip: str, phase: str = "Running", **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default"}
    return {"metadata": meta, "spec": spec, "status": {"phase": phase, "podIP": ip}}


class TestRegister:
    def test_the_last_acknowledged_number_or_a_later_one_of_unknown_fate(self) -> None:
        for final in (2, 3, 4):
            register = Register([0, 1, 2], [3, 4], {0, 1, 2}, final)
            assert register.problems("r", whole_watch=True) == []

    def test_a_lost_write(self) -> None:
        assert (
            "2 was acknowledged last, 1 is stored" in Register([1, 2], [], {1, 2}, 1).problems("r", whole_watch=True)[0]
        )

    def test_an_older_write_of_unknown_fate_cannot_come_back(self) -> None:
        assert Register([0, 2], [1], {0, 2}, 1).problems("r", whole_watch=True)

    def test_a_watch_without_a_gap_sees_everything_acknowledged(self) -> None:
        register = Register([0, 1, 2], [], {0, 2}, 2)
        assert "never saw [1]" in register.problems("r", whole_watch=True)[0]
        assert register.problems("r", whole_watch=False) == []


def test_a_lost_transfer_and_lost_money() -> None:
    assert bank_problems(["a", "b"], ["a", "b", "c"], 100, 100) == []
    assert bank_problems(["a", "b"], ["a"], 100, 100) == ["1 acknowledged transfers are gone: b"]
    assert bank_problems([], [], 99, 100) == ["the accounts hold 99, they held 100"]


def test_two_leaders_of_one_term() -> None:
    assert two_leaders([("m1", 1), ("m2", 2), ("m2", 2)]) == []
    assert two_leaders([("m1", 1), ("m2", 1)]) == ["term 1 had leaders ['m1', 'm2']"]


def test_two_pods_with_one_address() -> None:
    host = pod("c", "10.0.0.1", hostNetwork=True)
    assert shared_addresses([pod("a", "10.0.0.1"), host, pod("d", "10.0.0.1", "Succeeded")]) == []
    assert shared_addresses([pod("a", "10.0.0.1"), pod("b", "10.0.0.1")]) == [
        "10.0.0.1 belongs to default/a, default/b"
    ]


def test_a_name_runs_once() -> None:
    assert shared_identities([("default/db-0/pg", "m1"), ("default/db-1/pg", "m2")]) == []
    assert shared_identities([("default/db-0/pg", "m1"), ("default/db-0/pg", "m2")]) == [
        "default/db-0/pg runs on m1, m2"
    ]
    assert shared_identities([("default/db-0/pg", "m1")] * 2) == ["default/db-0/pg runs 2 times on m1"]


def test_what_is_stuck() -> None:
    leaving = pod("a", "")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert stuck("pod", [pod("b", ""), leaving, pod("c", "", "Pending")]) == [
        "pod default/a is still being deleted",
        "pod default/c is Pending",
    ]


def test_failures_close_together_are_one_span() -> None:
    calls = [
        Call(0.5, 0.6, False), Call(11, 13, False), Call(12, 12.1, False), Call(13.9, 14, False),
        Call(13, 13.1, True), Call(15.1, 15.2, False), Call(30, 30.1, False),
    ]  # fmt: skip
    spans = [(round(at, 3), round(lasted, 3), failed) for at, lasted, failed in failing_spans(calls, 10, 20)]
    assert spans == [(1, 3, 3), (5.1, 0.1, 1)]
    assert failing_spans(calls, 16, 20) == []
    assert error_time(spans) == pytest.approx(3.1)


def test_the_longest_pause_is_between_answers() -> None:
    calls = [Call(0, 1, True), Call(1, 2, False), Call(2, 4, True), Call(4, 5, True)]
    assert longest_pause(calls, 0, 10) == 5
    assert longest_pause(calls, 0.5, 5) == 3
    assert longest_pause([], 0, 2) == 2
