"""Faults of pods' volumes, mounts, variables and placement, in Kubernetes' words (pkg/apis/core/validation)."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import defaults, validation
from cluster.api.scheme import SCHEME

Object = dict[str, Any]

PODS = SCHEME.named("pods")
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
RESOURCES = (
    '"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", '
    '"requests.memory"'
)
MODE = "must be a number between 0 and 0777 (octal), both inclusive"


def of_pod(**spec: Any) -> list[str]:
    whole = {"containers": [{"name": "c", "image": "i:1"}], **spec}
    pod = {"metadata": {"name": "p", "namespace": "default"}, "spec": whole}
    defaults.apply(PODS, pod)
    return [str(c).removeprefix("spec.") for c in validation.create(PODS, pod)]


def of_container(**fields: Any) -> list[str]:
    found = of_pod(containers=[{"name": "c", "image": "i:1", **fields}], volumes=[{"name": "v", "emptyDir": {}}])
    return [f.removeprefix("containers[0].") for f in found]


def of_volume(**source: Any) -> list[str]:
    return [f.removeprefix("volumes[0].") for f in of_pod(volumes=[{"name": "v", **source}])]


def test_what_is_right_is_accepted() -> None:
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels['a.b/c']"}}]
    term = {"matchExpressions": [{"key": "a/b", "operator": "In", "values": ["x"]}]}
    near = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}
    assert of_volume(downwardAPI={"items": items}) == []
    assert of_volume(configMap={"name": "c", "items": [{"key": "k", "path": "a/b..c", "mode": 0o400}]}) == []
    assert of_volume(hostPath={"path": "/var/run", "type": ""}) == []
    assert (
        of_volume(projected={"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}) == []
    )
    assert of_container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]) == []
    assert of_container(volumeMounts=[{"name": "v", "mountPath": "/a", "subPathExpr": "$(A)/b"}]) == []
    assert of_pod(affinity={"nodeAffinity": {PREFERRED: [{"weight": 1, "preference": term}]}}) == []
    assert of_pod(affinity={"podAffinity": {PREFERRED: [{"weight": 100, "podAffinityTerm": near}]}}) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            {"emptyDir": {"sizeLimit": "-1"}},
            "emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
        ),
        ({"hostPath": {"path": "../x"}}, "hostPath.path: Invalid value: \"../x\": must not contain '..'"),
        ({"configMap": {"name": "c", "defaultMode": 1000}}, f"configMap.defaultMode: Invalid value: 1000: {MODE}"),
        (
            {"secret": {"secretName": "s", "items": [{"key": "k", "path": "/x"}]}},
            'secret.items[0].path: Invalid value: "/x": must be a relative path',
        ),
        (
            {"secret": {"secretName": "s", "items": [{"key": "k", "path": "..x"}]}},
            "secret.items[0].path: Invalid value: \"..x\": must not start with '..'",
        ),
        (
            {"projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}},
            "projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration "
            "less than 10 minutes",
        ),
        (
            {"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "spec.nodeName"}}]}},
            'downwardAPI.items[0].fieldRef.fieldPath: Unsupported value: "spec.nodeName": supported values: '
            '"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"',
        ),
        (
            {"downwardAPI": {"items": [{"path": "x"}]}},
            "downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required",
        ),
        ({"nfs": {"server": "s", "path": "x"}}, 'nfs.path: Invalid value: "x": must be an absolute path'),
        ({"ephemeral": {}}, "ephemeral.volumeClaimTemplate: Required value"),
        ({"csi": {"driver": ""}}, "csi.driver: Required value"),
    ],
)
def test_volumes(source: Object, said: str) -> None:
    assert of_volume(**source) == [said]


@pytest.mark.parametrize(
    ("mount", "said"),
    [
        (
            {"subPath": "a", "subPathExpr": "b"},
            'subPathExpr: Invalid value: "b": subPathExpr and subPath are mutually exclusive',
        ),
        ({"subPathExpr": "../b"}, "subPathExpr: Invalid value: \"../b\": must not contain '..'"),
        (
            {"mountPropagation": "Bidirectional"},
            "mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ),
        ({"recursiveReadOnly": "Enabled"}, "recursiveReadOnly: Forbidden: may only be specified when readOnly is true"),
    ],
)
def test_mounts(mount: Object, said: str) -> None:
    assert of_container(volumeMounts=[{"name": "v", "mountPath": "/a", **mount}]) == [f"volumeMounts[0].{said}"]


def test_variables() -> None:
    def of(**source: Any) -> list[str]:
        return [f.removeprefix("env[0].valueFrom.") for f in of_container(env=[{"name": "A", "valueFrom": source}])]

    assert of(fieldRef={"fieldPath": "spec.host"}) == []
    assert of(fieldRef={"fieldPath": "foo"}) == [
        'fieldRef.fieldPath: Invalid value: "foo": error converting fieldPath: field label not supported: foo'
    ]
    assert of(resourceFieldRef={"resource": "foo"}) == [
        f'resourceFieldRef.resource: Unsupported value: "foo": supported values: {RESOURCES}'
    ]
    assert of_container(envFrom=[{}, {"configMapRef": {"name": ""}}]) == [
        'envFrom[0]: Invalid value: "": must specify one of: `configMapRef` or `secretRef`',
        "envFrom[1].configMapRef.name: Required value",
    ]


def test_devices_come_whole() -> None:
    assert of_container(resources={"limits": {"example.com/gpu": "1.5"}}) == [
        'resources.limits[example.com/gpu]: Invalid value: "1.5": must be an integer',
        'resources.requests[example.com/gpu]: Invalid value: "1.5": must be an integer',  # by default, the same
    ]


def test_what_kubernetes_names_itself_needs_no_whole_number_and_no_limit() -> None:
    for name in ("kubernetes.io/batch-cpu", "example.kubernetes.io/x"):
        assert of_container(resources={"requests": {name: "1500m"}}) == []


def test_hooks_of_containers_that_end() -> None:
    hook = {"preStop": {"exec": {"command": ["a"]}}}
    first = {"name": "i", "image": "i:1", "lifecycle": hook}
    assert of_pod(initContainers=[first]) == [
        "initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always"
    ]
    assert of_pod(initContainers=[{**first, "restartPolicy": "Always"}]) == []


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        (
            {"key": "a", "operator": "In"},
            "values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            {"key": "a", "operator": "Exists", "values": ["x"]},
            "values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (
            {"key": "a", "operator": "Gt", "values": []},
            "values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        ({"key": "a", "operator": "Foo"}, 'operator: Invalid value: "Foo": not a valid selector operator'),
    ],
)
def test_requirements_of_nodes(requirement: Object, said: str) -> None:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}
    at = f"affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0]"
    assert of_pod(affinity={"nodeAffinity": {REQUIRED: terms}}) == [f"{at}.{said}"]


def test_preferences_weigh_something() -> None:
    near = {"topologyKey": ""}
    assert of_pod(affinity={"podAntiAffinity": {PREFERRED: [{"weight": 101, "podAffinityTerm": near}]}}) == [
        f"affinity.podAntiAffinity.{PREFERRED}[0].weight: Invalid value: 101: must be in the range 1-100",
        f"affinity.podAntiAffinity.{PREFERRED}[0].podAffinityTerm.topologyKey: Required value: can not be empty",
    ]


def test_spreading() -> None:
    one = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    soft = {**one, "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2}
    assert of_pod(topologySpreadConstraints=[one, {**one, "maxSkew": 2}, soft]) == [
        'topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{zone, DoNotSchedule}"',
        "topologySpreadConstraints[2].minDomains: Invalid value: 2: can only use minDomains if "
        "whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
    ]


def test_gates_and_preemption() -> None:
    found = of_pod(schedulingGates=[{"name": "a.io/b"}, {"name": "a.io/b"}], preemptionPolicy="Sometimes")
    assert found == [
        'schedulingGates[1]: Duplicate value: "a.io/b"',
        'preemptionPolicy: Unsupported value: "Sometimes": supported values: "Never", "PreemptLowerPriority"',
    ]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"schedulingGates": [{"name": "a"}], "nodeName": "n"},
            "nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ),
        (
            {"resourceClaims": [{"name": "a"}]},
            'resourceClaims[0]: Invalid value: {"name":"a"}: must specify one of: `resourceClaimName`, '
            "`resourceClaimTemplateName`",
        ),
        ({"os": {"name": "plan9"}}, 'os.name: Unsupported value: "plan9": supported values: "linux", "windows"'),
        (
            {"securityContext": {"supplementalGroupsPolicy": "X"}},
            'securityContext.supplementalGroupsPolicy: Unsupported value: "X": supported values: "Merge", "Strict"',
        ),
    ],
)
def test_what_else_a_pod_says(spec: Object, said: str) -> None:
    assert of_pod(**spec) == [said]


def test_names_of_hosts_and_search_paths() -> None:
    found = of_pod(
        hostAliases=[{"ip": "1.2.3.4", "hostnames": ["ok.example", "not_ok"]}],
        dnsConfig={"searches": [".", "example.com.", "_tcp.example.com", "a b"]},
    )
    assert [f.partition(": a lowercase")[0] for f in found] == [
        'hostAliases.hostnames: Invalid value: "not_ok"',
        'dnsConfig.searches[3]: Invalid value: "a b"',
    ]
