"""Whether a cluster as configured can work: every reason why it cannot, each with what would be right.

Pure. `ClusterConfig.problems` is this; what only some clusters have is checked beside its meaning (store_settings.py,
dual_stack.py, cloud_choice.py, tracing_settings.py).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.api import bgp
from cluster.api.duration import parse_duration
from cluster.machine import cloud_choice, dual_stack, store_settings, tracing_settings

if TYPE_CHECKING:
    from cluster.machine.config import ClusterConfig

DEFAULT_PREFIX = "sk8"
CNIS = {
    "routes": "directly where machines share a link, through VXLAN elsewhere",
    "vxlan": "always through VXLAN",
    "bgp": "as bird2 learns the ways from machines and routers, without a tunnel",
    "conflist": "as the CNI plugins of cni_conf_dir do it",
}
PROVIDERS = {
    "local": "sk8 up makes the machines, on this box",
    "vm": "somebody else makes them (ray up, a cloud, a technician); they join by themselves",
}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?")  # a link `sk8x-<name>` must fit IFNAMSIZ (15 bytes)
_HOST_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?")  # api/validation costs 0.1 s to import
OTHER_CLUSTER = re.compile(r"sk8[a-z0-9]-")
"""How the container labels of a cluster with a prefix of its own begin; the default cluster's must not."""
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def problems(config: ClusterConfig) -> list[str]:
    """Empty when it can work."""
    found = [
        *_machine_problems(config),
        *_network_problems(config),
        *_port_problems(config),
        *_other_problems(config),
    ]
    return found + (list(dual_stack.problems(config)) if config.dual_stack and not found else [])


def _machine_problems(config: ClusterConfig) -> list[str]:
    found = [*_count_problems(len(config.control_planes)), *_name_problems(config)]
    for zone in sorted({m.zone for m in config.machines}):
        if not _LABEL_VALUE.fullmatch(zone):
            found.append(
                f"machines: zone {zone!r}: must be a label's value, as the node has it as one: at most 63 of a-z, "
                "A-Z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit"
            )
    names = [m.name for m in config.control_planes]
    if config.ray_head not in names:
        found.append(f"ray_head: {config.ray_head!r} is not a control plane machine; use one of {', '.join(names)}")
    return found


def _count_problems(planes: int) -> list[str]:
    if planes and planes % 2 == 0:
        return [
            f"control planes: {planes} is even: a majority of {planes} is {planes // 2 + 1}, so it survives no "
            f"more failures than {planes - 1} and has one more part to fail; use {planes - 1} or {planes + 1}"
        ]
    if planes not in (1, 3, 5):
        return [f"control planes: {planes}: must be 1, 3 or 5 (each write waits for a majority of them)"]
    return []


def _name_problems(config: ClusterConfig) -> list[str]:
    found = []
    for kind, values in (("name", [m.name for m in config.machines]), ("ip", [m.ip for m in config.machines])):
        twice = sorted({v for v in values if values.count(v) > 1})
        if twice:
            found.append(f"machines: {kind} {', '.join(twice)} is used twice; each machine needs its own")
    for machine in config.machines:
        if config.provider != "local":
            found += [] if _HOST_NAME.fullmatch(machine.name) else [f"machines: name {machine.name!r}: no host name"]
        elif not _NAME.fullmatch(machine.name):
            found.append(
                f"machines: name {machine.name!r}: must be at most 10 of a-z, 0-9 and '-', "
                "beginning and ending with a letter or digit, such as m1"
            )
        elif config.prefix == DEFAULT_PREFIX and OTHER_CLUSTER.match(machine.name):
            found.append(
                f"machines: name {machine.name!r}: on one box it reads as machine {machine.name[5:]!r} of the "
                f"cluster with prefix {machine.name[:4]!r}; use one that does not begin with {machine.name[:5]!r}"
            )
    return found


def _network_problems(config: ClusterConfig) -> list[str]:
    found: list[str] = []
    nets: dict[str, ipaddress.IPv4Network] = {}
    for key in ("node_cidr", "pod_cidr", "service_cidr"):
        text = getattr(config, key)
        try:
            nets[key] = ipaddress.IPv4Network(text)
        except ValueError as e:
            found.append(f"{key}: {text!r}: {e}; an IPv4 network such as 10.244.0.0/16 is needed")
    keys = list(nets)
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            if nets[a].overlaps(nets[b]):
                found.append(f"{a} {nets[a]} and {b} {nets[b]} overlap; choose networks that do not")
    members = [("host_ip", config.host_ip, "node_cidr")] if config.provider == "local" else []
    members += [(f"machine {m.name}: ip", m.ip, "node_cidr") for m in config.machines]
    members += [("kubernetes_ip", config.kubernetes_ip, "service_cidr"), ("dns_ip", config.dns_ip, "service_cidr")]
    for what, ip, key in members:
        if key in nets and not _inside(ip, nets[key]):
            found.append(f"{what} {ip!r} is not an address of {key} {nets[key]}")
    if "node_cidr" in nets:
        found += _pool_problems(config, nets["node_cidr"])
    pods = nets.get("pod_cidr")
    if pods is not None:
        if not pods.prefixlen <= config.pod_mask <= 30:
            found.append(f"pod_mask: {config.pod_mask}: must be between {pods.prefixlen} and 30 for pod_cidr {pods}")
        elif 1 << (config.pod_mask - pods.prefixlen) < len(config.machines):
            found.append(f"pod_cidr {pods} holds fewer /{config.pod_mask} networks than there are machines")
    return found


def _pool_problems(config: ClusterConfig, nodes: ipaddress.IPv4Network) -> list[str]:
    try:
        pool = config.load_balancer_addresses
    except ValueError as e:
        return [f"load_balancer_pool: {e}"]
    found = []
    outside = [a for a in pool if not _inside(a, nodes)]
    if outside:
        why = "machines answer for addresses of their own network only"
        found.append(f"load_balancer_pool: {outside[0]} is not an address of node_cidr {nodes}: {why}")
    for what, ip in (("host_ip", config.host_ip), *((f"machine {m.name}", m.ip) for m in config.machines)):
        if ip in pool:
            found.append(f"load_balancer_pool: {ip} is the address of {what}; leave it out")
    return found


def _port_problems(config: ClusterConfig) -> list[str]:
    found = []
    used: dict[int, str] = {}
    for owner in (config, config.ray_ports):
        for item in fields(owner):
            if item.type != "int" or (owner is config and not item.name.endswith("_port")):
                continue
            port = getattr(owner, item.name)
            if not 1 <= port <= 65535:
                found.append(f"{item.name}: {port}: a port is between 1 and 65535")
            if port in used:
                found.append(f"{item.name}: port {port} is also {used[port]}; each needs its own")
            used[port] = item.name
    if config.ray_ports.worker_max - config.ray_ports.worker_min < 99:
        found.append("ray_ports: worker_min..worker_max holds fewer than 100 ports; every actor takes one")
    if config.node_port_min > config.node_port_max:
        found.append("node_port_min is greater than node_port_max")
    return found


def _other_problems(config: ClusterConfig) -> list[str]:
    found = [*tracing_settings.problems(config.tracing)]
    if config.profile not in ("fast", "kubernetes"):
        found.append(f"profile: {config.profile!r}: must be fast or kubernetes")
    found += _ray_problems(config)
    if config.provider not in PROVIDERS:
        known = ", ".join(f"{name} ({what})" for name, what in PROVIDERS.items())
        found.append(f"provider: {config.provider!r}: use one of {known}")
    if not re.fullmatch(r"sk8[a-z0-9]?", config.prefix):
        found.append(f"prefix: {config.prefix!r}: must be sk8, or sk8 and one more letter or digit")
    if not _DOMAIN.fullmatch(config.domain):
        found.append(f"domain: {config.domain!r}: must be a DNS name in lower case such as cluster.local")
    if config.cni not in CNIS:
        known = ", ".join(f"{name} ({what})" for name, what in CNIS.items())
        found.append(f"cni: {config.cni!r} is not built; use one of {known}")
    found += bgp.problems(config.bgp_asn, config.bgp_routers)
    for upstream in config.dns_upstreams:
        host, _, port = upstream.partition(":")
        if not _is_ipv4(host) or (port and not port.isdigit()):
            found.append(f"dns_upstreams: {upstream!r}: must be an IPv4 address, or one with a port: 9.9.9.9:53")
    found += _store_problems(config)
    for key in ("base_dir", "run_dir"):
        path = Path(getattr(config, key))
        if not path.is_absolute() or len(path.parts) < 3:
            found.append(f"{key}: {str(path)!r}: must be an absolute path at least two levels deep: sk8 empties it")
    if why := cloud_choice.problem(config.cloud_provider, config.aws):
        found.append(why)
    found += _autoscaler_problems(config)
    for key in ("cpu_millicores", "memory_bytes", "ephemeral_storage_bytes", "max_pods", "ray_num_cpus"):
        if getattr(config, key) < 1:
            found.append(f"{key}: {getattr(config, key)}: must be at least 1")
    return found


def _store_problems(config: ClusterConfig) -> list[str]:
    found = [*store_settings.problems(config)]
    if config.store_engine not in ("native", "raftos"):
        found.append(f"store_engine: {config.store_engine!r}: must be native or raftos")
    if config.store_engine == "raftos" and not config.store_engine_unsafe:
        found.append(
            "store_engine: raftos can elect two leaders in one term, syncs nothing to disk and replaces no lost "
            "member, so it loses acknowledged writes (docs/consensus.md); use native, or set store_engine_unsafe: "
            "true as well for a cluster whose data may be lost"
        )
    if config.store_engine == "raftos" and len(config.control_planes) < 3:
        found.append("store_engine: raftos needs 3 or 5 control planes: alone, it never finishes an election")
    return found


def _ray_problems(config: ClusterConfig) -> list[str]:
    found = []
    if config.ray_head_takeover_s and config.ray_head_takeover_s < 20:
        found.append(
            f"ray_head_takeover_s: {config.ray_head_takeover_s:g}: must be at least 20 s, or 0 for never: a machine "
            "that only restarts must not lose the role"
        )
    if config.ray_object_store_bytes < 78_643_200:
        found.append(f"ray_object_store_bytes: {config.ray_object_store_bytes}: Ray needs at least 78643200 (75 MiB)")
    return found


def _autoscaler_problems(config: ClusterConfig) -> list[str]:
    found = []
    try:
        parse_duration(config.scale_down_unneeded_time)
    except ValueError as e:
        found.append(f"scale_down_unneeded_time: {e}; use a duration such as 10m")
    if not 0 <= config.scale_down_utilization_threshold <= 1:
        found.append(
            f"scale_down_utilization_threshold: {config.scale_down_utilization_threshold:g}: must be between 0 and 1"
        )
    return found


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _inside(ip: str, net: ipaddress.IPv4Network) -> bool:
    try:
        return ipaddress.IPv4Address(ip) in net
    except ValueError:
        return False
