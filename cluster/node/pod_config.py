"""From a pod's spec to what the engine is asked to run: names, resolver, hosts file, limits, security.

Pure. Sources: Kubernetes' API reference (SecurityContext, PodDNSConfig, ResourceRequirements); CPU shares are
1024 per core (at least 2), the quota is per 100 ms (at least 1 ms).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.api.pod_dns import CLUSTER_FIRST, dns_policy, parse_resolv_conf, search_domains
from cluster.api.pods import amount, amounts, qos_class
from cluster.api.quantity import millis
from cluster.node.cgroup_plan import quota_us, shares
from cluster.node.device_core import Grant
from cluster.node.pod_env import ConfigError, EnvContext, command_line, environment, expand
from cluster.node.runtime import ContainerConfig, Device, ImageInfo, Mount, PodRef, Propagation
from cluster.node.volume_device import RawDevice

Obj = dict[str, Any]
SYSTEM_NODE_CRITICAL = 2_000_001_000
MESSAGE_PATH = "/dev/termination-log"
_HOSTNAME_MAX = 64  # HOST_NAME_MAX of Linux
_PROPAGATION: dict[str, Propagation] = {"HostToContainer": "rslave", "Bidirectional": "rshared"}


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """The cluster's resolver, and the machine's own resolv.conf, whose domains are searched after the cluster's."""

    cluster_dns: str
    cluster_domain: str
    host_resolv_conf: str = ""


def pod_ref(pod: Obj) -> PodRef:
    meta = pod["metadata"]
    return PodRef(meta["namespace"], meta["name"], meta["uid"])


def hostname_of(pod: Obj) -> str:
    """spec.hostname or the pod's name, cut to the 63 characters a host name may have."""
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63].rstrip("-.")


def domain_of(pod: Obj, cluster_domain: str) -> str:
    subdomain = pod["spec"].get("subdomain")
    return f"{subdomain}.{pod['metadata']['namespace']}.svc.{cluster_domain}" if subdomain else ""


def uts_name(pod: Obj, node_name: str, cluster_domain: str) -> str:
    """What `hostname` says in the pod. Raises ConfigError for a setHostnameAsFQDN that the kernel cannot hold."""
    spec = pod["spec"]
    if spec.get("hostnameOverride"):
        return str(spec["hostnameOverride"])
    if spec.get("hostNetwork"):
        return node_name
    host, domain = hostname_of(pod), domain_of(pod, cluster_domain)
    if not (spec.get("setHostnameAsFQDN") and domain):
        return host
    name = f"{host}.{domain}"
    if len(name) > _HOSTNAME_MAX:
        raise ConfigError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long "
            f"({_HOSTNAME_MAX} characters is the max, {len(name)} characters requested)"
        )
    return name


def resolv_conf(pod: Obj, dns: DnsSettings) -> str:
    """The pod's /etc/resolv.conf by dnsPolicy and dnsConfig."""
    policy = dns_policy(pod)
    host_servers, host_searches, host_options = parse_resolv_conf(dns.host_resolv_conf)
    servers: list[str] = []
    options: dict[str, str] = {}
    if policy in CLUSTER_FIRST:
        servers, options = [dns.cluster_dns], {"ndots": "5"}
    elif policy == "Default":
        servers, options = host_servers, host_options
    extra = pod["spec"].get("dnsConfig") or {}
    servers += [s for s in extra.get("nameservers") or () if s not in servers]
    options.update({o["name"]: str(o.get("value") or "") for o in extra.get("options") or ()})
    lines = [f"nameserver {s}" for s in servers[:3]]
    if searches := search_domains(pod, dns.cluster_domain, host_searches):
        lines.append("search " + " ".join(searches))
    if options:
        lines.append("options " + " ".join(f"{k}:{v}" if v else k for k, v in options.items()))
    return "\n".join(lines) + "\n"


def hosts_file(pod: Obj, ips: Sequence[str], cluster_domain: str, host_file: str = "") -> str:
    """The pod's /etc/hosts, as the kubelet writes it; `host_file` is the machine's own, for hostNetwork pods."""
    if pod["spec"].get("hostNetwork"):
        lines = ["# Kubernetes-managed hosts file (host network).", *host_file.rstrip("\n").split("\n")]
    else:
        lines = _own_hosts(pod, ips, cluster_domain)
    aliases = pod["spec"].get("hostAliases") or ()
    if aliases:
        lines += ["", "# Entries added by HostAliases."]
        lines += [f"{a['ip']}\t" + "\t".join(a.get("hostnames") or ()) for a in aliases]
    return "\n".join(lines) + "\n"


def _own_hosts(pod: Obj, ips: Sequence[str], cluster_domain: str) -> list[str]:
    host, domain = hostname_of(pod), domain_of(pod, cluster_domain)
    return [
        "# Kubernetes-managed hosts file.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::0\tip6-localnet",
        "fe00::0\tip6-mcastprefix",
        "fe00::1\tip6-allnodes",
        "fe00::2\tip6-allrouters",
        *(f"{ip}\t{host}.{domain}\t{host}" if domain else f"{ip}\t{host}" for ip in ips),
    ]


def oom_score_adj(pod: Obj, container: Obj, memory_capacity_bytes: int) -> int:
    """Who dies first when the machine is out of memory, as the kubelet orders it."""
    qos = qos_class(pod)
    if qos == "Guaranteed" or int(pod["spec"].get("priority") or 0) >= SYSTEM_NODE_CRITICAL:
        return -997
    if qos == "BestEffort":
        return 1000
    request = amounts((container.get("resources") or {}).get("requests")).get("memory", 0)
    score = 1000 - (1000 * request) // max(memory_capacity_bytes, 1)
    return int(min(max(score, 3), 999))


def cpu_shares(container: Obj) -> int:
    resources = container.get("resources") or {}
    request = (resources.get("requests") or {}).get("cpu", (resources.get("limits") or {}).get("cpu"))
    return shares(0 if request is None else millis(request))


def cpu_quota_us(container: Obj) -> int:
    limit = ((container.get("resources") or {}).get("limits") or {}).get("cpu")
    return 0 if limit is None or millis(limit) == 0 else quota_us(millis(limit))


def memory_limit_bytes(container: Obj) -> int:
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return 0 if limit is None else amount("memory", limit)


@dataclass(frozen=True, slots=True)
class Security:
    user: str = ""
    groups: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    privileged: bool = False
    read_only_root: bool = False
    no_new_privileges: bool = False
    unconfined_seccomp: bool = False


def security_of(pod: Obj, container: Obj, image: ImageInfo) -> Security:
    """The container's securityContext over the pod's. Raises ConfigError where runAsNonRoot cannot be kept."""
    outer, inner = pod["spec"].get("securityContext") or {}, container.get("securityContext") or {}
    merged = {**{k: outer[k] for k in ("runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile") if k in outer}}
    merged.update(inner)
    user, group = merged.get("runAsUser"), merged.get("runAsGroup")
    if merged.get("runAsNonRoot"):
        _check_non_root(pod, container, user, image)
    name = "" if user is None else str(user)
    if group is not None:
        name = f"{name or image.user.partition(':')[0] or '0'}:{group}"
    groups = [str(g) for g in outer.get("supplementalGroups") or ()]
    if outer.get("fsGroup") is not None:
        groups.append(str(outer["fsGroup"]))
    capabilities = merged.get("capabilities") or {}
    return Security(
        user=name,
        groups=tuple(dict.fromkeys(groups)),
        add=tuple(capabilities.get("add") or ()),
        drop=tuple(capabilities.get("drop") or ()),
        privileged=bool(merged.get("privileged")),
        read_only_root=bool(merged.get("readOnlyRootFilesystem")),
        no_new_privileges=merged.get("allowPrivilegeEscalation") is False,
        unconfined_seccomp=(merged.get("seccompProfile") or {}).get("type") == "Unconfined",
    )


def _check_non_root(pod: Obj, container: Obj, user: Any, image: ImageInfo) -> None:
    meta = pod["metadata"]
    where = f'(pod: "{meta["name"]}_{meta["namespace"]}({meta["uid"]})", container: {container["name"]})'
    if user is not None:
        if int(user) == 0:
            raise ConfigError(f"container's runAsUser breaks non-root policy {where}")
        return
    name = image.user.partition(":")[0]
    if name in ("", "0"):
        raise ConfigError(f"container has runAsNonRoot and image will run as root {where}")
    if not name.isdigit():
        why = f"container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        raise ConfigError(f"{why} {where}")


@dataclass(frozen=True, slots=True)
class ContainerInputs:
    """Everything besides the spec that one run of a container depends on."""

    context: EnvContext
    sandbox_id: str
    attempt: int
    image: ImageInfo
    memory_capacity_bytes: int
    volumes: Mapping[str, str] = field(default_factory=dict)  # volume name -> directory or file on the machine
    read_only_volumes: frozenset[str] = frozenset()
    raw_devices: Mapping[str, RawDevice] = field(default_factory=dict)  # volume name -> its device
    etc_mounts: tuple[Mount, ...] = ()
    message_file: str = ""
    log_path: str = ""
    pids_of: str = ""
    cgroup_parent: str = ""
    handler: str = ""


def volume_mounts(container: Obj, inputs: ContainerInputs, variables: Mapping[str, str]) -> list[Mount]:
    """spec.volumeMounts as binds; subPaths are resolved by the caller of the engine. Raises ConfigError."""
    mounts = []
    for mount in container.get("volumeMounts") or ():
        source = inputs.volumes.get(mount["name"])
        if mount["name"] in inputs.raw_devices:
            raise ConfigError(f"volume {mount['name']} has volumeMode Block, but is specified in volumeMounts")
        if source is None:
            raise ConfigError(f'volumeMounts: volume "{mount["name"]}" is not mounted')
        sub = mount.get("subPath") or ""
        if mount.get("subPathExpr"):
            sub = expand(mount["subPathExpr"], variables)
        if sub:
            if sub.startswith("/") or ".." in sub.split("/"):
                raise ConfigError(f'subPath "{sub}" must be a relative path without ".."')
            source = f"{source.rstrip('/')}/{sub}"
        propagation = _PROPAGATION.get(str(mount.get("mountPropagation")), "rprivate")
        read_only = bool(mount.get("readOnly")) or mount["name"] in inputs.read_only_volumes
        target = str(mount["mountPath"])
        target = target if target.startswith("/") else f"/{target}"
        mounts.append(Mount(source, target, read_only, propagation))
    return mounts


def volume_devices(container: Obj, inputs: ContainerInputs) -> tuple[Device, ...]:
    """spec.volumeDevices as device nodes. Raises ConfigError."""
    devices = []
    for wanted in container.get("volumeDevices") or ():
        device = inputs.raw_devices.get(wanted["name"])
        if device is None:
            if wanted["name"] in inputs.volumes:
                raise ConfigError(
                    f"volume {wanted['name']} has volumeMode Filesystem, but is specified in volumeDevices"
                )
            raise ConfigError(f'volumeDevices: volume "{wanted["name"]}" is not attached')
        devices.append(Device(device.path, str(wanted["devicePath"]), "r" if device.read_only else "rwm"))
    return tuple(devices)


def container_config(pod: Obj, container: Obj, inputs: ContainerInputs) -> ContainerConfig:
    """One run of a container with every reference resolved. Raises ConfigError."""
    variables = environment(container, inputs.context)
    command, args = command_line(container, variables)
    security = security_of(pod, container, inputs.image)
    mounts = volume_mounts(container, inputs, variables)
    targets = {m.target for m in mounts}
    mounts += [m for m in inputs.etc_mounts if m.target not in targets]
    message_path = str(container.get("terminationMessagePath") or MESSAGE_PATH)
    if inputs.message_file:
        mounts.append(Mount(inputs.message_file, message_path))
    return ContainerConfig(
        pod=pod_ref(pod),
        name=str(container["name"]),
        attempt=inputs.attempt,
        sandbox_id=inputs.sandbox_id,
        image=str(container.get("image") or ""),
        command=command,
        args=args,
        env=tuple(f"{k}={v}" for k, v in variables.items()),
        working_dir=str(container.get("workingDir") or ""),
        mounts=tuple(mounts),
        user=security.user,
        groups=security.groups,
        capabilities_add=security.add,
        capabilities_drop=security.drop,
        privileged=security.privileged,
        read_only_root=security.read_only_root,
        no_new_privileges=security.no_new_privileges,
        unconfined_seccomp=security.unconfined_seccomp,
        cpu_shares=cpu_shares(container),
        cpu_quota_us=cpu_quota_us(container),
        memory_limit_bytes=memory_limit_bytes(container),
        oom_score_adj=oom_score_adj(pod, container, inputs.memory_capacity_bytes),
        tty=bool(container.get("tty")),
        stdin=bool(container.get("stdin")),
        stdin_once=bool(container.get("stdinOnce")),
        share_pids=bool(pod["spec"].get("shareProcessNamespace")),
        host_pids=bool(pod["spec"].get("hostPID")),
        pids_of=inputs.pids_of,
        cgroup_parent=inputs.cgroup_parent,
        handler=inputs.handler,
        message_path=inputs.message_file,
        log_path=inputs.log_path,
        message_policy=str(container.get("terminationMessagePolicy") or "File"),
        devices=volume_devices(container, inputs),
    )


def with_devices(config: ContainerConfig, grants: Sequence[Grant]) -> ContainerConfig:
    """The container with what its devices bring along; its own variables come first, as the kubelet's."""
    own = {entry.partition("=")[0] for entry in config.env}
    env = [f"{k}={v}" for grant in grants for k, v in sorted(grant.envs.items()) if k not in own]
    mounts = [Mount(host, inside, read_only) for grant in grants for inside, host, read_only in grant.mounts]
    nodes = [Device(host, inside, permissions) for grant in grants for inside, host, permissions in grant.devices]
    return replace(config, env=(*config.env, *env), mounts=(*config.mounts, *mounts), devices=(*config.devices, *nodes))
