"""Whose turn it is: priorities, back-off, waiting for change."""

from __future__ import annotations

from cluster.scheduler.queue import SchedulingQueue

A, B, C = ("ns", "a"), ("ns", "b"), ("ns", "c")


def test_priority_then_arrival() -> None:
    queue = SchedulingQueue()
    queue.add(A, 0, 0.0)
    queue.add(B, 0, 0.0)
    queue.add(C, 10, 0.0)
    assert queue.pop_batch(10, 0.0) == [C, A, B]


def test_unschedulable_waits_for_change_then_backs_off() -> None:
    queue = SchedulingQueue()
    queue.add(A, 0, 0.0)
    queue.pop_batch(1, 0.0)
    queue.failed(A, queue.cycle(), 0.0)
    assert queue.pop_batch(1, 100.0) == []
    queue.cluster_changed(0.2)
    assert queue.pop_batch(1, 0.5) == []
    assert queue.next_due(0.5) == 0.5
    assert queue.pop_batch(1, 1.0) == [A]
    queue.failed(A, queue.cycle(), 1.0)
    queue.cluster_changed(1.0)
    assert queue.pop_batch(1, 2.5) == []
    assert queue.pop_batch(1, 3.0) == [A]


def test_what_came_to_nothing_without_its_doing_is_decided_again_at_once() -> None:
    queue = SchedulingQueue()
    queue.add(A, 0, 0.0)
    queue.pop_batch(1, 0.0)
    queue.retry(A, 0.0)
    queue.again(A)
    assert queue.pop_batch(1, 0.0) == [A]
    assert queue.attempts(A) == 1
    queue.remove(A)
    queue.again(A)
    assert queue.pop_batch(1, 100.0) == []


def test_a_change_while_deciding_is_not_slept_through() -> None:
    queue = SchedulingQueue()
    queue.add(A, 0, 0.0)
    queue.pop_batch(1, 0.0)
    cycle = queue.cycle()
    queue.cluster_changed(0.1)
    queue.failed(A, cycle, 0.1)
    assert queue.pop_batch(1, 1.1) == [A]


def test_leftovers_are_flushed_after_five_minutes() -> None:
    queue = SchedulingQueue()
    queue.add(A, 0, 0.0)
    queue.pop_batch(1, 0.0)
    queue.failed(A, queue.cycle(), 0.0)
    assert queue.next_due(100.0) == 200.0
    assert queue.pop_batch(1, 300.0) == [A]


def test_removed_while_in_a_heap() -> None:
    queue = SchedulingQueue()
    queue.add(A, 0, 0.0)
    queue.remove(A)
    assert queue.pop_batch(1, 0.0) == []
    assert queue.next_due(0.0) is None
    assert queue.counts() == {"active": 0, "backoff": 0, "unschedulable": 0, "gated": 0}


def test_only_pods_refused_by_what_changed_are_looked_at() -> None:
    asked: list[object] = []
    queue = SchedulingQueue(lambda group, _plugins: asked.append(group) or None)
    for key, plugin in ((A, "NodeResourcesFit"), (B, "TaintToleration")):
        queue.add(key, 0, 0.0)
        queue.pop_batch(1, 0.0)
        queue.failed(key, queue.cycle(), 0.0, frozenset((plugin,)), plugin)
    queue.cluster_changed(1.0, frozenset(("TaintToleration",)))
    assert queue.pop_batch(10, 2.0) == [B]
    assert asked == [("TaintToleration", frozenset(("TaintToleration",)))]


def test_ten_thousand_equal_pods_and_room_for_three() -> None:
    queue = SchedulingQueue(lambda _group, _plugins: 3)
    refused = frozenset(("NodeResourcesFit",))
    for i in range(10_000):
        queue.add(("ns", str(i)), 0, 0.0)
    for key in queue.pop_batch(10_000, 0.0):
        queue.failed(key, queue.cycle(), 0.0, refused, "shape")
    for _ in range(1000):
        queue.cluster_changed(5.0, refused)
    assert queue.pop_batch(100, 6.0) == [("ns", "0"), ("ns", "1"), ("ns", "2")]
    assert queue.counts()["unschedulable"] == 9_997
    queue.remove(("ns", "0"))
    assert queue.next_due(6.0) is not None
    assert len(queue.pop_batch(100, 7.0)) == 3


def test_a_patient_pod_has_no_back_off() -> None:
    queue = SchedulingQueue()
    queue.add(A, 0, 0.0)
    queue.pop_batch(1, 0.0)
    queue.failed(A, queue.cycle(), 0.0, frozenset(("VolumeBinding",)), patient=True)
    queue.cluster_changed(0.2, frozenset(("VolumeBinding",)))
    assert queue.pop_batch(1, 0.2) == [A]


def test_broken_off_decisions_are_taken_up_again() -> None:
    queue = SchedulingQueue()
    queue.add(A, 0, 0.0)
    queue.pop_batch(1, 0.0)
    queue.release_deciding()
    assert queue.pop_batch(1, 0.0) == [A]


def test_gated_pods_wait_until_they_are_let_go() -> None:
    queue = SchedulingQueue()
    queue.add(A, 0, 0.0, gated=True)
    assert queue.pop_batch(1, 0.0) == [] and queue.counts()["gated"] == 1
    queue.add(A, 0, 1.0)
    assert queue.pop_batch(1, 1.0) == [A]
