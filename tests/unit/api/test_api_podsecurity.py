"""Pod Security Standards, against their published text: each rule has pods that pass and pods that violate it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import podsecurity
from cluster.api.podsecurity import LATEST, LevelVersion, Policy

HARD = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _spec(security: dict[str, Any] | None = None, pod: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "c", "image": "i"}
    if security is not None:
        container["securityContext"] = security
    spec: dict[str, Any] = {"containers": [container], **more}
    if pod is not None:
        spec["securityContext"] = pod
    return spec


def _detail(level: str, spec: dict[str, Any], version: int = LATEST, **annotations: str) -> str:
    return podsecurity.evaluate(LevelVersion(level, version), {"annotations": annotations}, spec).detail


def test_the_default_pod_violates_restricted_in_kubernetes_words() -> None:
    assert _detail("restricted", _spec()) == (
        'allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), '
        'unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), '
        'runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), '
        'seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or '
        '"Localhost")'
    )
    assert _detail("baseline", _spec()) == _detail("privileged", _spec({"privileged": True})) == ""
    assert _detail("restricted", _spec(HARD)) == ""


@pytest.mark.parametrize(
    ("spec", "detail"),
    [
        (_spec(hostNetwork=True, hostPID=True), "host namespaces (hostNetwork=true, hostPID=true)"),
        (_spec({"privileged": True}), 'privileged (container "c" must not set securityContext.privileged=true)'),
        (
            _spec({"capabilities": {"add": ["NET_ADMIN", "CHOWN", "BPF"]}}),
            'non-default capabilities (container "c" must not include "BPF", "NET_ADMIN" in '
            "securityContext.capabilities.add)",
        ),
        (
            _spec(volumes=[{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "hostPath": {"path": "/"}}]),
            'hostPath volumes (volumes "a", "b")',
        ),
        (
            {"containers": [{"name": "c", "ports": [{"hostPort": 80}, {"hostPort": 8080}, {"containerPort": 1}]}]},
            'hostPort (container "c" uses hostPorts 80, 8080)',
        ),
        (
            _spec({"appArmorProfile": {"type": "Unconfined"}}, {"appArmorProfile": {"type": "RuntimeDefault"}}),
            'forbidden AppArmor profile (container "c" must not set AppArmor profile type to "Unconfined")',
        ),
        (
            _spec({"seLinuxOptions": {"type": "spc_t"}}, {"seLinuxOptions": {"user": "u"}}),
            'seLinuxOptions (pod and container "c" set forbidden securityContext.seLinuxOptions: type "spc_t"; user '
            "may not be set)",
        ),
        (
            _spec({"procMount": "Unmasked"}),
            'procMount (container "c" must not set securityContext.procMount to "Unmasked")',
        ),
        (
            _spec(pod={"seccompProfile": {"type": "Unconfined"}}),
            'seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")',
        ),
        (
            _spec(pod={"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_syncookies"}]}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            _spec(pod={"windowsOptions": {"hostProcess": True}}),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            {"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1", "port": 80}}}]},
            'probe or lifecycle host (container "c" uses probe or lifecycle host "10.0.0.1")',
        ),
    ],
)
def test_baseline(spec: dict[str, Any], detail: str) -> None:
    assert _detail("baseline", spec) == detail


def test_restricted_asks_for_more_and_replaces_what_it_covers() -> None:
    pod = {"runAsNonRoot": False, "runAsUser": 0}
    volumes = [{"name": "v", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {"server": "s", "path": "/"}}]
    assert _detail("restricted", _spec({**HARD, "capabilities": {"add": ["SYS_TIME"]}}, pod, volumes=volumes)) == (
        'unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]; container "c" '
        'must not include "SYS_TIME" in securityContext.capabilities.add), '
        'restricted volume types (volumes "v", "n" use restricted volume types "hostPath", "nfs"), '
        "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), "
        "runAsUser=0 (pod must not set runAsUser=0)"
    )


def test_versions_know_only_the_rules_of_their_time() -> None:
    keepalive = _spec(pod={"sysctls": [{"name": "net.ipv4.tcp_keepalive_time"}]})
    assert _detail("baseline", keepalive, 28) == "forbidden sysctls (net.ipv4.tcp_keepalive_time)"
    assert _detail("baseline", keepalive, 29) == ""
    root = _spec(HARD | {"runAsUser": 0})
    assert (_detail("restricted", root, 22), _detail("restricted", root, 23)) == (
        "",
        'runAsUser=0 (container "c" must not set runAsUser=0)',
    )
    windows = _spec({"runAsNonRoot": True}, os={"name": "windows"})
    assert _detail("restricted", windows) == "" != _detail("restricted", windows, 24)
    inside = _spec({**HARD, "runAsUser": 0}, hostUsers=False)
    assert _detail("restricted", inside, 35) == "" != _detail("restricted", inside, 34)


def test_labels_make_the_policy() -> None:
    at = podsecurity.PREFIX
    policy, faults = podsecurity.policy_of({at + "enforce": "baseline", at + "enforce-version": "v1.29"}, Policy())
    assert (str(policy.enforce), str(policy.audit), faults) == ("baseline:v1.29", "privileged:latest", [])
    assert policy.warn == policy.enforce, "who enforces is warned as well"
    policy, _ = podsecurity.policy_of({at + "enforce": "baseline", at + "warn": "privileged"}, Policy())
    assert policy.warn.level == "privileged"
    policy, faults = podsecurity.policy_of({at + "enforce": "strict", at + "warn-version": "1.3"}, Policy())
    assert policy.enforce.level == "restricted", "what cannot be read is enforced in full"
    assert faults == [
        (at + "enforce", "strict", "must be one of privileged, baseline, restricted"),
        (at + "warn-version", "1.3", 'must be "latest" or "v1.x"'),
    ]
