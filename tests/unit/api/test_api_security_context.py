"""securityContext is refused in Kubernetes' words, naming the field; what is right passes."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.validation.fields import Faults
from cluster.api.validation.securitycontext import validate_container_security, validate_pod_security

RANGE = "must be between 0 and 2147483647, inclusive"
SEGMENT = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
NO_SYSCTL = f"must have at most 253 characters and match regex ({SEGMENT}[\\./])*{SEGMENT}"
SAFE = "kernel.shm_rmid_forced"


def of_pod(context: dict[str, Any], **spec: Any) -> list[tuple[str, str]]:
    faults = Faults()
    validate_pod_security(faults, "spec", {"securityContext": context, **spec})
    return [(c.field.removeprefix("spec.securityContext."), c.message) for c in faults.causes]


def of_container(**context: Any) -> list[tuple[str, str]]:
    faults = Faults()
    validate_container_security(faults, "spec.containers[0]", {"securityContext": context})
    return [(c.field.removeprefix("spec.containers[0].securityContext").lstrip("."), c.message) for c in faults.causes]


def sysctls(*names: str) -> dict[str, Any]:
    return {"sysctls": [{"name": n, "value": "1"} for n in names]}


def test_names_of_sysctls() -> None:
    found = of_pod(sysctls("foo-", "kernel.shmmax", "safe-and-unsafe", "bar..", "net/ipv4/ip_forward", ""))
    assert found == [
        ("sysctls[0].name", f'Invalid value: "foo-": {NO_SYSCTL}'),
        ("sysctls[3].name", f'Invalid value: "bar..": {NO_SYSCTL}'),
        ("sysctls[5].name", "Required value"),
    ]
    assert of_pod(sysctls("x" * 254))[0][0] == "sysctls[0].name"


def test_a_sysctl_is_set_once_however_it_is_written() -> None:
    assert of_pod(sysctls("net.ipv4.conf.a", "net/ipv4/conf/a")) == [
        ("sysctls[1].name", 'Duplicate value: "net/ipv4/conf/a"')
    ]


def test_sysctls_of_a_namespace_that_is_the_machines() -> None:
    net, ipc = "net.core.somaxconn", SAFE
    why = "may not be specified when '{}' is true"
    assert of_pod(sysctls(net, ipc), hostNetwork=True) == [
        ("sysctls[0].name", f'Invalid value: "{net}": {why.format("hostNetwork")}')
    ]
    assert of_pod(sysctls(net, ipc), hostIPC=True) == [
        ("sysctls[1].name", f'Invalid value: "{ipc}": {why.format("hostIPC")}')
    ]
    assert of_pod(sysctls(net, ipc)) == []


@pytest.mark.parametrize("field", ["fsGroup", "runAsUser", "runAsGroup"])
def test_ids_of_a_pod(field: str) -> None:
    assert of_pod({field: -1}) == [(field, f"Invalid value: -1: {RANGE}")]
    assert of_pod({field: 2**31}) == [(field, f"Invalid value: 2147483648: {RANGE}")]
    assert of_pod({field: 0}) == of_pod({field: 2**31 - 1}) == []


def test_groups_and_policy_of_a_pod() -> None:
    assert of_pod({"supplementalGroups": [1, -2]}) == [("supplementalGroups[1]", f"Invalid value: -2: {RANGE}")]
    ((field, message),) = of_pod({"fsGroupChangePolicy": "Sometimes"})
    assert field == "fsGroupChangePolicy" and 'supported values: "Always", "OnRootMismatch"' in message


def test_one_process_namespace_cannot_be_two() -> None:
    ((field, message),) = of_pod({}, hostPID=True, shareProcessNamespace=True)
    assert field == "spec.shareProcessNamespace"
    assert message == "Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"


def test_seccomp_profiles() -> None:
    where = "seccompProfile"
    assert of_container(seccompProfile={"type": "RuntimeDefault"}) == []
    assert of_container(seccompProfile={"type": "Localhost", "localhostProfile": "p.json"}) == []
    assert of_container(seccompProfile={"localhostProfile": "p.json"}) == [
        (f"{where}.type", "Required value: type is required when seccompProfile is set")
    ]
    assert of_pod({where: {"type": "Localhost"}}) == [
        (f"{where}.localhostProfile", "Required value: must be set when seccomp type is Localhost")
    ]
    assert of_pod({where: {"type": "Unconfined", "localhostProfile": "p"}}) == [
        (f"{where}.localhostProfile", 'Invalid value: "p": can only be set when seccomp type is Localhost')
    ]


def test_a_privileged_container_can_gain_privileges() -> None:
    assert of_container(privileged=True) == of_container(allowPrivilegeEscalation=False) == []
    ((field, message),) = of_container(allowPrivilegeEscalation=False, privileged=True)
    assert field == "" and message.endswith("cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
    ((_, message),) = of_container(allowPrivilegeEscalation=False, capabilities={"add": ["CAP_SYS_ADMIN"]})
    assert message.endswith("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
