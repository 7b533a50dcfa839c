"""infra/ray/aws.yaml through Ray's own AWS provider, against moto's EC2: what is made, and that it goes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

FILE = Path(__file__).resolve().parents[3] / "infra" / "ray" / "aws.yaml"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield boto3.resource("ec2", region_name="us-west-2")


def filled_in(aws: Any) -> dict[str, Any]:
    """The file with the subnets and the image that this account has."""
    config: dict[str, Any] = yaml.safe_load(FILE.read_text())
    vpc = aws.create_vpc(CidrBlock="10.0.0.0/16")
    zones = config["provider"]["availability_zone"].split(",")
    subnets = {
        f"subnet-{zone[-1]}": vpc.create_subnet(CidrBlock=f"10.0.{i}.0/24", AvailabilityZone=zone).id
        for i, zone in enumerate(zones)
    }
    image = next(iter(aws.images.limit(1))).id
    for kind in config["available_node_types"].values():
        node = kind["node_config"]
        kind["node_config"] = node | {"ImageId": image, "SubnetIds": [subnets[s] for s in node["SubnetIds"]]}
    return config


def test_control_planes_get_their_addresses_in_three_zones_and_all_goes_again(aws: Any) -> None:
    config = filled_in(aws)
    provider = AWSNodeProvider(config["provider"], "test")
    for name, kind in config["available_node_types"].items():
        tags = {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD if name == "head" else NODE_KIND_WORKER,
            TAG_RAY_USER_NODE_TYPE: name,
        }
        provider.create_node(dict(kind["node_config"]), tags, kind.get("min_workers", 1))
    made = {i.private_ip_address: i for i in aws.instances.all()}
    planes = ["10.0.0.11", "10.0.1.11", "10.0.2.11"]
    assert [made[ip].placement["AvailabilityZone"] for ip in planes] == ["us-west-2a", "us-west-2b", "us-west-2c"]
    kinds = [tag["Value"] for i in aws.instances.all() for tag in i.tags if tag["Key"] == TAG_RAY_USER_NODE_TYPE]
    # Ray asks for one to two workers, of which moto makes the least
    assert sorted(kinds) == ["control-plane-b", "control-plane-c", "head", "worker"]
    provider.terminate_nodes(provider.non_terminated_nodes({}))
    assert {i.state["Name"] for i in aws.instances.all()} == {"terminated"}
