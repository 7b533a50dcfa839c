"""CRI's words for the kubelet's values, and back. Pure. Labels are those that Docker's containers have, too.

Log files: a sandbox's log directory is "/", so that a container's log path can be its whole path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cluster.node.cgroup_plan import CPU_PERIOD_US
from cluster.node.container_labels import container_labels, labelled, sandbox_labels
from cluster.node.cri.protos import message
from cluster.node.runtime import (
    ContainerConfig,
    ContainerInfo,
    ImageEntry,
    PodRef,
    SandboxConfig,
    Usage,
)

POD, CONTAINER, NODE, TARGET = 0, 1, 2, 3  # NamespaceMode
_RUNNING, _EXITED = 1, 2  # ContainerState
_PROPAGATION = {"rprivate": 0, "rslave": 1, "rshared": 2}
_MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
           "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap")  # fmt: skip
_READ_ONLY = ("/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What the kubelet asks for where procMount is Default."""


def _metadata(pod: PodRef, attempt: int) -> Any:
    return message("PodSandboxMetadata", name=pod.name, uid=pod.uid, namespace=pod.namespace, attempt=attempt)


def sandbox(machine: str, config: SandboxConfig) -> Any:
    """PodSandboxConfig."""
    namespaces = message(
        "NamespaceOption",
        network=NODE if config.host_network else POD,
        pid=NODE if config.host_pids else CONTAINER,
        ipc=NODE if config.host_ipc else POD,
    )
    linux = message(
        "LinuxPodSandboxConfig",
        cgroup_parent=config.cgroup_parent or None,
        security_context=message("LinuxSandboxSecurityContext", namespace_options=namespaces),
        sysctls=dict(config.sysctls),
    )
    return message(
        "PodSandboxConfig",
        metadata=_metadata(config.pod, config.attempt),
        hostname=None if config.host_network else config.hostname,
        log_directory="/",
        labels=sandbox_labels(machine, config),
        linux=linux,
    )


def sandbox_of(config: ContainerConfig) -> Any:
    """The part of a container's sandbox config that its creation asks for."""
    return message("PodSandboxConfig", metadata=_metadata(config.pod, 0), log_directory="/")


def container(machine: str, config: ContainerConfig) -> Any:
    """ContainerConfig."""
    mounts = [
        message(
            "Mount",
            host_path=m.source,
            container_path=m.target,
            readonly=m.read_only,
            propagation=_PROPAGATION[m.propagation],
        )
        for m in config.mounts
    ]
    devices = [
        message("Device", host_path=d.host_path, container_path=d.container_path, permissions=d.permissions)
        for d in config.devices
    ]
    return message(
        "ContainerConfig",
        metadata=message("ContainerMetadata", name=config.name, attempt=config.attempt),
        image=message("ImageSpec", image=config.image),
        command=list(config.command),
        args=list(config.args),
        working_dir=config.working_dir,
        envs=[message("KeyValue", key=k, value=v.encode()) for k, _, v in (e.partition("=") for e in config.env)],
        mounts=mounts,
        devices=devices,
        labels=container_labels(machine, config),
        log_path=config.log_path.lstrip("/"),
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=message(
            "LinuxContainerConfig",
            resources=resources(
                config.cpu_shares, config.cpu_quota_us, config.memory_limit_bytes, config.oom_score_adj
            ),
            security_context=_security(config),
        ),
    )


def resources(cpu_shares: int, cpu_quota_us: int, memory_bytes: int, oom_score_adj: int = 0) -> Any:
    return message(
        "LinuxContainerResources",
        cpu_period=CPU_PERIOD_US,
        cpu_quota=cpu_quota_us,
        cpu_shares=cpu_shares,
        memory_limit_in_bytes=memory_bytes,
        oom_score_adj=oom_score_adj,
    )


def _security(config: ContainerConfig) -> Any:
    user, _, group = config.user.partition(":")
    by_number = user.isdigit()
    pid = NODE if config.host_pids else POD if config.share_pids else CONTAINER
    if config.pids_of:
        pid = TARGET
    number = {"masked_paths": _MASKED, "readonly_paths": _READ_ONLY} if not config.privileged else {}
    return message(
        "LinuxContainerSecurityContext",
        capabilities=message(
            "Capability", add_capabilities=config.capabilities_add, drop_capabilities=config.capabilities_drop
        ),
        privileged=config.privileged,
        namespace_options=message("NamespaceOption", network=POD, pid=pid, ipc=POD, target_id=config.pids_of),
        run_as_user=message("Int64Value", value=int(user)) if by_number else None,
        run_as_username=None if by_number or not user else user,
        run_as_group=message("Int64Value", value=int(group)) if group else None,
        readonly_rootfs=config.read_only_root,
        supplemental_groups=[int(g) for g in config.groups],
        no_new_privs=config.no_new_privileges,
        seccomp=message("SecurityProfile", profile_type=1 if config.unconfined_seccomp or config.privileged else 0),
        **{k: list(v) for k, v in number.items()},
    )


# ------------------------------------------------------------ and back


def from_sandbox(entry: Any, info: Mapping[str, str] | None = None) -> ContainerInfo:
    """A PodSandbox or PodSandboxStatus; `info`: the verbose part, which names the network namespace."""
    return labelled(
        entry.id,
        entry.labels,
        state="running" if entry.state == 0 else "exited",
        created_at=entry.created_at / 1e9,
        netns=_netns(info or {}),
    )


def _netns(info: Mapping[str, str]) -> str:
    spec = json.loads(info.get("info") or "{}").get("runtimeSpec") or {}
    namespaces = (spec.get("linux") or {}).get("namespaces") or ()
    return next((str(n.get("path") or "") for n in namespaces if n.get("type") == "network"), "")


def from_container(entry: Any) -> ContainerInfo:
    """A Container of a list."""
    return labelled(
        entry.id,
        entry.labels,
        state=_state(entry.state),
        image_id=entry.image_ref,
        created_at=entry.created_at / 1e9,
    )


def from_status(status: Any) -> ContainerInfo:
    """A ContainerStatus."""
    return labelled(
        status.id,
        status.labels,
        state=_state(status.state),
        image_id=status.image_ref,
        created_at=status.created_at / 1e9,
        started_at=status.started_at / 1e9,
        finished_at=status.finished_at / 1e9,
        exit_code=status.exit_code,
        oom_killed=status.reason == "OOMKilled",
        error="" if status.reason in ("Completed", "Error", "OOMKilled") else status.message,
    )


def _state(number: int) -> Any:
    return {_RUNNING: "running", _EXITED: "exited"}.get(number, "created")


def from_image(image: Any) -> ImageEntry:
    return ImageEntry((*sorted(image.repo_digests), *sorted(image.repo_tags)), image.size, image.id, image.pinned)


def from_stats(stats: Any) -> Usage:
    memory = stats.memory
    return Usage(
        at=stats.cpu.timestamp / 1e9,
        cpu_ns=stats.cpu.usage_core_nano_seconds.value,
        memory_bytes=memory.usage_bytes.value or memory.working_set_bytes.value,
        working_set_bytes=memory.working_set_bytes.value,
        rss_bytes=memory.rss_bytes.value,
        page_faults=memory.page_faults.value,
        major_page_faults=memory.major_page_faults.value,
    )
