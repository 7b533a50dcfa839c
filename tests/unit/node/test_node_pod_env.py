"""Environment, command lines, resolver and security as the pod's spec asks for them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from cluster.node.pod_config import (
    ContainerInputs,
    DnsSettings,
    container_config,
    cpu_quota_us,
    cpu_shares,
    hostname_of,
    hosts_file,
    oom_score_adj,
    resolv_conf,
    security_of,
    uts_name,
)
from cluster.node.pod_env import ConfigError, EnvContext, environment, expand, field_value, references
from cluster.node.runtime import ImageInfo, Mount

DNS = DnsSettings("10.96.0.10", "cluster.local", "nameserver 9.9.9.9\nsearch lan\noptions rotate timeout:2\n")


def pod(**spec: Any) -> dict[str, Any]:
    meta = {
        "name": "p",
        "namespace": "ns",
        "uid": "u",
        "labels": {"b": "2", "a": "1"},
        "annotations": {"x/y": 'q"t'},
    }
    return {"metadata": meta, "spec": {"nodeName": "m1", "containers": [], **spec}}


def context(**kwargs: Any) -> EnvContext:
    return EnvContext(kwargs.pop("pod", pod()), "10.244.0.5", "10.89.0.11", **kwargs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$$(A)", "$(A)"),
        ("$(NONE)", "$(NONE)"),
        ("$A $", "$A $"),
        ("$$$(A)", "$1"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


def test_environment_in_order_with_references() -> None:
    container = {
        "name": "c",
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "no", "optional": True}}],
        "env": [
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "k"}}},
            {"name": "SUM", "value": "$(P_a)-$(S)-$(LATER)"},
            {"name": "LATER", "value": "z"},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "spec.host"}}},
            {"name": "OPT", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "zz", "optional": True}}},
        ],
    }
    assert references(container) == ({"cm"}, {"no", "sec"})
    env = environment(
        container,
        context(
            config_maps={"cm": {"data": {"a": "1"}}},
            secrets={"sec": {"data": {"k": base64.b64encode(b"geheim").decode()}}, "no": None},
        ),
    )
    assert env == {"P_a": "1", "S": "geheim", "SUM": "1-geheim-$(LATER)", "LATER": "z", "NODE": "m1", "HOST": "m1"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"configMapKeyRef": {"name": "gone", "key": "k"}}, 'configmap "gone" not found'),
        ({"secretKeyRef": {"name": "sec", "key": "q"}}, "couldn't find key q in Secret ns/sec"),
        ({"fieldRef": {"fieldPath": "status.nope"}}, "unsupported fieldPath"),
    ],
)
def test_missing_references_are_config_errors(entry: dict[str, Any], message: str) -> None:
    container = {"name": "c", "env": [{"name": "X", "valueFrom": entry}]}
    with pytest.raises(ConfigError, match=message):
        environment(container, context(config_maps={"gone": None}, secrets={"sec": {"data": {}}}))


def test_downward_fields() -> None:
    c = context()
    assert field_value("status.podIP", c) == "10.244.0.5"
    assert field_value("metadata.labels", c) == 'a="1"\nb="2"'
    assert field_value("metadata.annotations['x/y']", c) == 'q"t'


def test_resource_fields_round_up_and_default_to_the_node() -> None:
    container = {
        "name": "c",
        "resources": {"limits": {"cpu": "250m", "memory": "65Mi"}},
        "env": [
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MILLI", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "REQ", "valueFrom": {"resourceFieldRef": {"resource": "requests.memory"}}},
        ],
    }
    assert environment(container, context(allocatable={"memory": 7})) == {
        "CPU": "1",
        "MILLI": "250",
        "MEM": "65",
        "REQ": "0",
    }
    bare = {"name": "c", "env": [{"name": "M", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}]}
    assert environment(bare, context(allocatable={"memory": 7})) == {"M": "7"}


def test_service_variables() -> None:
    def service(name: str, namespace: str, ip: str) -> dict[str, Any]:
        spec = {"clusterIP": ip, "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]}
        return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}

    services = [
        service("kubernetes", "default", "10.96.0.1"),
        service("my-db", "ns", "10.96.1.1"),
        service("else", "other", "10.96.1.2"),
        service("headless", "ns", "None"),
    ]
    env = environment({"name": "c"}, context(services=services))
    assert env["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert env["MY_DB_SERVICE_PORT_WEB"] == "80"
    assert env["MY_DB_PORT_80_TCP"] == "tcp://10.96.1.1:80"
    assert not [k for k in env if k.startswith(("ELSE", "HEADLESS"))]
    env = environment({"name": "c"}, context(services=services, pod=pod(enableServiceLinks=False)))
    assert "KUBERNETES_SERVICE_HOST" in env and "MY_DB_SERVICE_HOST" not in env


def test_resolv_conf_by_policy() -> None:
    assert resolv_conf(pod(), DNS) == (
        "nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local cluster.local lan\noptions ndots:5\n"
    )
    assert resolv_conf(pod(dnsPolicy="Default"), DNS) == "nameserver 9.9.9.9\nsearch lan\noptions rotate timeout:2\n"
    own = {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}
    assert resolv_conf(pod(dnsPolicy="None", dnsConfig=own), DNS) == "nameserver 1.1.1.1\nsearch x\noptions ndots:2\n"
    merged = resolv_conf(pod(dnsConfig=own), DNS)
    assert "nameserver 10.96.0.10\nnameserver 1.1.1.1" in merged and "ndots:2" in merged


def test_hosts_and_hostname() -> None:
    p = pod(hostname="db-0", subdomain="db", hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}])
    text = hosts_file(p, ("10.244.0.5",), "cluster.local")
    assert "10.244.0.5\tdb-0.db.ns.svc.cluster.local\tdb-0\n" in text
    assert "1.2.3.4\ta\tb" in text
    assert hostname_of({"metadata": {"name": "x" * 62 + "--y"}, "spec": {}}) == "x" * 62


def test_limits() -> None:
    container = {"resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "500m"}}}
    assert (cpu_shares(container), cpu_quota_us(container)) == (256, 50_000)
    assert (cpu_shares({}), cpu_quota_us({})) == (2, 0)
    burstable = {"spec": {"containers": [container]}}
    assert oom_score_adj(burstable, container, 1 << 30) == 500
    assert oom_score_adj({"spec": {"containers": [{}]}}, {}, 1 << 30) == 1000


def test_security_context() -> None:
    outer = {"runAsUser": 5, "runAsGroup": 6, "fsGroup": 7, "supplementalGroups": [8]}
    inner = {
        "runAsUser": 9,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
    }
    s = security_of(pod(securityContext=outer), {"name": "c", "securityContext": inner}, ImageInfo("i"))
    assert (s.user, s.groups, s.add, s.drop) == ("9:6", ("8", "7"), ("NET_ADMIN",), ("ALL",))
    assert s.no_new_privileges and s.read_only_root and not s.privileged


@pytest.mark.parametrize(
    ("security", "image_user", "message"),
    [
        ({"runAsNonRoot": True}, "", "image will run as root"),
        ({"runAsNonRoot": True}, "www", "non-numeric user"),
        ({"runAsNonRoot": True, "runAsUser": 0}, "5", "breaks non-root policy"),
        ({"runAsNonRoot": True}, "1000", ""),
        ({"runAsNonRoot": True, "runAsUser": 3}, "", ""),
    ],
)
def test_run_as_non_root(security: dict[str, Any], image_user: str, message: str) -> None:
    container = {"name": "c", "securityContext": security}
    if not message:
        security_of(pod(), container, ImageInfo("i", image_user))
        return
    with pytest.raises(ConfigError, match=message):
        security_of(pod(), container, ImageInfo("i", image_user))


def test_container_config_mounts() -> None:
    container = {
        "name": "c",
        "image": "i",
        "command": ["run", "$(W)"],
        "env": [{"name": "W", "value": "it"}],
        "volumeMounts": [
            {"name": "v", "mountPath": "/v", "subPathExpr": "d/$(W)"},
            {"name": "conf", "mountPath": "/etc/hosts"},
        ],
    }
    inputs = ContainerInputs(
        context(),
        "sandbox",
        3,
        ImageInfo("i"),
        1 << 30,
        volumes={"v": "/vol/v", "conf": "/vol/conf"},
        read_only_volumes=frozenset({"conf"}),
        etc_mounts=(Mount("/x/hosts", "/etc/hosts"), Mount("/x/resolv", "/etc/resolv.conf")),
        message_file="/x/message",
    )
    config = container_config(pod(), container, inputs)
    assert config.command == ("run", "it") and config.attempt == 3
    assert [(m.source, m.target, m.read_only) for m in config.mounts] == [
        ("/vol/v/d/it", "/v", False),
        ("/vol/conf", "/etc/hosts", True),
        ("/x/resolv", "/etc/resolv.conf", False),
        ("/x/message", "/dev/termination-log", False),
    ]
    bad = {**container, "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "../up"}]}
    with pytest.raises(ConfigError, match="subPath"):
        container_config(pod(), bad, inputs)


def test_the_name_of_the_host_in_the_pod() -> None:
    assert uts_name(pod(), "m1", "cluster.local") == "p"
    assert uts_name(pod(hostNetwork=True, hostname="x"), "m1", "cluster.local") == "m1"
    named = pod(hostname="a", subdomain="b")
    assert uts_name(named, "m1", "cluster.local") == "a"
    named["spec"]["setHostnameAsFQDN"] = True
    assert uts_name(named, "m1", "cluster.local") == "a.b.ns.svc.cluster.local"
    named["spec"]["subdomain"] = "b" * 50
    with pytest.raises(ConfigError, match="64 characters is the max"):
        uts_name(named, "m1", "cluster.local")


def test_a_pod_on_the_machines_network_has_the_machines_resolver_and_hosts() -> None:
    dns = DnsSettings("10.96.0.10", "cluster.local", "nameserver 9.9.9.9\n")
    assert resolv_conf(pod(hostNetwork=True), dns) == "nameserver 9.9.9.9\n"
    inside = resolv_conf(pod(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"), dns)
    assert inside.startswith("nameserver 10.96.0.10\n")
    text = hosts_file(
        pod(hostNetwork=True, hostAliases=[{"ip": "1.2.3.4", "hostnames": ["x"]}]), (), "c", "127.0.0.1 here\n"
    )
    assert text.splitlines()[:2] == ["# Kubernetes-managed hosts file (host network).", "127.0.0.1 here"]
    assert text.endswith("1.2.3.4\tx\n")
