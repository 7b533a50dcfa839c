"""Warnings about what is accepted, in Kubernetes' words (pkg/api/*/warnings.go, the strategies' WarningsOnCreate)."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.scheme import SCHEME
from cluster.api.validation import advice

Object = dict[str, Any]


def said(resource: str, new: Object, old: Object | None = None) -> list[str]:
    return list(advice.warnings(SCHEME.named(resource), {"metadata": {"name": "x"}, **new}, old))


def of_pod(annotations: Object | None = None, **spec: Any) -> list[str]:
    metadata = {"name": "x", "annotations": annotations or {}}
    return said("pods", {"metadata": metadata, "spec": {"containers": [{"name": "c"}], **spec}})


def of_container(**fields: Any) -> list[str]:
    return of_pod(containers=[{"name": "c", **fields}])


def test_most_pods_have_nothing_said_of_them() -> None:
    port = {"containerPort": 80, "protocol": "TCP"}
    env = [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "B", "value": "$(A)"}]
    assert of_container(ports=[port, {**port, "protocol": "UDP"}], env=env) == []
    assert of_pod(nodeSelector={"kubernetes.io/os": "linux"}, imagePullSecrets=[{"name": "a"}, {"name": "b"}]) == []


def test_a_variable_that_hides_another() -> None:
    env = [{"name": "A", "value": v} for v in ("1", "2", "$(A)")] + [{"name": "A", "valueFrom": {"fieldRef": {}}}]
    tail = 'hides previous definition of "A", which may be dropped when using apply'
    assert of_container(env=env) == [f"spec.containers[0].env[{i}]: {tail}" for i in (1, 2, 3)]


def test_names_that_are_used_up() -> None:
    assert of_pod(nodeSelector={"beta.kubernetes.io/os": "linux"}) == [
        'spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead'
    ]
    term = {"matchExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone", "operator": "Exists"}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    assert of_pod(affinity={"nodeAffinity": required}) == [
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]."
        "matchExpressions[0].key: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; "
        'use "topology.kubernetes.io/zone" instead'
    ]
    assert of_pod({"scheduler.alpha.kubernetes.io/critical-pod": ""}) == [
        "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "
        '"priorityClassName" field instead'
    ]
    seccomp = {"seccomp.security.alpha.kubernetes.io/pod": "runtime/default"}
    assert of_pod(seccomp) == [
        "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "
        '"seccompProfile" field instead'
    ]
    assert of_pod(seccomp, securityContext={"seccompProfile": {"type": "RuntimeDefault"}}) == []
    assert of_pod(volumes=[{"name": "v", "gitRepo": {}}]) == ["spec.volumes[0].gitRepo: deprecated in v1.11"]


def test_selectors_that_match_nothing() -> None:
    tail = "labelSelector: a null labelSelector results in matching no pod"
    assert of_pod(topologySpreadConstraints=[{"topologyKey": "zone"}]) == [f"spec.topologySpreadConstraints[0].{tail}"]
    preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {}}]}
    assert of_pod(affinity={"podAntiAffinity": preferred}) == [
        f"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.{tail}"
    ]


def test_amounts_and_lists_that_cannot_be_meant() -> None:
    assert of_container(resources={"limits": {"memory": "100m"}, "requests": {"cpu": "100m"}}) == [
        'spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer'
    ]
    assert of_pod(imagePullSecrets=[{"name": "a"}, {"name": "a"}, {}]) == [
        'spec.imagePullSecrets[1].name: duplicate name "a"',
        'spec.imagePullSecrets[2].name: invalid empty name ""',
    ]
    assert of_pod(hostAliases=[{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}]) == [
        'spec.hostAliases[1].ip: duplicate ip "1.1.1.1"'
    ]
    assert of_pod(terminationGracePeriodSeconds=-1) == [
        "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
    ]


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({}, {}, "duplicate port definition with"),
        ({}, {"hostPort": 8080}, "overlapping port definition with"),
        ({"hostPort": 8080}, {}, "overlapping port definition with"),
        ({"hostPort": 8080}, {"hostPort": 8080, "hostIP": "1.1.1.1"}, "dangerously ambiguous port definition with"),
        ({"hostPort": 8080}, {"hostPort": 8081}, ""),
        ({"hostPort": 8080, "hostIP": "1.1.1.1"}, {"hostPort": 8080, "hostIP": "1.1.1.2"}, ""),
    ],
)
def test_ports_that_clash(first: Object, second: Object, why: str) -> None:
    port = {"containerPort": 80, "protocol": "TCP"}
    found = of_pod(containers=[{"name": "a", "ports": [port | first]}, {"name": "b", "ports": [port | second]}])
    assert found == ([f"spec.containers[1].ports[0]: {why} spec.containers[0].ports[0]"] if why else [])


def test_an_address_without_a_port_of_the_host() -> None:
    port = {"containerPort": 80, "protocol": "TCP", "hostIP": "1.1.1.1"}
    assert of_container(ports=[port]) == [
        "spec.containers[0].ports[0]: hostIP set without hostPort: "
        "{Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:1.1.1.1}"
    ]


def test_templates_are_judged_when_they_are_written() -> None:
    template = {"spec": {"nodeSelector": {"beta.kubernetes.io/arch": "amd64"}}}
    new = {"metadata": {"name": "a.b"}, "spec": {"template": template}}
    label = 'spec.template.spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; use "kubernetes.io/arch"'
    named = (
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label "
        "is recommended: [must not contain dots]"
    )
    assert said("deployments.apps", new) == [named, f"{label} instead"]
    assert said("deployments.apps", new, new) == []
    assert said("deployments.apps", new, {**new, "spec": {}}) == [f"{label} instead"]
    assert said("daemonsets.apps", new) == [f"{label} instead"]
    job = {"spec": {"jobTemplate": {"spec": {"template": template}}}}
    assert said("cronjobs.batch", job) == [f"spec.jobTemplate.spec.{label[5:]} instead"]


def test_services() -> None:
    headless = {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "ClientIP"}
    assert said("services", {"spec": headless}) == ["spec.SessionAffinity is ignored for headless services"]
    assert said("services", {"spec": {"type": "ClusterIP", "externalName": "a.b", "sessionAffinity": "None"}}) == [
        'spec.externalName is ignored when spec.type is not "ExternalName"'
    ]
    spec = {"type": "LoadBalancer", "externalIPs": ["2001:DB8::1"], "loadBalancerSourceRanges": ["10.1.2.3/8"]}
    assert said("services", {"spec": spec}) == [
        'spec.externalIPs[0]: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format ("2001:db8::1")',
        'spec.loadBalancerSourceRanges[0]: CIDR value "10.1.2.3/8" is ambiguous in this context (should be '
        '"10.0.0.0/8" or "10.1.2.3/32"?)',
    ]


def test_other_kinds() -> None:
    old_class = {"metadata": {"name": "x", "annotations": {"kubernetes.io/ingress.class": "nginx"}}, "spec": {}}
    assert said("ingresses.networking.k8s.io", old_class) == [
        "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
    ]
    assert said("ingresses.networking.k8s.io", old_class, old_class) == []
    assert said("persistentvolumeclaims", {"spec": {"resources": {"requests": {"storage": "1500m"}}}}) == [
        'spec.resources.requests[storage]: fractional byte value "1500m" is invalid, must be an integer'
    ]
    assert said("persistentvolumes", {"spec": {"persistentVolumeReclaimPolicy": "Recycle", "cephfs": {}}}) == [
        "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended "
        "approach is to use dynamic provisioning.",
        "spec.cephfs: deprecated in v1.28, non-functional in v1.31+",
    ]
    mountable = {"metadata": {"name": "x", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}}
    assert said("serviceaccounts", mountable) == [
        "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate "
        "namespaces to isolate access to mounted secrets"
    ]
    block = {"cidr": "10.0.0.1/8"}
    assert said("networkpolicies.networking.k8s.io", {"spec": {"egress": [{"to": [{"ipBlock": block}]}]}}) == [
        'spec.egress[0].to[0].ipBlock.cidr: CIDR value "10.0.0.1/8" is ambiguous in this context (should be '
        '"10.0.0.0/8" or "10.0.0.1/32"?)'
    ]
