"""How long a frame waits in a slowed cable, and which are lost. Time is told."""

from __future__ import annotations

import random

import pytest

from cluster.cloud import cable_relay
from cluster.cloud.cable_relay import DelayLine


def line(delay_s: float = 0.0, jitter_s: float = 0.0, loss: float = 0.0) -> DelayLine:
    return DelayLine(random.Random(7), delay_s, jitter_s, loss)


def test_frames_come_out_in_order_after_the_delay_and_not_before() -> None:
    one = line(delay_s=0.5)
    assert one.next_at is None
    one.push(b"a", 10.0)
    one.push(b"b", 10.1)
    assert one.next_at == 10.5 and one.due(10.4) == []
    assert one.due(10.5) == [b"a"]
    assert one.due(20.0) == [b"b"] and one.next_at is None


def test_jitter_stays_within_its_bounds_and_changes_the_order() -> None:
    one = line(delay_s=1.0, jitter_s=0.5)
    for number in range(200):
        one.push(b"%d" % number, 0.0)
    assert one.due(0.499) == []
    frames = one.due(1.501)
    assert len(frames) == 200 and frames != sorted(frames, key=int)


def test_jitter_larger_than_the_delay_delays_nothing_into_the_past() -> None:
    one = line(delay_s=0.1, jitter_s=5.0)
    one.push(b"a", 1.0)
    assert one.next_at is not None and one.next_at >= 1.0


def test_as_many_are_lost_as_asked_for() -> None:
    none, some, everything = line(), line(loss=0.2), line(loss=1.0)
    for one in (none, some, everything):
        for _ in range(5000):
            one.push(b"x", 0.0)
    assert (none.lost, everything.lost) == (0, 5000)
    assert 850 < some.lost < 1150
    assert len(some.due(0.0)) + some.lost == 5000


def test_a_full_line_loses_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cable_relay, "QUEUE_FRAMES", 3)
    one = line(delay_s=1.0)
    for number in range(5):
        one.push(b"%d" % number, 0.0)
    assert one.lost == 2 and one.due(1.0) == [b"0", b"1", b"2"]
