"""`sk8 image prepull`: the pod that pulls, and what its status says of the pull."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import defaults, validation
from cluster.api.scheme import SCHEME
from cluster.cli.image import prepull_pod, verdict


def with_status(**status: Any) -> dict[str, Any]:
    return {**prepull_pod("app:1", "m1", ""), "status": status}


def container(**state: Any) -> dict[str, Any]:
    return with_status(containerStatuses=[{"name": "image", "state": state}])


def test_the_pod_is_one_that_the_api_takes_and_each_node_and_image_has_its_own() -> None:
    pod = prepull_pod("app:1", "m1", "login")
    pod["metadata"]["namespace"] = "kube-system"
    info = SCHEME.named("pods")
    defaults.apply(info, pod)
    assert validation.create(info, pod) == []
    assert pod["spec"]["imagePullSecrets"] == [{"name": "login"}]
    names = {prepull_pod(i, n, "")["metadata"]["name"] for i in ("a:1", "a:2") for n in ("m1", "m2")}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        (with_status(), None),
        (container(waiting={"reason": "ContainerCreating"}), None),
        (container(terminated={"exitCode": 128, "reason": "StartError"}), ""),
        (container(waiting={"reason": "CreateContainerError"}), ""),
        (container(waiting={"reason": "ErrImagePull", "message": "no such image"}), "app:1 on m1: no such image"),
        (with_status(phase="Failed", reason="OutOfpods", message="full"), "app:1 on m1: OutOfpods: full"),
    ],
)
def test_the_verdict(pod: dict[str, Any], said: str | None) -> None:
    assert verdict(pod) == said
