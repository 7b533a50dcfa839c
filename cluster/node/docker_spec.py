"""Docker's words for the kubelet's values: create bodies, names, labels, and back from inspect answers.

Pure. Source: Docker Engine API v1.41. A sandbox is a pause container; containers join its network and IPC namespaces.
Names and labels: docs/contracts.md.

A sandbox's network namespace is made by the OCI runtime, not by the engine's network code (libnetwork): that keeps a
record on disk and starts two processes for each, a third of a sandbox's start, and Docker 20.10 was seen to hang in it
for good, for every sandbox of the box. The namespace is found by the sandbox's process id then (`Box.proc`).

hostNetwork: the engine's own network namespace is that of the box, not of a local machine on it. `container:<sandbox>`
means /proc/<pid of its first process>/ns/net, looked up when a container starts. So the sandbox's first process goes
over into the machine's namespace (`nsenter` enters and then becomes the sleeper, with the same pid), and the pod's
containers follow it there. This asks nothing of the engine's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.api.meta import parse_time
from cluster.node.cgroup_plan import CPU_PERIOD_US
from cluster.node.container_labels import container_labels, labelled, sandbox_labels
from cluster.node.runtime import (
    ContainerConfig,
    ContainerInfo,
    PodRef,
    Resources,
    RunState,
    SandboxConfig,
)

Obj = dict[str, Any]
_LOG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
_SANDBOX_OOM_SCORE = -998
_IPV6_OFF = {f"net.ipv6.conf.{scope}.disable_ipv6": "1" for scope in ("all", "default")}
NETNS_MOUNT = "/run/machine-netns"
_SLEEP = 'trap "exit 0" TERM INT; while :; do sleep 2147483647 & wait; done'
_ENTER = ["/bin/busybox", "nsenter", f"--net={NETNS_MOUNT}", "/bin/sh", "-c", _SLEEP]


def container_name(pod: PodRef, container: str, attempt: int) -> str:
    return f"k8s_{container}_{pod.name}_{pod.namespace}_{pod.uid}_{attempt}"


@dataclass(frozen=True, slots=True)
class Box:
    """What matters of the box that the engine runs on.

    `oom_floor`: the lowest OOM score that the engine may set. `netns`: the file of the machine's network namespace, ""
    where it is the engine's own. `proc`: the procfs that shows the engine's processes, "" where none does: the engine's
    network code then makes the sandboxes' namespaces. `ipv6`: whether the kernel has it.
    """

    oom_floor: int = -1000
    netns: str = ""
    proc: str = "/proc"
    ipv6: bool = True


def sandbox_body(machine: str, config: SandboxConfig, box: Box) -> Obj:
    """A namespace that the OCI runtime makes has IPv6 off, as the engine's have it, until the pod network wants it."""
    own_network = bool(box.proc) and (not config.host_network or bool(box.netns))
    body: Obj = {
        "Image": config.image,
        "Hostname": config.hostname,
        "Labels": sandbox_labels(machine, config),
        "NetworkDisabled": own_network,
        "HostConfig": {
            "NetworkMode": "none",
            "IpcMode": "shareable",
            "LogConfig": {"Type": "none", "Config": {}},
            "OomScoreAdj": max(_SANDBOX_OOM_SCORE, box.oom_floor),
            "CpuShares": 2,
            "ReadonlyRootfs": True,
            "SecurityOpt": ["no-new-privileges"],
            "Sysctls": {**(_IPV6_OFF if own_network and box.ipv6 else {}), **config.sysctls},
        },
    }
    if config.cgroup_parent:
        body["HostConfig"]["CgroupParent"] = config.cgroup_parent
    if config.handler:
        body["HostConfig"]["Runtime"] = config.handler
    if config.host_pids:
        body["HostConfig"]["PidMode"] = "host"
    if config.host_ipc:
        body["HostConfig"]["IpcMode"] = "host"
    if config.host_network and box.netns:
        body["Entrypoint"] = _ENTER
        body["HostConfig"]["CapAdd"] = ["SYS_ADMIN"]  # setns(2) asks for it
        body["HostConfig"]["Mounts"] = [_mount(box.netns, NETNS_MOUNT, False, "rprivate")]
    elif config.host_network:
        body["HostConfig"]["NetworkMode"] = "host"
        del body["Hostname"]
    return body


def container_body(machine: str, config: ContainerConfig, oom_floor: int = -1000) -> Obj:
    """Tmpfs, devices and the like come with the mounts; everything else is Kubernetes' default or the spec's."""
    body: Obj = {
        "Image": config.image,
        "Env": list(config.env),
        "Labels": container_labels(machine, config),
        "Tty": config.tty,
        "OpenStdin": config.stdin,
        "StdinOnce": config.stdin_once,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(config, oom_floor),
    }
    if config.command:
        body["Entrypoint"] = list(config.command)
    if config.args:
        body["Cmd"] = list(config.args)
    if config.working_dir:
        body["WorkingDir"] = config.working_dir
    if config.user:
        body["User"] = config.user
    return body


def _host_config(config: ContainerConfig, oom_floor: int) -> Obj:
    security = []
    if config.no_new_privileges:
        security.append("no-new-privileges")
    if config.unconfined_seccomp and not config.privileged:
        security.append("seccomp=unconfined")
    host: Obj = {
        "NetworkMode": f"container:{config.sandbox_id}",
        "IpcMode": f"container:{config.sandbox_id}",
        "LogConfig": _LOG,
        "Mounts": [_mount(m.source, m.target, m.read_only, m.propagation) for m in config.mounts],
        "CpuShares": config.cpu_shares,
        "OomScoreAdj": max(config.oom_score_adj, oom_floor),
        "Privileged": config.privileged,
        "ReadonlyRootfs": config.read_only_root,
        "CapAdd": list(config.capabilities_add),
        "CapDrop": list(config.capabilities_drop),
        "GroupAdd": list(config.groups),
        "SecurityOpt": security,
    }
    if config.handler:
        host["Runtime"] = config.handler
    if config.pids_of:
        host["PidMode"] = f"container:{config.pids_of}"
    elif config.host_pids:
        host["PidMode"] = "host"
    elif config.share_pids:
        host["PidMode"] = f"container:{config.sandbox_id}"
    if config.cgroup_parent:
        host["CgroupParent"] = config.cgroup_parent
    if config.devices:
        host["Devices"] = [
            {"PathOnHost": d.host_path, "PathInContainer": d.container_path, "CgroupPermissions": d.permissions}
            for d in config.devices
        ]
    if config.cpu_quota_us:
        host["CpuPeriod"], host["CpuQuota"] = CPU_PERIOD_US, config.cpu_quota_us
    if config.memory_limit_bytes:
        host["Memory"] = host["MemorySwap"] = config.memory_limit_bytes
    return host


def update_body(resources: Resources) -> Obj:
    """POST /containers/{id}/update; a limit that is taken away is -1."""
    memory = resources.memory_limit_bytes or -1
    return {
        "CpuShares": resources.cpu_shares,
        "CpuPeriod": CPU_PERIOD_US,
        "CpuQuota": resources.cpu_quota_us or -1,
        "Memory": memory,
        "MemorySwap": memory,
    }


def _mount(source: str, target: str, read_only: bool, propagation: str) -> Obj:
    """Private is the engine's default, and is not asked for: a mount that holds the engine's own directory (a hostPath
    of /) cannot be private, and gets what it can be only when nothing is said.
    """
    made: Obj = {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}
    return made if propagation == "rprivate" else {**made, "BindOptions": {"Propagation": propagation}}


def time_of(text: str | None) -> float:
    """Docker's times; its zero time (year 1) is 0."""
    if not text or text.startswith("0001-"):
        return 0.0
    return parse_time(text)


def from_list(entry: Mapping[str, Any]) -> ContainerInfo:
    """An entry of GET /containers/json: no exit code, no times of the run."""
    return labelled(
        str(entry["Id"]),
        entry.get("Labels") or {},
        state=_state(str(entry.get("State") or "")),
        image_id=str(entry.get("ImageID") or ""),
        created_at=float(entry.get("Created") or 0),
    )


def from_inspect(answer: Mapping[str, Any], proc: str = "/proc") -> ContainerInfo:
    """`proc`: as Box has it."""
    state = answer.get("State") or {}
    return labelled(
        str(answer["Id"]),
        (answer.get("Config") or {}).get("Labels") or {},
        state=_state(str(state.get("Status") or "")),
        image_id=str(answer.get("Image") or ""),
        created_at=time_of(answer.get("Created")),
        started_at=time_of(state.get("StartedAt")),
        finished_at=time_of(state.get("FinishedAt")),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        netns=_netns(answer, proc),
    )


def _netns(answer: Mapping[str, Any], proc: str) -> str:
    """The engine's name for the network namespace, or where the runtime made that, the one of the running process."""
    named = str((answer.get("NetworkSettings") or {}).get("SandboxKey") or "")
    pid = int((answer.get("State") or {}).get("Pid") or 0)
    return named or (f"{proc}/{pid}/ns/net" if proc and pid else "")


def _state(word: str) -> RunState:
    if word == "created":
        return "created"
    return "running" if word in ("running", "paused", "restarting") else "exited"
