"""Instances, load balancers and routes of AWS against moto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.cloud.aws.balancers import AwsLoadBalancers, name_of
from cluster.cloud.aws.instances import AwsInstances
from cluster.cloud.aws.routes import AwsRoutes
from cluster.cloud.providers import open_cloud
from cluster.machine import cloud_choice
from cluster.machine.config import ClusterConfig
from cluster.machine.config_json import ConfigError
from cluster.machinery.client import Obj
from cluster.machinery.provider import ProviderError, Route
from tests.support.cloud_aws import CLUSTER, World

NLB = {"service.beta.kubernetes.io/aws-load-balancer-type": "nlb"}


def service(ports: dict[int, int], annotations: dict[str, str] | None = None, protocol: str = "TCP") -> Obj:
    meta = {"name": "web", "namespace": "default", "uid": "0a1b2c3d-0000-1111-2222-333344445555"}
    rows = [{"port": p, "nodePort": n, "protocol": protocol} for p, n in ports.items()]
    return {"metadata": {**meta, "annotations": annotations or {}}, "spec": {"type": "LoadBalancer", "ports": rows}}


async def test_a_node_is_found_by_its_name_and_then_by_its_id(world: World) -> None:
    made = world.instance("n1", "t3.medium")
    found = await AwsInstances(world.aws).instance(world.nodes["n1"])
    assert found is not None and found.provider_id == f"aws:///us-east-1a/{made}"
    assert (found.zone, found.region, found.instance_type) == ("us-east-1a", "us-east-1", "t3.medium")
    assert dict(found.addresses)["InternalIP"].startswith("10.0.1.")
    node = {"metadata": {"name": "other"}, "spec": {"providerID": found.provider_id}}
    world.ec2.stop_instances(InstanceIds=[made])
    assert (await AwsInstances(world.aws).instance(node) or found).state == "off"
    world.ec2.terminate_instances(InstanceIds=[made])
    gone = await AwsInstances(world.aws).instance(node)
    assert gone is None or gone.state == "gone"
    assert await AwsInstances(world.aws).instance(world.nodes["n1"]) is None
    assert await AwsInstances(world.aws).instance({"metadata": {"name": "x"}, "spec": {"providerID": "i-0"}}) is None


async def test_two_machines_of_one_name_are_not_guessed_between(world: World) -> None:
    world.instance("n1")
    world.instance("n1")
    with pytest.raises(ProviderError, match=r"could be any of the instances i-\w+, i-\w+: give it a spec.providerID"):
        await AwsInstances(world.aws).instance(world.nodes["n1"])


@pytest.mark.parametrize("kind", [{}, NLB], ids=["classic", "network"])
async def test_a_service_gets_a_balancer_that_follows_its_ports_and_nodes(world: World, kind: dict[str, str]) -> None:
    first, second = world.instance("n1"), world.instance("n2")
    balancers = AwsLoadBalancers(world.aws)
    nodes = world.nodes
    (ingress,) = await balancers.ensure(service({80: 30080}, kind), [], [nodes["n1"]])
    assert ingress["hostname"].endswith(".amazonaws.com")
    assert listeners(world, kind) == {80: 30080} and targets(world, kind) == {first}
    again = await balancers.ensure(service({443: 30443}, kind), [], [nodes["n2"]])
    assert list(again) == [ingress]
    assert listeners(world, kind) == {443: 30443} and targets(world, kind) == {second}
    for _ in range(2):
        await balancers.delete(service({443: 30443}, kind))
    assert world.aws._client("elb").describe_load_balancers()["LoadBalancerDescriptions"] == []
    assert world.aws._client("elbv2").describe_load_balancers()["LoadBalancers"] == []
    assert world.aws._client("elbv2").describe_target_groups()["TargetGroups"] == []
    left = world.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["k8s-elb-*"]}])
    assert left["SecurityGroups"] == []


def listeners(world: World, kind: dict[str, str]) -> dict[int, int]:
    """Node port by port."""
    name = name_of(service({}))
    if not kind:
        (found,) = world.aws._client("elb").describe_load_balancers()["LoadBalancerDescriptions"]
        rows = [d["Listener"] for d in found["ListenerDescriptions"]]
        return {r["LoadBalancerPort"]: r["InstancePort"] for r in rows}
    elb = world.aws._client("elbv2")
    (found,) = elb.describe_load_balancers(Names=[name])["LoadBalancers"]
    groups = {g["TargetGroupArn"]: g["Port"] for g in elb.describe_target_groups()["TargetGroups"]}
    rows = elb.describe_listeners(LoadBalancerArn=found["LoadBalancerArn"])["Listeners"]
    return {r["Port"]: groups[r["DefaultActions"][0]["TargetGroupArn"]] for r in rows}


def targets(world: World, kind: dict[str, str]) -> set[str]:
    if not kind:
        (found,) = world.aws._client("elb").describe_load_balancers()["LoadBalancerDescriptions"]
        return {i["InstanceId"] for i in found["Instances"]}
    elb = world.aws._client("elbv2")
    ids: set[str] = set()
    for group in elb.describe_target_groups()["TargetGroups"]:
        rows = elb.describe_target_health(TargetGroupArn=group["TargetGroupArn"])["TargetHealthDescriptions"]
        ids |= {r["Target"]["Id"] for r in rows}
    return ids


async def test_a_classic_balancer_refuses_udp_and_says_what_to_set(world: World) -> None:
    with pytest.raises(ProviderError, match=r"passes TCP only: set the annotation .*type: nlb") as e:
        await AwsLoadBalancers(world.aws).ensure(service({53: 30053}, protocol="UDP"), [], [])
    assert not e.value.retriable


async def test_a_network_balancer_refuses_source_ranges_instead_of_being_open_to_all(world: World) -> None:
    narrow = service({80: 30080}, NLB)
    narrow["spec"]["loadBalancerSourceRanges"] = ["10.0.0.0/8"]
    with pytest.raises(ProviderError, match=r"loadBalancerSourceRanges are not supported .* open to all") as e:
        await AwsLoadBalancers(world.aws).ensure(narrow, [], [])
    assert not e.value.retriable
    assert world.aws._client("elbv2").describe_load_balancers()["LoadBalancers"] == []


async def test_routes_lead_to_pods_and_only_to_ours(world: World) -> None:
    first = world.instance("n1")
    second = world.instance("n2")
    routes = AwsRoutes(world.aws, "10.244.0.0/16")
    wanted = Route("n1", "10.244.1.0/24")
    await routes.create(wanted, world.nodes["n1"])
    assert await routes.list() == [Route(first, "10.244.1.0/24")]
    await routes.create(wanted, world.nodes["n2"])
    assert await routes.list() == [Route(second, "10.244.1.0/24")]
    check: Any = world.ec2.describe_instance_attribute(InstanceId=second, Attribute="sourceDestCheck")
    assert check["SourceDestCheck"]["Value"] is False
    for _ in range(2):
        await routes.delete(wanted)
    assert await routes.list() == []


def test_a_cloud_that_is_not_built_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    assert "forwarding rules for load balancers" in cloud_choice.problem("gcp", {})
    assert "managed disks" in cloud_choice.problem("azure", {})
    assert "needs the setting aws" in cloud_choice.problem("aws", {})
    assert cloud_choice.problem("local", {}) == cloud_choice.problem("aws", {"region": "us-east-1"}) == ""
    with pytest.raises(ConfigError, match="cloud_provider: gcp is not built"):
        ClusterConfig.local(1, 1, cloud_provider="gcp").validate()


def test_what_controllers_are_given_depends_on_the_provider() -> None:
    def cloud(**settings: Any) -> Any:
        return open_cloud(ClusterConfig.local(1, 1, **settings), None, lambda _: None)  # type: ignore[arg-type]

    aws = {"region": "us-east-1", "cluster_name": CLUSTER}
    assert sorted(cloud().disks) == ["block.sk8.io", "local-path.sk8.io"] and cloud().instances is None
    assert "ebs.csi.aws.com" in cloud(aws=aws).disks and cloud(aws=aws).routes is None
    full = cloud(cloud_provider="aws", aws=aws)
    assert isinstance(full.instances, AwsInstances) and isinstance(full.routes, AwsRoutes)
    with pytest.raises(ValueError, match="aws: unknown setting zone"):
        cloud(aws={"region": "r", "zone": "z"})
