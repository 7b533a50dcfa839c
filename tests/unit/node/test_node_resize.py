"""Resizing a running pod in place (KEP-1287): what is wanted, what is granted, what the container has."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cluster.node import core_events as ev
from cluster.node.admission import judge_resize
from cluster.node.core_resize import RETRY_S
from cluster.node.status_writer import timed_conditions
from tests.support.pod_driver import Driver, make_pod


def resources(cpu: str, memory: str = "64Mi") -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}}


def running(**container: Any) -> Driver:
    return Driver(make_pod(containers=[{"name": "app", "image": "img:1", "resources": resources("100m"), **container}]))


def ask(d: Driver, wanted: dict[str, Any]) -> None:
    """The spec's resources change; the machine's answer is for the test to send."""
    pod = copy.deepcopy(d.core.pod)
    pod["spec"]["containers"][0]["resources"] = wanted
    d.send(ev.PodSeen(pod))


def answer(d: Driver, reason: str = "", message: str = "") -> None:
    d.send(ev.ResizeChecked(d.of(ev.CheckResize)[-1].wanted, reason, message))


def done(d: Driver, error: str = "") -> None:
    asked = d.of(ev.ResizeContainer)[-1]
    d.send(ev.ContainerResized(asked.name, asked.id, asked.resources, error))


def has(d: Driver, kind: str) -> dict[str, Any] | None:
    return next((c for c in d.status["conditions"] if c["type"] == kind), None)


def test_a_status_shows_what_a_container_has_and_was_granted() -> None:
    app = running().container("app")
    assert app["resources"] == resources("100m")
    assert app["allocatedResources"] == {"cpu": "100m", "memory": "64Mi"}


def test_a_resize_that_fits_is_made_without_a_restart() -> None:
    d = running()
    ask(d, resources("200m"))
    answer(d)
    assert has(d, "PodResizeInProgress") == {"type": "PodResizeInProgress", "status": "True"}
    assert d.container("app")["allocatedResources"]["cpu"] == "200m"
    assert d.container("app")["resources"] == resources("100m")
    assert d.of(ev.ResizeContainer)[0].resources == resources("200m")
    done(d)
    assert d.container("app")["resources"] == resources("200m")
    assert d.container("app")["restartCount"] == 0
    assert has(d, "PodResizeInProgress") is None
    assert {"ResizeStarted", "ResizeCompleted"} <= set(d.reasons())


def test_the_same_amount_in_other_words_is_no_resize() -> None:
    d = running()
    ask(d, resources("0.1"))
    assert not d.of(ev.CheckResize)


def test_a_deferred_resize_says_so_and_is_asked_about_again() -> None:
    d = running()
    ask(d, resources("1"))
    answer(d, "Deferred", "no room")
    pending = {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "no room"}
    assert has(d, "PodResizePending") == pending
    assert d.container("app")["allocatedResources"]["cpu"] == "100m"
    assert d.core.allocated["spec"]["containers"][0]["resources"] == resources("100m")
    assert d.core.next_wake() == d.now + RETRY_S
    d.advance(RETRY_S)
    assert len(d.of(ev.CheckResize)) == 2
    answer(d)
    assert has(d, "PodResizePending") is None
    assert len(d.of(ev.ResizeContainer)) == 1


def test_an_infeasible_resize_waits_for_another_spec() -> None:
    d = running()
    ask(d, resources("100"))
    answer(d, "Infeasible", "too big")
    d.advance(1000)
    assert len(d.of(ev.CheckResize)) == 1
    ask(d, resources("100m"))
    assert has(d, "PodResizePending") is None
    ask(d, resources("200m"))
    assert len(d.of(ev.CheckResize)) == 2


def test_an_answer_about_an_older_spec_does_not_count() -> None:
    d = running()
    ask(d, resources("200m"))
    first = d.of(ev.CheckResize)[-1].wanted
    ask(d, resources("300m"))
    d.send(ev.ResizeChecked(first))
    assert not d.of(ev.ResizeContainer)
    answer(d)
    assert d.of(ev.ResizeContainer)[-1].resources == resources("300m")


def test_a_resize_policy_of_restart_container_restarts_it_with_the_new_resources() -> None:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    d = running(resizePolicy=policy)
    ask(d, resources("200m"))
    answer(d)
    done(d)
    assert d.container("app")["restartCount"] == 0, "only cpu changed"
    ask(d, resources("200m", "128Mi"))
    answer(d)
    assert d.container("app")["restartCount"] == 1
    assert d.container("app")["resources"] == resources("200m", "128Mi")
    assert has(d, "PodResizeInProgress") is None


def test_a_resize_that_the_engine_refuses_is_shown_and_tried_again() -> None:
    d = running()
    ask(d, resources("100m", "32Mi"))
    answer(d)
    done(d, "device or resource busy")
    condition = has(d, "PodResizeInProgress")
    assert condition is not None
    assert (condition["reason"], condition["message"]) == ("Error", "device or resource busy")
    d.advance(3600)
    assert len(d.of(ev.ResizeContainer)) == 2
    done(d)
    assert has(d, "PodResizeInProgress") is None


def test_a_restarted_kubelet_knows_what_was_granted() -> None:
    d = running()
    ask(d, resources("100"))
    answer(d, "Infeasible", "too big")
    pod = {**copy.deepcopy(d.core.pod), "status": d.status}
    seen = ev.SeenContainer("app", "app-0", 0, True, "sb0", "sha256:1", d.now)
    again = Driver(pod, adopt=ev.Adopt(ev.SeenSandbox("sb0", True, "10.244.0.5", 0), (seen,)))
    assert again.container("app")["allocatedResources"]["cpu"] == "100m"
    assert len(again.of(ev.CheckResize)) == 1
    assert not again.of(ev.StartContainer)


@pytest.mark.parametrize(
    ("cpu", "verdict"),
    [
        ("1", ("", "")),
        ("2", ("Deferred", "Node didn't have enough resource: cpu, requested: 2000, used: 500, capacity: 2000")),
        ("3", ("Infeasible", "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000")),
    ],
)
def test_the_machine_judges_by_what_the_others_were_granted(cpu: str, verdict: tuple[str, str]) -> None:
    pod = make_pod(containers=[{"name": "app", "resources": resources(cpu)}])
    other = make_pod(containers=[{"name": "app", "resources": resources("500m")}])
    assert judge_resize(pod, [other], {"cpu": 2000, "memory": 1 << 30}) == verdict


def test_a_condition_that_has_passed_is_deleted_from_the_api() -> None:
    known = {"PodResizePending": {"type": "PodResizePending", "status": "True", "lastTransitionTime": "t"}}
    by_type, listed = timed_conditions([], known, 0.0)
    assert by_type == {}
    assert listed == [{"type": "PodResizePending", "$patch": "delete"}]
