"""IPv6 beside IPv4 (`dual_stack: true`, KEP-563): the second ranges, and which address of them a machine has. Pure.

IPv4 is always there and comes first: machines speak it to each other, the API server and the DNS server listen on it,
and a Service that does not ask gets it. A local machine's IPv6 address has the same number in `node_cidr_ipv6` as its
IPv4 address has in `node_cidr`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Protocol

_NEEDED = {
    "node_cidr_ipv6": "fd00:10:89::/64",
    "pod_cidr_ipv6": "fd00:10:244::/56",
    "service_cidr_ipv6": "fd00:10:96::/112",
}
_SERVICE_BITS_MAX = 20
"""More addresses than 2^20 Kubernetes refuses for Services of IPv6."""
_POD_BITS_MAX = 16
"""As kube-controller-manager: not more than 2^16 nodes."""


class Settings(Protocol):
    """What is looked at of a ClusterConfig."""

    @property
    def machines(self) -> Sequence[object]: ...
    @property
    def node_cidr(self) -> str: ...
    @property
    def node_cidr_ipv6(self) -> str: ...
    @property
    def pod_cidr_ipv6(self) -> str: ...
    @property
    def pod_mask_ipv6(self) -> int: ...
    @property
    def service_cidr_ipv6(self) -> str: ...
    @property
    def cni(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def cloud_provider(self) -> str: ...


def address_of(config: Settings, ip: str) -> str:
    """The IPv6 address of the machine (or box) with this IPv4 address."""
    number = int(ipaddress.IPv4Address(ip)) - int(ipaddress.IPv4Network(config.node_cidr).network_address)
    return str(ipaddress.IPv6Network(config.node_cidr_ipv6)[number])


def problems(config: Settings) -> Iterator[str]:
    """Why a dual-stack cluster cannot be made so."""
    if config.provider != "local" or config.cloud_provider != "local":
        yield (
            "dual_stack: is built for the machines that sk8 up makes on this box alone: joining, clouds' routes and "
            "load balancers know IPv4 only; leave it out"
        )
    if config.cni == "conflist":
        yield "dual_stack: plugins (cni: conflist) are asked for an IPv4 address alone; use cni: routes or vxlan"
    if config.cni == "bgp":
        yield "dual_stack: BGP announces IPv4 alone; use cni: routes or vxlan"
    nets: dict[str, ipaddress.IPv6Network] = {}
    for key, example in _NEEDED.items():
        text = getattr(config, key)
        try:
            nets[key] = ipaddress.IPv6Network(text)
        except ValueError as e:
            yield f"{key}: {text!r}: {e}; an IPv6 network such as {example} is needed"
    keys = list(nets)
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            if nets[a].overlaps(nets[b]):
                yield f"{a} {nets[a]} and {b} {nets[b]} overlap; choose networks that do not"
    yield from _sizes(config, nets)


def _sizes(config: Settings, nets: dict[str, ipaddress.IPv6Network]) -> Iterator[str]:
    services, pods, nodes = (nets.get(f"{name}_cidr_ipv6") for name in ("service", "pod", "node"))
    if services is not None and 128 - services.prefixlen > _SERVICE_BITS_MAX:
        yield f"service_cidr_ipv6: {services} is too large; use a /{128 - _SERVICE_BITS_MAX} or smaller"
    if pods is not None and not 0 <= config.pod_mask_ipv6 - pods.prefixlen <= _POD_BITS_MAX:
        yield (
            f"pod_mask_ipv6: {config.pod_mask_ipv6}: must be between {pods.prefixlen} and "
            f"{pods.prefixlen + _POD_BITS_MAX} for pod_cidr_ipv6 {pods}"
        )
    elif config.pod_mask_ipv6 > 112:
        yield f"pod_mask_ipv6: {config.pod_mask_ipv6}: leaves a machine fewer than 65536 addresses; use 112 at most"
    elif pods is not None and 1 << (config.pod_mask_ipv6 - pods.prefixlen) < len(config.machines):
        yield f"pod_cidr_ipv6 {pods} holds fewer /{config.pod_mask_ipv6} networks than there are machines"
    if nodes is not None and nodes.num_addresses < ipaddress.IPv4Network(config.node_cidr).num_addresses:
        yield f"node_cidr_ipv6: {nodes} has fewer addresses than node_cidr {config.node_cidr}; use a /64"
