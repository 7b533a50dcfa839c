"""Routes to pods in a VPC's route table: one for each Node's pod network, through its instance.

IO: EC2. The table is the one that is configured, or the one with the cluster's tag. Source: cloud-provider-aws routes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from cluster.cloud.aws.api import Aws, CloudError
from cluster.cloud.aws.instances import AwsInstances
from cluster.machinery.client import Obj
from cluster.machinery.provider import ProviderError, Route


class AwsRoutes:
    """Fulfils Routes, for pod networks within `pod_cidr`. A route's `node` is its instance's id until `create`."""

    def __init__(self, aws: Aws, pod_cidr: str) -> None:
        self._aws = aws
        self._instances = AwsInstances(aws)
        self._pods = ipaddress.ip_network(pod_cidr)

    async def list(self) -> Sequence[Route]:
        found = []
        for route in (await self._table())["Routes"]:
            cidr, instance = route.get("DestinationCidrBlock", ""), route.get("InstanceId", "")
            if not cidr or not ipaddress.ip_network(cidr).subnet_of(self._pods):  # type: ignore[arg-type]
                continue
            found.append(Route(instance, cidr, route.get("State") == "blackhole" or not instance))
        return found

    async def create(self, route: Route, node: Obj) -> None:
        instance = await self._instances.id_of(node)
        await self._aws.call(
            "ec2", "modify_instance_attribute", InstanceId=instance, SourceDestCheck={"Value": False}
        )  # it has to take packets that are for its pods, not for itself
        table = (await self._table())["RouteTableId"]
        arguments = {"RouteTableId": table, "DestinationCidrBlock": route.cidr, "InstanceId": instance}
        try:
            await self._aws.call("ec2", "create_route", **arguments)
        except CloudError as err:
            if err.code != "RouteAlreadyExists":
                raise
            await self._aws.call("ec2", "replace_route", **arguments)

    async def delete(self, route: Route) -> None:
        table = (await self._table())["RouteTableId"]
        try:
            await self._aws.call("ec2", "delete_route", RouteTableId=table, DestinationCidrBlock=route.cidr)
        except CloudError as err:
            if not err.missing:
                raise

    async def _table(self) -> dict[str, Any]:
        config = self._aws.config
        if config.route_table:
            wanted: dict[str, Any] = {"RouteTableIds": [config.route_table]}
        else:
            wanted = {"Filters": [{"Name": "tag-key", "Values": [config.tag]}]}
        found = await self._aws.all("ec2", "describe_route_tables", "RouteTables", **wanted)
        if len(found) != 1:
            raise ProviderError(
                f"{len(found)} route tables have the tag {config.tag}: tag exactly one, or set aws.route_table"
            )
        return found[0]
