"""Graceful node shutdown: the groups of pods, their order and their time (KEP-2000, KEP-2712)."""

from __future__ import annotations

from pod_driver import Driver, make_pod

from cluster.node import core_events as ev
from cluster.node.shutdown_plan import MESSAGE, REASON, Group, groups, periods

CRITICAL = 2_000_000_000


def test_critical_pods_get_their_part_of_the_period_and_end_last() -> None:
    limits = periods(30, 10, ())
    assert groups([("dns", CRITICAL + 1000), ("web", 0), ("batch", -5)], limits) == [
        Group(20, ("web", "batch")),
        Group(10, ("dns",)),
    ]


def test_periods_by_priority_stand_in_place_of_the_two() -> None:
    limits = periods(30, 10, ((1000, 20.0), (0, 60.0), (CRITICAL, 5.0)))
    pods = [("a", 999), ("b", 1000), ("c", CRITICAL), ("d", -1)]
    assert groups(pods, limits) == [Group(60, ("a", "d")), Group(20, ("b",)), Group(5, ("c",))]


def test_without_a_period_nothing_is_ended_in_order() -> None:
    assert periods(0, 0, ()) == ()
    assert groups([("a", 0)], ()) == []


def test_a_pod_that_is_ended_fails_with_the_reason_and_within_the_groups_time() -> None:
    d = Driver(make_pod(terminationGracePeriodSeconds=60), auto=False)
    for event in (ev.VolumesReady(), ev.SandboxReady("s", "1.2.3.4"), ev.ContainerStarted("app", "a", "i", d.now)):
        d.send(event)
    d.send(ev.PodEvicted(REASON, MESSAGE, 10.0, "Normal"))
    assert d.of(ev.StopContainer)[0].grace_s == 10.0
    assert (d.status["phase"], d.status["reason"], d.status["message"]) == ("Failed", "Terminated", MESSAGE)
    assert d.condition("DisruptionTarget") == "True"
