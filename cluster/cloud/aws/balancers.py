"""Load balancers of AWS for Services: a classic one, or a network load balancer where the Service asks for it.

IO: ELB, ELBv2, EC2. Each is named after the Service's uid and compared with what it should be: listeners for ports,
instances for Nodes. Source: cloud-provider-aws and its annotations (service.beta.kubernetes.io/aws-load-balancer-*).
The machines' security groups are not touched: they have to let the node ports in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cluster.cloud.aws.api import Aws, filters, tags
from cluster.cloud.aws.balancer_wish import PREFIX, Wanted
from cluster.cloud.aws.classic_balancers import ClassicBalancers
from cluster.cloud.aws.instances import AwsInstances, instance_id
from cluster.cloud.aws.network_balancers import NetworkBalancers
from cluster.machinery.client import Obj
from cluster.machinery.provider import ProviderError

_INTERNAL_ROLE, _PUBLIC_ROLE = "kubernetes.io/role/internal-elb", "kubernetes.io/role/elb"


def annotation(service: Obj, name: str) -> str:
    return str((service["metadata"].get("annotations") or {}).get(PREFIX + name) or "")


def name_of(service: Obj) -> str:
    """As Kubernetes names them: "a" and the uid, 32 characters at most."""
    return f"a{service['metadata']['uid'].replace('-', '')}"[:32]


class AwsLoadBalancers:
    """Fulfils LoadBalancers."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._instances = AwsInstances(aws)
        self._network = NetworkBalancers(aws)
        self._classic = ClassicBalancers(aws)

    async def ensure(self, service: Obj, services: Sequence[Obj], nodes: Sequence[Obj] = ()) -> Sequence[Obj]:
        wanted = await self._wanted(service, nodes)
        if annotation(service, "type") in ("nlb", "nlb-ip", "external"):
            return [{"hostname": await self._network.ensure(wanted)}]
        return [{"hostname": await self._classic.ensure(wanted)}]

    async def delete(self, service: Obj) -> None:
        """Both kinds: the annotation may have changed since."""
        name = name_of(service)
        await self._network.delete(name)
        await self._classic.delete(name)

    async def _wanted(self, service: Obj, nodes: Sequence[Obj]) -> Wanted:
        spec, meta = service["spec"], service["metadata"]
        internal = annotation(service, "internal").lower() == "true" or annotation(service, "scheme") == "internal"
        found = await asyncio.gather(*(self._instances.instance(n) for n in nodes))
        return Wanted(
            name=name_of(service),
            service=f"{meta['namespace']}/{meta['name']}",
            ports=tuple(
                (p.get("protocol", "TCP"), p["port"], p["nodePort"]) for p in spec["ports"] if p.get("nodePort")
            ),
            instances=frozenset(instance_id(i.provider_id) for i in found if i is not None and i.state == "running"),
            subnets=await self._subnets(internal),
            internal=internal,
            sources=tuple(spec.get("loadBalancerSourceRanges") or ("0.0.0.0/0",)),
            health_port=int(spec.get("healthCheckNodePort") or 0),
        )

    async def _subnets(self, internal: bool) -> tuple[str, ...]:
        """Those that are configured; else of those with the cluster's tag one of each zone, by role."""
        config = self._aws.config
        if config.subnets:
            return config.subnets
        found = await self._aws.all("ec2", "describe_subnets", "Subnets", Filters=filters(tag_key=config.tag))
        role = _INTERNAL_ROLE if internal else _PUBLIC_ROLE
        by_zone: dict[str, dict[str, Any]] = {}
        for subnet in sorted(found, key=lambda s: (role not in tags(s), s["SubnetId"])):
            by_zone.setdefault(subnet["AvailabilityZone"], subnet)
        if not by_zone:
            raise ProviderError(f"no subnet has the tag {config.tag}: tag those of the machines, or set aws.subnets")
        return tuple(s["SubnetId"] for _, s in sorted(by_zone.items()))
