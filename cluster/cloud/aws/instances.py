"""EC2 instances as Nodes: which one a Node is, where and what it is, and whether it is still there.

IO: EC2. A Node that has a providerID is that instance; one that has none is the instance with its name (private DNS
name or tag Name) or its InternalIP. Source: cloud-provider-aws (providerID `aws:///<zone>/<instance id>`).
"""

from __future__ import annotations

from typing import Any

from cluster.api.nodes import internal_ips
from cluster.cloud.aws.api import Aws, CloudError, filters, tags
from cluster.machinery.client import Obj
from cluster.machinery.provider import Instance, InstanceState, ProviderError

_STATES: dict[str, InstanceState] = {"pending": "running", "running": "running", "stopping": "running",
                                     "stopped": "off", "shutting-down": "running", "terminated": "gone"}  # fmt: skip
_LIVE = ("pending", "running", "stopping", "stopped", "shutting-down")


class AwsInstances:
    """Fulfils Instances."""

    prefix = "aws://"

    def __init__(self, aws: Aws) -> None:
        self._aws = aws

    async def instance(self, node: Obj) -> Instance | None:
        """None: there is no such instance (any more). Raises ProviderError."""
        provider_id = str(node["spec"].get("providerID") or "")
        if provider_id:
            return await self.by_id(instance_id(provider_id))
        return await self._by_name(node)

    async def id_of(self, node: Obj) -> str:
        """The instance's id. Raises ProviderError when there is none."""
        found = await self.instance(node)
        if found is None or found.state == "gone":
            raise ProviderError(f"node {node['metadata']['name']} has no EC2 instance")
        return instance_id(found.provider_id)

    async def by_id(self, wanted: str) -> Instance | None:
        try:
            found = await self._describe(InstanceIds=[wanted])
        except CloudError as err:
            if err.missing:
                return None
            raise
        return self._instance(found[0]) if found else None

    async def _by_name(self, node: Obj) -> Instance | None:
        name = node["metadata"]["name"]
        by_ip = [{"private_ip_address": ip} for ip in internal_ips(node)]
        ways = [{"private_dns_name": name}, {"tag__Name": name}, *by_ip]
        for way in ways:
            found = await self._describe(Filters=filters(instance_state_name=_LIVE, **way))
            if len(found) > 1:
                ids = ", ".join(sorted(f["InstanceId"] for f in found))
                raise ProviderError(f"node {name} could be any of the instances {ids}: give it a spec.providerID")
            if found:
                return self._instance(found[0])
        return None

    async def _describe(self, **arguments: Any) -> list[dict[str, Any]]:
        reservations = await self._aws.all("ec2", "describe_instances", "Reservations", **arguments)
        return [i for r in reservations for i in r["Instances"]]

    def _instance(self, found: dict[str, Any]) -> Instance:
        zone = found["Placement"]["AvailabilityZone"]
        pairs = [
            ("InternalIP", found.get("PrivateIpAddress")),
            ("ExternalIP", found.get("PublicIpAddress")),
            ("InternalDNS", found.get("PrivateDnsName")),
            ("Hostname", found.get("PrivateDnsName")),
            ("ExternalDNS", found.get("PublicDnsName")),
        ]
        return Instance(
            name=tags(found).get("Name", found["InstanceId"]),
            provider_id=f"aws:///{zone}/{found['InstanceId']}",
            state=_STATES.get(found["State"]["Name"], "running"),
            addresses=tuple((kind, str(address)) for kind, address in pairs if address),
            instance_type=found.get("InstanceType", ""),
            zone=zone,
            region=self._aws.config.region,
        )


def instance_id(provider_id: str) -> str:
    """`aws:///us-east-1a/i-1` or `i-1`."""
    return provider_id.rpartition("/")[2]
