"""What the network parts of one machine must know before they start. Pure data; nothing here touches a socket.

Fields carry the names of the Kubernetes flags they stand for (kube-proxy, CoreDNS' Corefile), in snake_case.
Invariant: a config that passed `validate()` can be run; what it refuses it explains, naming the field and what would
be right.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace

from cluster.api import bgp
from cluster.network.families import V6
from cluster.network.policy_table import PolicyTableConfig

SERVICE_LINK = "sk8-dns"
OVERLAY_LINK = "sk8-vxlan"
OVERLAY_PORT = 8472
"""UDP. Linux' own default; 4789 of RFC 7348 is often filtered between a cloud's machines, or in use by its network."""
BACKENDS = ("routes", "vxlan", "bgp")
ROUTE_PROTOCOL = 88
"""rtm_protocol of every route made here: only routes that carry it are ever changed or removed."""


class ConfigError(ValueError):
    """A field of a network config that cannot work; says which, and what would be right."""


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """ServiceProxy of one family. `node_ip` is the machine's InternalIP; `local_dns_ip` is answered on this machine, ""
    is not."""

    node_name: str
    node_ip: str
    cluster_cidr: str = "10.244.0.0/16"
    service_cluster_ip_range: str = "10.96.0.0/12"
    local_dns_ip: str = "10.96.0.10"
    masquerade_bit: int = 14
    metrics_bind_address: str = "127.0.0.1:10249"
    """"" serves no HTTP."""
    serve_health_checks: bool = True
    """Answers at the Services' health check ports, for all families."""
    health_bind_address: str = "0.0.0.0:10256"
    """For load balancers; "" serves none."""
    heal_delay_s: float = 0.2
    retry_delay_s: float = 1.0

    def validate(self) -> None:
        _name("node_name", self.node_name)
        _address("node_ip", self.node_ip)
        _network("cluster_cidr", self.cluster_cidr)
        services = _network("service_cluster_ip_range", self.service_cluster_ip_range)
        if self.local_dns_ip and _address("local_dns_ip", self.local_dns_ip) not in services:
            raise ConfigError(
                f"local_dns_ip: {self.local_dns_ip} is not in service_cluster_ip_range {services}; choose one inside it"
            )
        if not 0 <= self.masquerade_bit <= 31:
            raise ConfigError(f"masquerade_bit: {self.masquerade_bit} is not a bit of a mark; must be 0 to 31")
        if self.metrics_bind_address:
            _host_port("metrics_bind_address", self.metrics_bind_address)
        if self.health_bind_address:
            _host_port("health_bind_address", self.health_bind_address)


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """RouteManager: which node this is, how it reaches the pods of others, and the protocol number its routes carry."""

    node_name: str
    node_ip: str = ""
    """The tunnel's own address; "": there is no tunnel."""
    backend: str = "routes"
    """"routes": directly where machines share a link, through a VXLAN tunnel elsewhere; "vxlan": always the tunnel;
    "bgp": as bird2 learns them from machines and routers."""
    cluster_cidr: str = "10.244.0.0/16"
    cluster_cidr_ipv6: str = ""
    """"": no routes of that family."""
    protocol: int = ROUTE_PROTOCOL
    retry_delay_s: float = 1.0
    bgp_asn: int = bgp.DEFAULT_ASN
    bgp_routers: tuple[str, ...] = ()
    """Routers that are told of pods, "ADDRESS:ASN"; machines tell each other in any case."""
    bird_dir: str = "/run/sk8-bird"

    def validate(self) -> None:
        _name("node_name", self.node_name)
        _network("cluster_cidr", self.cluster_cidr)
        if self.cluster_cidr_ipv6:
            _network("cluster_cidr_ipv6", self.cluster_cidr_ipv6)
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend: {self.backend!r} is not built; must be one of {', '.join(BACKENDS)}")
        if self.backend != "routes" and not self.node_ip:
            raise ConfigError(f"node_ip: empty; {self.backend} needs the machine's InternalIP")
        if self.backend == "bgp" and self.cluster_cidr_ipv6:
            raise ConfigError("backend: bgp announces IPv4 alone; use routes or vxlan for a dual-stack cluster")
        if why := next(bgp.problems(self.bgp_asn, self.bgp_routers), ""):
            raise ConfigError(why)
        if not 16 <= self.protocol <= 255:
            raise ConfigError(f"protocol: {self.protocol} is the kernel's or a routing daemon's own; must be 16 to 255")


@dataclass(frozen=True, slots=True)
class FirewallConfig:
    """Which ports of a machine only machines may reach. A port is "6379" or a range "10002-10999"."""

    cluster_cidr: str = "10.244.0.0/16"
    cluster_cidr_ipv6: str = ""
    """"": pods send no IPv6, and their links take none."""
    machine_cidrs: tuple[str, ...] = ("10.89.0.0/24",)
    protected_ports: tuple[str, ...] = (
        "2375-2376",  # a container engine that listens on TCP
        "2379-2381",  # State: clients, peers, metrics
        "6379",  # Ray GCS
        "8076-8077",  # Ray node and object manager, as commonly fixed
        "8265",  # Ray dashboard
        str(OVERLAY_PORT),  # VXLAN believes every packet: whoever reaches it sends as any pod, past every policy
        "10001-19999",  # Ray client and workers; kubelet, proxy, scheduler, controllers
    )
    refused_to_pods: tuple[str, ...] = ()
    """Ports of machines that pods alone do not reach: the proxy's health, which load balancers ask for."""
    open_to_pods: tuple[str, ...] = ()
    """Protected ports that pods reach all the same."""
    bgp_routers: tuple[str, ...] = ()
    """Addresses of routers that this machine speaks BGP to; a pod, masqueraded, would speak as the machine."""
    pod_link_prefix: str = "veth"

    def validate(self) -> None:
        _network("cluster_cidr", self.cluster_cidr)
        for index, cidr in enumerate(self.machine_cidrs):
            _network(f"machine_cidrs[{index}]", cidr)
        if not self.machine_cidrs:
            raise ConfigError("machine_cidrs: empty; name the subnet the machines are in, e.g. 10.89.0.0/24")
        for name in ("protected_ports", "refused_to_pods", "open_to_pods"):
            for index, ports in enumerate(getattr(self, name)):
                port_range(f"{name}[{index}]", ports)
        for index, router in enumerate(self.bgp_routers):
            _address(f"bgp_routers[{index}]", router)


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """DnsServer. `upstreams` are "ip" or "ip:port", asked in turn for names outside the cluster; without any, the
    nameservers of `resolv_conf`; without those, REFUSED."""

    node_ip: str = ""
    """Reaches the range through the service link when set."""
    listen_ip: str = "10.96.0.10"
    port: int = 53
    cluster_domain: str = "cluster.local"
    cluster_cidr: str = "10.244.0.0/16"
    service_cluster_ip_range: str = "10.96.0.0/12"
    ranges_ipv6: tuple[str, ...] = ()
    """Those of pods and Services, whose reverse names are the cluster's as well."""
    upstreams: tuple[str, ...] = ()
    resolv_conf: str = ""
    """The machine's own, for its nameservers and its search domains."""
    upstream_service: str = ""
    """namespace/name of the Service whose ready endpoints are asked before `upstreams`."""
    node_name: str = ""
    """Answers look-ups along the search paths of this machine's pods in one round; "": of nobody's."""
    pod_records: str = "insecure"
    """Answers for 10-244-1-5.NAMESPACE.pod.DOMAIN: "insecure" (any address, as kubeadm), "verified", "disabled"."""
    ttl_s: int = 30
    negative_ttl_s: int = 5
    upstream_timeout_s: float = 2.0
    max_concurrent: int = 1000
    cache_entries: int = 10_000
    cache_ttl_s: int = 30
    bind_ip: str = ""
    """Where to listen, if not at `listen_ip`."""
    make_link: bool = True
    handover_socket: str = ""
    """Unix socket of sk8-machine, which opens the DNS sockets and lends them; "": this process opens them itself."""
    zone_file: str = ""
    """Where the names are written for sk8-machine, which answers from them while this process is away."""

    def validate(self) -> None:
        listen = _address("listen_ip", self.listen_ip)
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port: {self.port} is not a port; must be 0 to 65535")
        for label in self.cluster_domain.split("."):
            if not 0 < len(label) <= 63:
                raise ConfigError(f"cluster_domain: {self.cluster_domain!r} is not a domain; use e.g. cluster.local")
        if self.bind_ip:
            _address("bind_ip", self.bind_ip)
        _network("cluster_cidr", self.cluster_cidr)
        _network("service_cluster_ip_range", self.service_cluster_ip_range)
        for index, cidr in enumerate(self.ranges_ipv6):
            _network(f"ranges_ipv6[{index}]", cidr)
        if self.pod_records not in ("insecure", "verified", "disabled"):
            raise ConfigError(f"pod_records: {self.pod_records!r}; must be insecure, verified or disabled")
        for index, upstream in enumerate(self.upstreams):
            host, port = _host_port(f"upstreams[{index}]", upstream, default_port=53)
            if host == str(listen) and port == self.port:
                raise ConfigError(f"upstreams[{index}]: {upstream} is this server itself; name another resolver")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """NetworkAgent: all of the above for one machine."""

    proxy: ProxyConfig
    routes: RouteConfig
    dns: DnsConfig = field(default_factory=DnsConfig)
    firewall: FirewallConfig = field(default_factory=FirewallConfig)
    proxy_ipv6: ProxyConfig | None = None
    """None: the cluster is single-stack."""

    @property
    def policy(self) -> PolicyTableConfig:
        return PolicyTableConfig(self.proxy.node_name, self.dns.listen_ip, self.firewall.pod_link_prefix)

    @property
    def policy_ipv6(self) -> PolicyTableConfig:
        """The machine's DNS server has an IPv4 address alone."""
        return replace(self.policy, dns_ip="", family=V6)

    def dual_stack(self, node_ip: str, cluster_cidr: str, service_cidr: str) -> NetworkConfig:
        """The same machine with these of IPv6 as well."""
        proxy = replace(
            self.proxy,
            node_ip=node_ip,
            cluster_cidr=cluster_cidr,
            service_cluster_ip_range=service_cidr,
            local_dns_ip="",
            metrics_bind_address="",
            health_bind_address="",
            serve_health_checks=False,
        )
        return replace(
            self,
            proxy_ipv6=proxy,
            routes=replace(self.routes, cluster_cidr_ipv6=cluster_cidr),
            dns=replace(self.dns, ranges_ipv6=(cluster_cidr, service_cidr)),
            firewall=replace(self.firewall, cluster_cidr_ipv6=cluster_cidr),
        )

    def validate(self) -> None:
        parts = (self.proxy, self.routes, self.dns, self.firewall)
        for part in (*parts, self.proxy_ipv6) if self.proxy_ipv6 else parts:
            part.validate()
        if self.dns.listen_ip != self.proxy.local_dns_ip:
            raise ConfigError(f"dns.listen_ip: {self.dns.listen_ip} differs from proxy.local_dns_ip; make them one")


def port_range(name: str, ports: str) -> tuple[int, int]:
    """("6379" or "10002-10999") as (first, last). Raises ConfigError."""
    first, dash, last = ports.partition("-")
    try:
        low, high = int(first), int(last) if dash else int(first)
    except ValueError:
        raise ConfigError(f'{name}: {ports!r} is not a port; use "6379" or "10002-10999"') from None
    if not 0 < low <= high <= 65535:
        raise ConfigError(f"{name}: {ports!r} is not a rising range within 1 to 65535")
    return low, high


def host_port(address: str, default_port: int = 0) -> tuple[str, int]:
    """ "ip:port" or "ip" as a pair. Raises ConfigError."""
    return _host_port("address", address, default_port)


def _host_port(name: str, address: str, default_port: int = 0) -> tuple[str, int]:
    host, colon, port = address.partition(":")
    _address(name, host)
    if not colon and not default_port:
        raise ConfigError(f"{name}: {address!r} has no port; use ip:port")
    try:
        number = int(port) if colon else default_port
    except ValueError:
        raise ConfigError(f"{name}: {address!r} has no numeric port; use ip:port") from None
    return host, number


def _name(name: str, value: str) -> None:
    if not value:
        raise ConfigError(f"{name}: empty; give the name of the Node object of this machine")


def _address(name: str, value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        raise ConfigError(f"{name}: {value!r} is not an IP address") from None


def _network(name: str, value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        raise ConfigError(f"{name}: {value!r} is not a network such as 10.244.0.0/16") from None
