"""HorizontalPodAutoscalers, budgets, Jobs and volumes: faults in Kubernetes' words (pkg/apis/*/validation)."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cluster.api import defaults, validation
from cluster.api.scheme import SCHEME

Object = dict[str, Any]


def defaulted(resource: str, spec: Object) -> Object:
    info = SCHEME.named(resource)
    obj: Object = {"metadata": {"name": "x", **({"namespace": "default"} if info.namespaced else {})}, "spec": spec}
    defaults.apply(info, obj)
    return obj


def faults(resource: str, spec: Object) -> list[str]:
    return [str(c) for c in validation.create(SCHEME.named(resource), defaulted(resource, spec))]


def change_faults(resource: str, spec: Object, **changed: Any) -> list[str]:
    old = defaulted(resource, copy.deepcopy(spec))
    new = defaulted(resource, {**copy.deepcopy(spec), **changed})
    return [str(c) for c in validation.update(SCHEME.named(resource), new, old)]


def of_autoscaler(**spec: Any) -> list[str]:
    whole = {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3, **spec}
    return faults("horizontalpodautoscalers.autoscaling", whole)


def of_metric(kind: str, **sources: Any) -> list[str]:
    return [f.removeprefix("spec.metrics[0].") for f in of_autoscaler(metrics=[{"type": kind, **sources}])]


def test_an_autoscaler_of_defaults_is_right() -> None:
    assert of_autoscaler() == []
    assert of_autoscaler(behavior={"scaleDown": {"stabilizationWindowSeconds": 0}}) == []


def test_what_is_scaled_is_named_by_parts_of_a_path() -> None:
    assert of_autoscaler(scaleTargetRef={"kind": "", "name": "a/b"}) == [
        "spec.scaleTargetRef.kind: Required value",
        "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
    ]


def test_metrics_have_the_source_of_their_type_alone() -> None:
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    assert of_metric("Resource", resource=cpu) == []
    assert of_metric("Pods", resource=cpu) == [
        "pods: Required value: must populate information for the given metric source"
    ]
    pods = {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}
    assert of_metric("Resource", resource=cpu, pods=pods) == [
        "pods: Forbidden: must populate the given metric source only"
    ]


@pytest.mark.parametrize(
    ("kind", "field", "source", "said"),
    [
        (
            "Pods",
            "pods",
            {"metric": {}, "target": {"type": "Value", "value": "1"}},
            [
                "pods.metric.name: Required value: must specify a metric name",
                "pods.target.averageValue: Required value: must specify a positive target averageValue",
            ],
        ),
        (
            "External",
            "external",
            {"metric": {"name": "m"}, "target": {"type": "Value", "value": "1", "averageValue": "1"}},
            ["external.target.value: Forbidden: may not set both a target value for metric and a per-pod target"],
        ),
        (
            "Object",
            "object",
            {"metric": {"name": "m"}, "describedObject": {"kind": "Service", "name": "s"}, "target": {"type": "Value"}},
            ["object.target.averageValue: Required value: must set either a target value or averageValue"],
        ),
        (
            "ContainerResource",
            "containerResource",
            {"name": "cpu", "target": {"type": "Foo", "averageUtilization": 0}},
            [
                "containerResource.container: Required value: must specify a container",
                'containerResource.target.type: Invalid value: "Foo": '
                "must be either Utilization, Value, or AverageValue",
                "containerResource.target.averageUtilization: Invalid value: 0: must be greater than 0",
            ],
        ),
    ],
)
def test_what_a_source_needs(kind: str, field: str, source: Object, said: list[str]) -> None:
    assert of_metric(kind, **{field: source}) == said


def test_rules_of_scaling() -> None:
    policy = {"type": "Pods", "value": 0, "periodSeconds": 1801}
    rules = {"scaleDown": {"policies": [], "stabilizationWindowSeconds": -1}, "scaleUp": {"policies": [policy]}}
    assert of_autoscaler(behavior=rules) == [
        "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
        "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
        "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: -1: must be greater than or equal to zero",
        "spec.behavior.scaleDown.policies: Required value: must specify at least one Policy",
    ]


def test_a_budget_is_at_most_all_pods() -> None:
    assert faults("poddisruptionbudgets.policy", {"minAvailable": "200%", "unhealthyPodEvictionPolicy": "X"}) == [
        'spec.minAvailable: Invalid value: "200%": must not be greater than 100%',
        'spec.unhealthyPodEvictionPolicy: Unsupported value: "X": supported values: "AlwaysAllow", "IfHealthyBudget"',
    ]


def test_a_volume_says_where_it_is_or_nothing() -> None:
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
    assert faults("persistentvolumes", {**spec, "nodeAffinity": {}}) == [
        "spec.nodeAffinity.required: Required value: must specify required node constraints"
    ]
    assert faults("persistentvolumes", {**spec, "nodeAffinity": {"required": {"nodeSelectorTerms": []}}}) == [
        "spec.nodeAffinity.required.nodeSelectorTerms: Required value: must have at least one node selector term"
    ]


def test_a_volume_of_one_machine_says_which() -> None:
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}
    assert faults("persistentvolumes", {**spec, "local": {"path": "/x"}}) == [
        "metadata.annotations: Required value: Local volume requires node affinity"
    ]
    assert faults("persistentvolumes", {**spec, "csi": {"driver": "d"}}) == ["spec.csi.volumeHandle: Required value"]
    root = {**spec, "hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"}
    assert faults("persistentvolumes", root) == [
        "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"
    ]


def test_a_secret_for_a_password_has_a_name_or_a_password() -> None:
    secret: Object = {"metadata": {"name": "x", "namespace": "default"}, "type": "kubernetes.io/basic-auth"}
    info = SCHEME.named("secrets")
    assert [str(c) for c in validation.create(info, secret)] == [
        "data[username]: Required value",
        "data[password]: Required value",
    ]
    assert validation.create(info, {**secret, "data": {"password": ""}}) == []


def test_ports_and_classes_of_services_have_qualified_names() -> None:
    port = {"name": "p", "port": 80, "appProtocol": "a b"}
    spec = {"type": "LoadBalancer", "ports": [port], "loadBalancerClass": "c d", "clusterIP": "10.0.0.1"}
    found = [f.partition(": name part")[0] for f in faults("services", {**spec, "clusterIPs": ["10.0.0.1"]})]
    assert [f for f in found if "IPs" not in f] == [
        'spec.ports[0].appProtocol: Invalid value: "a b"',
        'spec.loadBalancerClass: Invalid value: "c d"',
    ]


def _job(**spec: Any) -> Object:
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}
    labels = {"a": "b"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    return {"selector": {"matchLabels": labels}, "manualSelector": True, "template": template, **spec}


def test_what_of_a_job_can_change() -> None:
    assert change_faults("jobs.batch", _job(completions=4), podReplacementPolicy="Failed", parallelism=4) == []
    assert change_faults("jobs.batch", _job(completions=1), completions=5) == [
        "spec.completions: Invalid value: 5: field is immutable"
    ]
    indexed = _job(completionMode="Indexed", completions=3, parallelism=3)
    assert change_faults("jobs.batch", indexed, completions=5, parallelism=5) == []
    assert change_faults("jobs.batch", indexed, completions=5) == [
        "spec.completions: Invalid value: 5: can only be modified in tandem with spec.parallelism"
    ]


def test_both_what_is_wrong_and_what_may_not_change_are_said() -> None:
    found = change_faults("jobs.batch", _job(completions=1), completions=2, parallelism=-1)
    assert found == [
        "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
        "spec.completions: Invalid value: 2: field is immutable",
    ]
