"""Validation of securityContext, of a pod and of a container.

Pure. Source: pkg/apis/core/validation (ValidatePodSecurityContext, validateSysctls, ValidateSecurityContext).
"""

from __future__ import annotations

import re
from typing import Any

from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_MAX_ID = 2**31 - 1
_SYSCTL_SEGMENT = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL = f"({_SYSCTL_SEGMENT}[\\./])*{_SYSCTL_SEGMENT}"
_SYSCTL_NAME = re.compile(_SYSCTL, re.ASCII)
_MAX_SYSCTL = 253
_IPC_SYSCTLS = ("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")
_SECCOMP = ("Localhost", "RuntimeDefault", "Unconfined")
_FS_GROUP_POLICIES = ("Always", "OnRootMismatch")


def validate_pod_security(faults: Faults, at: str, spec: Object) -> None:
    """`at` is the path of the pod's spec."""
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        why = "ShareProcessNamespace and HostPID cannot both be enabled"
        faults.invalid(at + ".shareProcessNamespace", True, why)
    context = spec.get("securityContext")
    if not context:
        return
    at += ".securityContext"
    for field in ("fsGroup", "runAsUser", "runAsGroup"):
        _id(faults, f"{at}.{field}", context.get(field))
    for i, group in enumerate(context.get("supplementalGroups") or ()):
        _id(faults, f"{at}.supplementalGroups[{i}]", group)
    if context.get("fsGroupChangePolicy") is not None:
        faults.enum(at + ".fsGroupChangePolicy", context["fsGroupChangePolicy"], _FS_GROUP_POLICIES)
    if context.get("supplementalGroupsPolicy") is not None:
        faults.enum(at + ".supplementalGroupsPolicy", context["supplementalGroupsPolicy"], ("Merge", "Strict"))
    _sysctls(faults, at + ".sysctls", context.get("sysctls") or [], spec)
    _seccomp(faults, at + ".seccompProfile", context.get("seccompProfile"))


def validate_container_security(faults: Faults, at: str, container: Object) -> None:
    """`at` is the path of the container."""
    context = container.get("securityContext")
    if not context:
        return
    at += ".securityContext"
    for field in ("runAsUser", "runAsGroup"):
        _id(faults, f"{at}.{field}", context.get(field))
    _seccomp(faults, at + ".seccompProfile", context.get("seccompProfile"))
    if context.get("procMount") is not None:
        faults.enum(at + ".procMount", context["procMount"], ("Default", "Unmasked"))
    if context.get("allowPrivilegeEscalation") is not False:
        return
    refused = "cannot set `allowPrivilegeEscalation` to false and "
    if context.get("privileged"):
        faults.invalid(at, context, refused + "`privileged` to true")
    if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
        faults.invalid(at, context, refused + "`capabilities.Add` CAP_SYS_ADMIN")


def _id(faults: Faults, at: str, value: int | None) -> None:
    if value is not None and not 0 <= value <= _MAX_ID:
        faults.invalid(at, value, f"must be between 0 and {_MAX_ID}, inclusive")


def _sysctls(faults: Faults, at: str, sysctls: list[Object], spec: Object) -> None:
    seen: set[str] = set()
    for i, sysctl in enumerate(sysctls):
        where, said = f"{at}[{i}].name", sysctl.get("name") or ""
        name = _dotted(said)
        if not said:
            faults.required(where)
        elif len(said) > _MAX_SYSCTL or not _SYSCTL_NAME.fullmatch(said):
            faults.invalid(where, said, f"must have at most {_MAX_SYSCTL} characters and match regex {_SYSCTL}")
        elif name in seen:
            faults.duplicate(where, said)
        seen.add(name)
        if spec.get("hostNetwork") and name.startswith("net."):
            faults.invalid(where, said, "may not be specified when 'hostNetwork' is true")
        if spec.get("hostIPC") and name.startswith(_IPC_SYSCTLS):
            faults.invalid(where, said, "may not be specified when 'hostIPC' is true")


def _dotted(name: str) -> str:
    """Of sysctl(8)'s two ways to write a name the one with dots: whichever separator comes first is the separator."""
    first = re.search(r"[./]", name)
    if first is None or first.group() == ".":
        return name
    return name.translate(str.maketrans("./", "/."))


def _seccomp(faults: Faults, at: str, profile: Object | None) -> None:
    if profile is None:
        return
    kind = profile.get("type") or ""
    if not kind:
        faults.required(at + ".type", "type is required when seccompProfile is set")
        return
    faults.enum(at + ".type", kind, _SECCOMP)
    local = profile.get("localhostProfile")
    if kind == "Localhost" and not local:
        faults.required(at + ".localhostProfile", "must be set when seccomp type is Localhost")
    elif kind != "Localhost" and local is not None:
        faults.invalid(at + ".localhostProfile", local, "can only be set when seccomp type is Localhost")
