"""The checks of level restricted: what a hardened pod says of itself.

Pure. Ids, versions and wording are those of k8s.io/pod-security-admission.
"""

from __future__ import annotations

from cluster.api.podsecurity.baseline import proc_mount, seccomp_refused
from cluster.api.podsecurity.checks import (
    Check,
    Metadata,
    Spec,
    Violation,
    containers,
    in_user_namespace,
    is_windows,
    named,
    plural,
    quoted,
    security,
    setters,
    unless,
)

_VOLUMES = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ]
)


def allow_privilege_escalation(metadata: Metadata, spec: Spec) -> Violation | None:
    bad = [c["name"] for c in containers(spec) if security(c).get("allowPrivilegeEscalation") is not False]
    if not bad:
        return None
    detail = f"{named(bad)} must set securityContext.allowPrivilegeEscalation=false"
    return Violation("allowPrivilegeEscalation != false", detail)


def capabilities(metadata: Metadata, spec: Spec) -> Violation | None:
    keeping: list[str] = []
    adding: list[str] = []
    added: set[str] = set()
    for c in containers(spec):
        given = security(c).get("capabilities") or {}
        if "ALL" not in (given.get("drop") or ()):
            keeping.append(c["name"])
        more = set(given.get("add") or ()) - {"NET_BIND_SERVICE"}
        if more:
            added |= more
            adding.append(c["name"])
    details = [f'{named(keeping)} must set securityContext.capabilities.drop=["ALL"]'] if keeping else []
    if adding:
        details.append(f"{named(adding)} must not include {quoted(sorted(added))} in securityContext.capabilities.add")
    return Violation("unrestricted capabilities", "; ".join(details)) if details else None


def volume_types(metadata: Metadata, spec: Spec) -> Violation | None:
    bad: list[str] = []
    types: set[str] = set()
    for v in spec.get("volumes") or ():
        kinds = [k for k, source in v.items() if k != "name" and source is not None]
        if not any(k in _VOLUMES for k in kinds):
            bad.append(v["name"])
            types.add(kinds[0] if kinds else "unknown")
    if not bad:
        return None
    what = plural("restricted volume type", "restricted volume types", len(types))
    who = f"{plural('volume', 'volumes', len(bad))} {quoted(bad)} {plural('uses', 'use', len(bad))}"
    return Violation("restricted volume types", f"{who} {what} {quoted(sorted(types))}")


def run_as_non_root(metadata: Metadata, spec: Spec) -> Violation | None:
    reason = "runAsNonRoot != true"
    of_pod = security(spec).get("runAsNonRoot")
    said = {c["name"]: security(c).get("runAsNonRoot") for c in containers(spec)}
    refusing = setters(of_pod is False, [name for name, value in said.items() if value is False])
    if refusing:
        return Violation(reason, f"{refusing} must not set securityContext.runAsNonRoot=false")
    silent = [name for name, value in said.items() if value is None] if not of_pod else []
    return Violation(reason, f"pod or {named(silent)} must set securityContext.runAsNonRoot=true") if silent else None


def run_as_user(metadata: Metadata, spec: Spec) -> Violation | None:
    roots = [c["name"] for c in containers(spec) if security(c).get("runAsUser") == 0]
    who = setters(security(spec).get("runAsUser") == 0, roots)
    return Violation("runAsUser=0", f"{who} must not set runAsUser=0") if who else None


def seccomp(metadata: Metadata, spec: Spec) -> Violation | None:
    refused = seccomp_refused(spec)
    if refused is not None:
        return refused
    if security(spec).get("seccompProfile") is not None:
        return None
    silent = [c["name"] for c in containers(spec) if security(c).get("seccompProfile") is None]
    if not silent:
        return None
    wanted = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return Violation("seccompProfile", f"pod or {named(silent)} {wanted}")


CHECKS = (
    Check(
        "allowPrivilegeEscalation",
        ((8, allow_privilege_escalation), (25, unless(is_windows, allow_privilege_escalation))),
    ),
    Check(
        "capabilities_restricted",
        ((22, capabilities), (25, unless(is_windows, capabilities))),
        overrides=("capabilities_baseline",),
    ),
    Check("procMount_restricted", ((35, proc_mount),), overrides=("procMount",)),
    Check("restrictedVolumes", ((0, volume_types),), overrides=("hostPathVolumes",)),
    Check("runAsNonRoot", ((0, run_as_non_root), (35, unless(in_user_namespace, run_as_non_root)))),
    Check("runAsUser", ((23, run_as_user), (35, unless(in_user_namespace, run_as_user)))),
    Check(
        "seccompProfile_restricted",
        ((19, seccomp), (25, unless(is_windows, seccomp))),
        overrides=("seccompProfile_baseline",),
    ),
)
