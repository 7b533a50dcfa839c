"""Network load balancers: a listener and a target group for each port of a Service. IO: ELBv2, EC2."""

from __future__ import annotations

import hashlib
from typing import Any

from cluster.cloud.aws.api import Aws, CloudError, tag_list
from cluster.cloud.aws.balancer_wish import TYPE, Wanted
from cluster.machinery.provider import ProviderError

Found = dict[str, Any]
_ANYBODY = {"0.0.0.0/0", "::/0"}


class NetworkBalancers:
    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    async def ensure(self, wanted: Wanted) -> str:
        """Its DNS name. Raises ProviderError for source ranges: it has no security group that would keep others out."""
        if not _ANYBODY.issuperset(wanted.sources):
            raise ProviderError(
                "loadBalancerSourceRanges are not supported for a network load balancer, which would be open to all:"
                f" remove them, or the annotation {TYPE} for a classic one",
                retriable=False,
            )
        balancer = await self._found(wanted.name) or await self._make(wanted)
        arn = balancer["LoadBalancerArn"]
        groups = await self._target_groups(wanted, balancer["VpcId"])
        listeners = await self._aws.all("elbv2", "describe_listeners", "Listeners", LoadBalancerArn=arn)
        have = {(x["Protocol"], x["Port"]): x for x in listeners}
        for protocol, port, node_port in wanted.ports:
            action = [{"Type": "forward", "TargetGroupArn": groups[(protocol, node_port)]}]
            old = have.pop((protocol, port), None)
            if old is None:
                where = {"LoadBalancerArn": arn, "Protocol": protocol, "Port": port}
                await self._aws.call("elbv2", "create_listener", **where, DefaultActions=action)
            elif _target(old) != action[0]["TargetGroupArn"]:
                which = {"ListenerArn": old["ListenerArn"]}
                await self._aws.call("elbv2", "modify_listener", **which, DefaultActions=action)
        for old in have.values():
            await self._aws.call("elbv2", "delete_listener", ListenerArn=old["ListenerArn"])
        for group in groups.values():
            await self._match_targets(wanted, group)
        await self._drop_groups(wanted.name, keep=set(groups.values()))
        return str(balancer["DNSName"])

    async def delete(self, name: str) -> None:
        found = await self._found(name)
        if found is not None:
            await self._aws.call("elbv2", "delete_load_balancer", LoadBalancerArn=found["LoadBalancerArn"])
        await self._drop_groups(name, keep=set())

    async def _found(self, name: str) -> Found | None:
        try:
            found = await self._aws.all("elbv2", "describe_load_balancers", "LoadBalancers", Names=[name])
        except CloudError as err:
            if err.code == "LoadBalancerNotFound":
                return None
            raise
        return found[0] if found else None

    async def _make(self, wanted: Wanted) -> Found:
        marks = {"kubernetes.io/service-name": wanted.service, self._aws.config.tag: "owned"}
        answer = await self._aws.call(
            "elbv2",
            "create_load_balancer",
            Name=wanted.name,
            Type="network",
            Scheme="internal" if wanted.internal else "internet-facing",
            Subnets=list(wanted.subnets),
            Tags=tag_list(marks),
        )
        return dict(answer["LoadBalancers"][0])

    async def _target_groups(self, wanted: Wanted, vpc: str) -> dict[tuple[str, int], str]:
        """ARN by protocol and node port."""
        known = {g["TargetGroupName"]: g["TargetGroupArn"] for g in await self._groups(wanted.name)}
        result = {}
        for protocol, _, node_port in wanted.ports:
            name = _group_name(wanted.name, protocol, node_port)
            result[(protocol, node_port)] = known.get(name) or await self._make_group(
                wanted, vpc, name, protocol, node_port
            )
        return result

    async def _make_group(self, wanted: Wanted, vpc: str, name: str, protocol: str, node_port: int) -> str:
        check: Found = {"HealthCheckProtocol": "TCP"}
        if wanted.health_port:
            check = {"HealthCheckProtocol": "HTTP", "HealthCheckPath": "/healthz"}
            check["HealthCheckPort"] = str(wanted.health_port)
        answer = await self._aws.call(
            "elbv2",
            "create_target_group",
            Name=name,
            Protocol=protocol,
            Port=node_port,
            VpcId=vpc,
            TargetType="instance",
            Tags=tag_list({"kubernetes.io/service-name": wanted.service, self._aws.config.tag: "owned"}),
            **check,
        )
        return str(answer["TargetGroups"][0]["TargetGroupArn"])

    async def _match_targets(self, wanted: Wanted, group: str) -> None:
        health = await self._aws.call("elbv2", "describe_target_health", TargetGroupArn=group)
        have = {h["Target"]["Id"] for h in health["TargetHealthDescriptions"]}
        if new := [{"Id": i} for i in sorted(wanted.instances - have)]:
            await self._aws.call("elbv2", "register_targets", TargetGroupArn=group, Targets=new)
        if stale := [{"Id": i} for i in sorted(have - wanted.instances)]:
            await self._aws.call("elbv2", "deregister_targets", TargetGroupArn=group, Targets=stale)

    async def _groups(self, name: str) -> list[Found]:
        found = await self._aws.all("elbv2", "describe_target_groups", "TargetGroups")
        return [g for g in found if g["TargetGroupName"].startswith(_group_prefix(name))]

    async def _drop_groups(self, name: str, keep: set[str]) -> None:
        for group in await self._groups(name):
            if group["TargetGroupArn"] not in keep:
                await self._aws.call("elbv2", "delete_target_group", TargetGroupArn=group["TargetGroupArn"])


def _group_prefix(name: str) -> str:
    return f"k8s-{hashlib.sha256(name.encode()).hexdigest()[:16]}-"


def _group_name(name: str, protocol: str, node_port: int) -> str:
    """32 characters at most."""
    return f"{_group_prefix(name)}{protocol.lower()}-{node_port}"


def _target(listener: Found) -> str:
    actions = listener.get("DefaultActions") or [{}]
    return str(actions[0].get("TargetGroupArn") or "")
