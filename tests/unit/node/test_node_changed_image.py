"""A container whose image changes: what runs, what is stopped for it, and what the status names."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.node import core_events as ev
from tests.support.pod_driver import T0, Driver, make_pod


def test_a_changed_image_restarts_the_container() -> None:
    d = Driver(make_pod())
    changed = make_pod(containers=[{"name": "app", "image": "img:2"}])
    d.send(ev.PodSeen(changed))
    assert d.container("app")["restartCount"] == 1
    assert d.container("app")["image"] == "img:2"


NEW_IMAGE = {"containers": [{"name": "app", "image": "img:2"}]}


def test_the_status_names_the_image_that_runs() -> None:
    """`image` goes with `imageID`, as in Kubernetes: both are of the last run until the next one has begun."""
    d = Driver(make_pod())
    d.auto = False
    d.send(ev.PodSeen(make_pod(**NEW_IMAGE)))
    assert d.of(ev.StopContainer) and d.container("app")["image"] == "img:1"
    d.exit("app", 143)
    assert d.of(ev.StartContainer)[-1].attempt == 1 and d.container("app")["image"] == "img:1"
    d.send(ev.ContainerBlocked("app", "ErrImagePull", "no such image", True))
    app = d.container("app")
    assert (app["image"], app["imageID"]) == ("img:1", "docker://sha256:1")
    d.advance(11)  # pulled at last
    d.send(ev.ContainerStarted("app", "app-1", "sha256:2", d.now))
    app = d.container("app")
    assert (app["image"], app["imageID"]) == ("img:2", "docker://sha256:2")


@pytest.mark.parametrize("policy", ["Always", "Never"])
def test_an_image_that_was_changed_while_the_kubelet_was_away_is_run(policy: str) -> None:
    d, pod = adopted("img:1", make_pod(restartPolicy=policy, **NEW_IMAGE))
    assert d.container("app")["image"] == "img:1"
    assert [a.id for a in d.of(ev.StopContainer)] == ["c7"]
    d.exit("app", 143)
    d.send(ev.ContainerStarted("app", "c8", "sha256:2", d.now))
    app = d.container("app")
    assert (app["image"], app["imageID"]) == ("img:2", "docker://sha256:2")
    d.send(ev.PodSeen(pod))
    assert len(d.of(ev.StopContainer)) == 1


def test_what_runs_the_image_of_its_spec_is_not_stopped_at_adoption() -> None:
    d, _ = adopted("img:2", make_pod(**NEW_IMAGE))
    assert not d.of(ev.StopContainer) and d.container("app")["image"] == "img:2"


def adopted(image: str, pod: dict[str, Any]) -> tuple[Driver, dict[str, Any]]:
    """A driver whose kubelet found c7, of which the API's status says that it runs `image`."""
    told = {"name": "app", "containerID": "docker://c7", "image": image, "ready": True, "started": True}
    pod["status"] = {"phase": "Running", "containerStatuses": [{**told, "restartCount": 0}]}
    seen = ev.SeenContainer("app", "c7", 0, True, "s", "sha256:1", T0 - 100)
    d = Driver(pod, adopt=ev.Adopt(ev.SeenSandbox("s", True, "10.244.0.9", 0), (seen,)), auto=False)
    d.send(ev.VolumesReady())
    return d, pod


def test_a_new_image_does_not_wait_for_what_the_old_one_did() -> None:
    d = Driver(make_pod())
    for _ in range(4):
        d.exit("app", 1)
        d.advance(100)
    d.exit("app", 1)
    assert d.container("app")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    starts = len(d.of(ev.StartContainer))
    d.send(ev.PodSeen(make_pod(**NEW_IMAGE)))
    assert len(d.of(ev.StartContainer)) == starts + 1 and "running" in d.container("app")["state"]
    d.advance(1)
    d.exit("app", 1)
    assert d.core.containers["app"].backoff.current_s == 10, "the old image's back-off is forgotten"


def test_a_new_image_is_pulled_at_once() -> None:
    d = Driver(make_pod(), auto=False)
    d.send(ev.SandboxReady("s", "1.2.3.4"))
    d.send(ev.VolumesReady())
    for _ in range(5):
        d.send(ev.ContainerBlocked("app", "ErrImagePull", "no such image", True))
        d.advance(301)
    d.send(ev.ContainerBlocked("app", "ErrImagePull", "no such image", True))
    starts = len(d.of(ev.StartContainer))
    d.send(ev.PodSeen(make_pod(**NEW_IMAGE)))
    assert len(d.of(ev.StartContainer)) == starts + 1
    d.send(ev.PodSeen(make_pod()))  # changed again while that one is being pulled
    d.send(ev.ContainerBlocked("app", "ErrImagePull", "no such image", True))
    assert len(d.of(ev.StartContainer)) == starts + 2, "the failure was the other image's"


@pytest.mark.parametrize("policy", ["Always", "OnFailure", "Never"])
def test_a_changed_image_is_run_whatever_the_restart_policy(policy: str) -> None:
    d = Driver(make_pod(restartPolicy=policy))
    d.send(ev.PodSeen(make_pod(restartPolicy=policy, **NEW_IMAGE)))
    assert d.status["phase"] == "Running" and d.container("app")["restartCount"] == 1
    d.exit("app", 1)
    assert d.status["phase"] == ("Failed" if policy == "Never" else "Running")


def test_an_image_that_changes_while_the_old_one_starts() -> None:
    d = Driver(make_pod(), auto=False)
    d.send(ev.SandboxReady("s", "1.2.3.4"))
    d.send(ev.VolumesReady())
    d.send(ev.PodSeen(make_pod(**NEW_IMAGE)))
    assert not d.of(ev.StopContainer)
    d.send(ev.ContainerStarted("app", "app-0", "sha256:1", d.now))
    assert [a.id for a in d.of(ev.StopContainer)] == ["app-0"]
    d.exit("app", 143)
    assert len(d.of(ev.StartContainer)) == 2
