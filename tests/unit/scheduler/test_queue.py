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
