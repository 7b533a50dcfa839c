"""Defaults and validation of the kinds the main job meets."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import defaults, validation
from cluster.api.scheme import SCHEME

Object = dict[str, Any]


def _defaulted(resource: str, obj: Object) -> Object:
    defaults.apply(SCHEME.named(resource), obj)
    return obj


def _faults(resource: str, obj: Object) -> list[str]:
    info = SCHEME.named(resource)
    obj["metadata"].setdefault("namespace", "default")
    return [str(c) for c in validation.create(info, _defaulted(resource, obj))]


def _pod(**container: Any) -> Object:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1", **container}]}}


def _deployment(**spec: Any) -> Object:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": _pod()["spec"]}
    return {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}}


def test_pod_defaults() -> None:
    pod = _defaulted(
        "pods",
        _pod(
            ports=[{"containerPort": 80}], resources={"limits": {"cpu": "1"}}, livenessProbe={"httpGet": {"port": 80}}
        ),
    )
    c, spec = pod["spec"]["containers"][0], pod["spec"]
    assert (spec["restartPolicy"], spec["dnsPolicy"], spec["terminationGracePeriodSeconds"]) == (
        "Always",
        "ClusterFirst",
        30,
    )
    assert (spec["schedulerName"], spec["securityContext"], spec["enableServiceLinks"]) == (
        "default-scheduler",
        {},
        True,
    )
    assert c["imagePullPolicy"] == "IfNotPresent"
    assert c["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert c["resources"] == {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}
    assert c["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("image", "policy"),
    [("nginx", "Always"), ("nginx:latest", "Always"), ("nginx:1", "IfNotPresent"), ("r:5000/nginx", "Always"),
     ("nginx@sha256:" + "0" * 64, "IfNotPresent")],
)  # fmt: skip
def test_pull_policy(image: str, policy: str) -> None:
    pod = _defaulted("pods", _pod(image=image))
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_deployment_defaults() -> None:
    spec = _defaulted("deployments.apps", _deployment())["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
    assert (spec["replicas"], spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (1, 10, 600)
    assert "enableServiceLinks" not in spec["template"]["spec"]


def test_a_retention_policy_that_is_empty_keeps_the_claims() -> None:
    own = {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "", "whenScaled": "Delete"}}
    spec = _defaulted("statefulsets.apps", {"metadata": {}, "spec": own})["spec"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Delete"}


def test_service_defaults() -> None:
    spec = _defaulted("services", {"metadata": {}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}})["spec"]
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (spec["sessionAffinity"], spec["internalTrafficPolicy"], spec["externalTrafficPolicy"]) == (
        "None", "Cluster", "Cluster",
    )  # fmt: skip


def test_defaulting_twice_changes_nothing() -> None:
    for resource, obj in (("pods", _pod()), ("deployments.apps", _deployment())):
        once = _defaulted(resource, obj)
        before = repr(once)
        assert repr(_defaulted(resource, once)) == before


def test_valid_objects_pass() -> None:
    assert _faults("pods", _pod()) == []
    assert _faults("deployments.apps", _deployment()) == []
    assert _faults("services", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}) == []


@pytest.mark.parametrize(
    ("container", "fault"),
    [
        ({"image": ""}, "spec.containers[0].image: Required value"),
        ({"ports": [{"containerPort": 70000}]},
         "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"),
        ({"imagePullPolicy": "Sometimes"},
         'spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", '
         '"IfNotPresent", "Never"'),
        ({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
         'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'),
        ({"volumeMounts": [{"name": "v", "mountPath": "/x"}]},
         'spec.containers[0].volumeMounts[0].name: Not found: "v"'),
        ({"livenessProbe": {}}, "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
        ({"env": [{"name": ""}]}, "spec.containers[0].env[0].name: Required value"),
    ],
)  # fmt: skip
def test_container_faults(container: Object, fault: str) -> None:
    assert _faults("pods", _pod(**container)) == [fault]


def test_a_spec_that_was_sound_says_nothing_of_another() -> None:
    sound, faulty = _pod(ports=[{"containerPort": 80}]), _pod(ports=[{"containerPort": 80_000}])
    assert _faults("pods", sound) == _faults("pods", sound) == []
    assert _faults("pods", faulty) == _faults("pods", faulty) != []
    named = {**sound, "metadata": {"name": "No_Name"}}
    assert _faults("pods", named) != [], "the metadata is looked at each time"


def test_workload_faults() -> None:
    assert _faults("deployments.apps", _deployment(selector={"matchLabels": {"a": "x"}})) == [
        'spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`'
    ]
    assert _faults("deployments.apps", _deployment(replicas=-1)) == [
        "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
    ]
    assert _faults("deployments.apps", _deployment(selector=None)) == ["spec.selector: Required value"]


def test_service_faults() -> None:
    bad = {"metadata": {"name": "1s"}, "spec": {"ports": [{"port": 0}, {"port": 80}]}}
    faults = _faults("services", bad)
    assert faults[0].startswith('metadata.name: Invalid value: "1s": a DNS-1035 label must consist')
    assert "spec.ports[0].name: Required value" in faults
    assert "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive" in faults


def test_pod_update_rules() -> None:
    info = SCHEME.named("pods")
    old, new = _defaulted("pods", _pod()), _defaulted("pods", _pod(image="i:2"))
    for o in (old, new):
        o["metadata"]["namespace"] = "default"
    assert validation.update(info, new, old) == []
    new["spec"]["nodeName"] = "m1"
    assert "pod updates may not change fields other than" in str(validation.update(info, new, old)[0])


def test_immutable_fields() -> None:
    info = SCHEME.named("deployments.apps")
    old, new = _defaulted("deployments.apps", _deployment()), _defaulted("deployments.apps", _deployment())
    new["spec"]["selector"] = {"matchLabels": {"a": "c"}}
    assert [str(c) for c in validation.update(info, new, old)] == [
        'spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`',
        'spec.selector: Invalid value: {"matchLabels":{"a":"c"}}: field is immutable',
    ]
