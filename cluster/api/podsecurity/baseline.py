"""The checks of level baseline: known ways from a container to its machine.

Pure. Ids, versions and wording are those of k8s.io/pod-security-admission.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cluster.api.podsecurity.checks import (
    Check,
    Metadata,
    Run,
    Spec,
    Violation,
    containers,
    in_user_namespace,
    named,
    plural,
    quoted,
    security,
    setters,
    unless,
)

_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
_SYSCTLS_BY_VERSION = (
    (
        0,
        "kernel.shm_rmid_forced net.ipv4.ip_local_port_range net.ipv4.tcp_syncookies net.ipv4.ping_group_range "
        "net.ipv4.ip_unprivileged_port_start",
    ),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (
        29,
        "net.ipv4.tcp_keepalive_time net.ipv4.tcp_fin_timeout net.ipv4.tcp_keepalive_intvl "
        "net.ipv4.tcp_keepalive_probes",
    ),
    (32, "net.ipv4.tcp_rmem net.ipv4.tcp_wmem"),
    (37, "net.ipv4.tcp_slow_start_after_idle net.ipv4.tcp_notsent_lowat"),
)
_SELINUX_TYPES = frozenset(("", "container_t", "container_init_t", "container_kvm_t"))
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
SECCOMP_POD = "seccomp.security.alpha.kubernetes.io/pod"
SECCOMP_CONTAINER = "container.seccomp.security.alpha.kubernetes.io/"


def app_armor(metadata: Metadata, spec: Spec) -> Violation | None:
    bad_values: set[str] = set()

    def bad(holder: Mapping[str, Any]) -> bool:
        profile = security(holder).get("appArmorProfile")
        if profile is None or profile.get("type") in ("RuntimeDefault", "Localhost"):
            return False
        bad_values.add(profile.get("type") or "")
        return True

    who = setters(bad(spec), [c["name"] for c in containers(spec) if bad(c)])
    notes = sorted(
        f'{k}="{v}"'
        for k, v in (metadata.get("annotations") or {}).items()
        if k.startswith(_APPARMOR) and v not in ("", "runtime/default") and not v.startswith("localhost/")
    )
    if notes:
        who = " and ".join(filter(None, (who, plural("annotation", "annotations", len(notes)))))
    if not who:
        return None
    values = [*sorted(bad_values), *notes]
    reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", len(values))
    return Violation(reason, f"{who} must not set AppArmor profile type to {quoted(values)}")


def capabilities(metadata: Metadata, spec: Spec) -> Violation | None:
    extra: set[str] = set()
    bad: list[str] = []
    for c in containers(spec):
        more = set((security(c).get("capabilities") or {}).get("add") or ()) - _CAPABILITIES
        if more:
            extra |= more
            bad.append(c["name"])
    if not bad:
        return None
    detail = f"{named(bad)} must not include {quoted(sorted(extra))} in securityContext.capabilities.add"
    return Violation("non-default capabilities", detail)


def host_namespaces(metadata: Metadata, spec: Spec) -> Violation | None:
    found = [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    return Violation("host namespaces", ", ".join(found)) if found else None


def host_path(metadata: Metadata, spec: Spec) -> Violation | None:
    bad = [v["name"] for v in spec.get("volumes") or () if v.get("hostPath") is not None]
    return Violation("hostPath volumes", f"{plural('volume', 'volumes', len(bad))} {quoted(bad)}") if bad else None


def host_ports(metadata: Metadata, spec: Spec) -> Violation | None:
    used = {
        c["name"]: {str(p["hostPort"]) for p in c.get("ports") or () if p.get("hostPort")} for c in containers(spec)
    }
    bad = [name for name, ports in used.items() if ports]
    if not bad:
        return None
    ports = sorted(set().union(*used.values()))
    what = f"{plural('uses', 'use', len(bad))} {plural('hostPort', 'hostPorts', len(ports))} {', '.join(ports)}"
    return Violation("hostPort", f"{named(bad)} {what}")


def handler_hosts(metadata: Metadata, spec: Spec) -> Violation | None:
    """Probes and hooks run from the machine: a host of the author's choice makes them a way around network policy."""
    hosts: set[str] = set()
    bad: set[str] = set()
    for c in containers(spec):
        lifecycle = c.get("lifecycle") or {}
        handlers = [c.get(f) for f in ("livenessProbe", "readinessProbe", "startupProbe")]
        handlers += [lifecycle.get(f) for f in ("postStart", "preStop")]
        for handler in filter(None, handlers):
            said = [(handler.get(kind) or {}).get("host") for kind in ("httpGet", "tcpSocket")]
            found = {str(host) for host in said if host}
            if found:
                hosts |= found
                bad.add(c["name"])
    if not bad:
        return None
    what = plural("probe or lifecycle host", "probe or lifecycle hosts", len(hosts))
    detail = f"{named(sorted(bad))} {plural('uses', 'use', len(bad))} {what} {quoted(sorted(hosts))}"
    return Violation("probe or lifecycle host", detail)


def privileged(metadata: Metadata, spec: Spec) -> Violation | None:
    bad = [c["name"] for c in containers(spec) if security(c).get("privileged")]
    return Violation("privileged", f"{named(bad)} must not set securityContext.privileged=true") if bad else None


def proc_mount(metadata: Metadata, spec: Spec) -> Violation | None:
    used = {c["name"]: security(c).get("procMount") for c in containers(spec)}
    bad = [name for name, value in used.items() if value not in (None, "Default")]
    if not bad:
        return None
    values = sorted({str(used[name]) for name in bad})
    return Violation("procMount", f"{named(bad)} must not set securityContext.procMount to {quoted(values)}")


def _selinux(allowed: frozenset[str]) -> Run:
    def run(metadata: Metadata, spec: Spec) -> Violation | None:
        types: set[str] = set()
        fields: set[str] = set()

        def bad(holder: Mapping[str, Any]) -> bool:
            options = security(holder).get("seLinuxOptions") or {}
            wrong_type = (options.get("type") or "") not in allowed
            if wrong_type:
                types.add(options["type"])
            set_fields = {f for f in ("user", "role") if options.get(f)}
            fields.update(set_fields)
            return wrong_type or bool(set_fields)

        who = setters(bad(spec), [c["name"] for c in containers(spec) if bad(c)])
        if not who:
            return None
        what = [f"{plural('type', 'types', len(types))} {quoted(sorted(types))}"] if types else []
        what += [f"{f} may not be set" for f in ("user", "role") if f in fields]
        return Violation("seLinuxOptions", f"{who} set forbidden securityContext.seLinuxOptions: {'; '.join(what)}")

    return run


def seccomp_annotations(metadata: Metadata, spec: Spec) -> Violation | None:
    """Before v1.19 the profile was an annotation."""
    annotations = metadata.get("annotations") or {}
    keys = [SECCOMP_POD, *(SECCOMP_CONTAINER + c["name"] for c in containers(spec))]
    bad = {
        f'{k}="{annotations[k]}"'
        for k in keys
        if k in annotations
        and annotations[k] not in ("runtime/default", "docker/default")
        and not annotations[k].startswith("localhost/")
    }
    if not bad:
        return None
    detail = f"forbidden {plural('annotation', 'annotations', len(bad))} {', '.join(sorted(bad))}"
    return Violation("seccompProfile", detail)


def seccomp_refused(spec: Spec) -> Violation | None:
    """Profiles that are set, and to something that does not confine."""
    values: set[str] = set()

    def bad(holder: Mapping[str, Any]) -> bool:
        profile = security(holder).get("seccompProfile")
        if profile is None or profile.get("type") in ("RuntimeDefault", "Localhost"):
            return False
        values.add(profile.get("type") or "")
        return True

    who = setters(bad(spec), [c["name"] for c in containers(spec) if bad(c)])
    if not who:
        return None
    detail = f"{who} must not set securityContext.seccompProfile.type to {quoted(sorted(values))}"
    return Violation("seccompProfile", detail)


def _sysctls(version: int) -> Run:
    allowed = {name for minor, names in _SYSCTLS_BY_VERSION if minor <= version for name in names.split()}

    def run(metadata: Metadata, spec: Spec) -> Violation | None:
        bad = [s["name"] for s in security(spec).get("sysctls") or () if s["name"] not in allowed]
        return Violation("forbidden sysctls", ", ".join(bad)) if bad else None

    return run


def windows_host_process(metadata: Metadata, spec: Spec) -> Violation | None:
    def bad(holder: Mapping[str, Any]) -> bool:
        return bool((security(holder).get("windowsOptions") or {}).get("hostProcess"))

    who = setters(bad(spec), [c["name"] for c in containers(spec) if bad(c)])
    return (
        Violation("hostProcess", f"{who} must not set securityContext.windowsOptions.hostProcess=true") if who else None
    )


def _of_spec(check: Callable[[Spec], Violation | None]) -> Run:
    return lambda metadata, spec: check(spec)


CHECKS = (
    Check("appArmorProfile", ((0, app_armor),)),
    Check("capabilities_baseline", ((0, capabilities),)),
    Check("hostNamespaces", ((0, host_namespaces),)),
    Check("hostPathVolumes", ((0, host_path),)),
    Check("hostPorts", ((0, host_ports),)),
    Check("hostProbesAndHostLifecycle", ((34, handler_hosts),)),
    Check("privileged", ((0, privileged),)),
    Check("procMount", ((0, proc_mount), (35, unless(in_user_namespace, proc_mount)))),
    Check("seLinuxOptions", ((0, _selinux(_SELINUX_TYPES)), (31, _selinux(_SELINUX_TYPES | {"container_engine_t"})))),
    Check("seccompProfile_baseline", ((0, seccomp_annotations), (19, _of_spec(seccomp_refused)))),
    Check("sysctls", tuple((minor, _sysctls(minor)) for minor, _ in _SYSCTLS_BY_VERSION)),
    Check("windowsHostProcess", ((0, windows_host_process),)),
)
