"""Classic load balancers: listeners for a Service's TCP ports, instances for its Nodes. IO: ELB, EC2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.cloud.aws.api import Aws, CloudError, filters, tag_list
from cluster.cloud.aws.balancer_wish import TYPE, Wanted
from cluster.machinery.provider import ProviderError


class ClassicBalancers:
    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    async def ensure(self, wanted: Wanted) -> str:
        """Its DNS name."""
        if any(protocol != "TCP" for protocol, _, _ in wanted.ports):
            why = f"a classic load balancer passes TCP only: set the annotation {TYPE}: nlb"
            raise ProviderError(why, retriable=False)
        found = await self._found(wanted.name)
        if found is None:
            await self._make(wanted)
            found = await self._found(wanted.name) or {}
        await self._match_listeners(wanted, found)
        await self._match_instances(wanted, found)
        target = f"HTTP:{wanted.health_port}/healthz" if wanted.health_port else f"TCP:{wanted.ports[0][2]}"
        if (found.get("HealthCheck") or {}).get("Target") != target:
            check = {"Target": target, "Interval": 10, "Timeout": 5, "UnhealthyThreshold": 6, "HealthyThreshold": 2}
            await self._elb("configure_health_check", wanted, HealthCheck=check)
        return str(found["DNSName"])

    async def _found(self, name: str) -> dict[str, Any] | None:
        try:
            answer = await self._aws.call("elb", "describe_load_balancers", LoadBalancerNames=[name])
        except CloudError as err:
            if err.code in ("LoadBalancerNotFound", "AccessPointNotFound"):
                return None
            raise
        return next(iter(answer["LoadBalancerDescriptions"]), None)

    async def _make(self, wanted: Wanted) -> None:
        marks = {"kubernetes.io/service-name": wanted.service, self._aws.config.tag: "owned"}
        await self._elb(
            "create_load_balancer",
            wanted,
            Listeners=[_listener(p) for p in wanted.ports],
            Subnets=list(wanted.subnets),
            SecurityGroups=[await self._security_group(wanted)],
            Scheme="internal" if wanted.internal else "internet-facing",
            Tags=tag_list(marks),
        )

    async def _security_group(self, wanted: Wanted) -> str:
        """Lets the Service's source ranges to its ports."""
        subnet = (await self._aws.call("ec2", "describe_subnets", SubnetIds=[wanted.subnets[0]]))["Subnets"][0]
        name, vpc = _group_name(wanted.name), subnet["VpcId"]
        known = await self._aws.call("ec2", "describe_security_groups", Filters=filters(group_name=name, vpc_id=vpc))
        if known["SecurityGroups"]:
            return str(known["SecurityGroups"][0]["GroupId"])
        why = f"Security group for Kubernetes ELB {wanted.name} ({wanted.service})"
        made = await self._aws.call("ec2", "create_security_group", GroupName=name, Description=why, VpcId=vpc)
        ranges = [{"CidrIp": s} for s in wanted.sources]
        rules = [{"IpProtocol": "tcp", "FromPort": p, "ToPort": p, "IpRanges": ranges} for _, p, _ in wanted.ports]
        group = str(made["GroupId"])
        await self._aws.call("ec2", "authorize_security_group_ingress", GroupId=group, IpPermissions=rules)
        return group

    async def _match_listeners(self, wanted: Wanted, found: Mapping[str, Any]) -> None:
        have = {
            (d["Listener"]["LoadBalancerPort"], d["Listener"]["InstancePort"])
            for d in found.get("ListenerDescriptions") or ()
        }
        want = {(port, node_port): (protocol, port, node_port) for protocol, port, node_port in wanted.ports}
        if stale := sorted(port for port, node_port in have if (port, node_port) not in want):
            await self._elb("delete_load_balancer_listeners", wanted, LoadBalancerPorts=stale)
        if new := [_listener(p) for key, p in sorted(want.items()) if key not in have]:
            await self._elb("create_load_balancer_listeners", wanted, Listeners=new)

    async def _match_instances(self, wanted: Wanted, found: Mapping[str, Any]) -> None:
        have = {i["InstanceId"] for i in found.get("Instances") or ()}
        if new := sorted(wanted.instances - have):
            await self._elb("register_instances_with_load_balancer", wanted, Instances=[{"InstanceId": i} for i in new])
        if stale := sorted(have - wanted.instances):
            ids = [{"InstanceId": i} for i in stale]
            await self._elb("deregister_instances_from_load_balancer", wanted, Instances=ids)

    async def _elb(self, operation: str, wanted: Wanted, **arguments: Any) -> dict[str, Any]:
        return await self._aws.call("elb", operation, LoadBalancerName=wanted.name, **arguments)

    async def delete(self, name: str) -> None:
        await self._aws.call("elb", "delete_load_balancer", LoadBalancerName=name)  # one that is not there is no error
        wanted = filters(group_name=_group_name(name))
        for group in (await self._aws.call("ec2", "describe_security_groups", Filters=wanted))["SecurityGroups"]:
            await self._aws.call("ec2", "delete_security_group", GroupId=group["GroupId"])


def _group_name(name: str) -> str:
    return f"k8s-elb-{name}"


def _listener(port: tuple[str, int, int]) -> dict[str, Any]:
    protocol, outside, inside = port
    return {"Protocol": protocol, "LoadBalancerPort": outside, "InstanceProtocol": protocol, "InstancePort": inside}
