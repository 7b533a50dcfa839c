"""A stand-in for AWS: moto's server on a port of its own, with a network, and instances that stand for machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.cloud.aws.api import Aws, AwsConfig
from cluster.machinery.client import Obj

CLUSTER = "t"
TAG = {"Key": f"kubernetes.io/cluster/{CLUSTER}", "Value": "owned"}


@contextmanager
def moto() -> Iterator[str]:
    """Its URL. What is made in it belongs to this process and outlives the server: `World.close` removes it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


class World:
    """One region of the stand-in: a VPC with a subnet and a route table, tagged as the cluster's."""

    def __init__(self, url: str, directory: Path) -> None:
        credentials = directory / "credentials"
        credentials.write_text("[default]\naws_access_key_id = key\naws_secret_access_key = secret\n")
        os.chmod(credentials, 0o600)
        self.config = AwsConfig("us-east-1", CLUSTER, url, str(credentials))
        self.aws = Aws(self.config)
        self.ec2 = self.aws._client("ec2")
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.0.1.0/24", AvailabilityZone="us-east-1a")
        self.subnet = subnet["Subnet"]["SubnetId"]
        table = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]
        self.table = table["RouteTableId"]
        self.ec2.create_tags(Resources=[self.subnet, self.table], Tags=[TAG])
        self.nodes: dict[str, Obj] = {}

    def instance(self, name: str, kind: str = "t3.small") -> str:
        """The id of a new instance, which the Node of that name is."""
        image = self.ec2.describe_images()["Images"][0]["ImageId"]
        made = self.ec2.run_instances(
            ImageId=image,
            InstanceType=kind,
            MinCount=1,
            MaxCount=1,
            SubnetId=self.subnet,
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}],
        )
        self.nodes[name] = {"metadata": {"name": name}, "spec": {}}
        return str(made["Instances"][0]["InstanceId"])

    def close(self) -> None:
        """What is left would be found by the next test of this process."""
        import urllib.request

        urllib.request.urlopen(urllib.request.Request(f"{self.config.endpoint}/moto-api/reset", method="POST")).close()


def volume_of(world: World, handle: str) -> dict[str, Any]:
    return dict(world.ec2.describe_volumes(VolumeIds=[handle])["Volumes"][0])
