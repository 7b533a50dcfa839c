"""Nodes of a cloud: initialized by its word, deleted with their machines, and its network told where pods are."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.controllers.cloud_nodes import CloudNodeController
from cluster.controllers.cloud_nodes_core import UNINITIALIZED
from cluster.controllers.cloud_routes import CloudRouteController, plan
from cluster.controllers.env import Outside
from cluster.controllers.node_lifecycle_core import SHUTDOWN
from cluster.machinery.client import Obj, clone
from cluster.machinery.provider import Instance, ProviderError, Route
from tests.support.controller_world import World


class FakeCloud:
    """Instances by Node name, and a route table; fulfils Instances and Routes."""

    prefix = "fake://"

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.routes: dict[str, Route] = {}
        self.failing = ""

    def add(self, name: str, **more: str) -> None:
        addresses = (("InternalIP", "10.0.0.1"), ("ExternalIP", "1.2.3.4"))
        known = {"instance_type": "t3.small", "zone": "z1", "region": "r1", "state": "running", **more}
        self.instances[name] = Instance(name, f"fake://{name}", addresses=addresses, **known)  # type: ignore[arg-type]

    async def instance(self, node: Obj) -> Instance | None:
        if self.failing:
            raise ProviderError(self.failing)
        return self.instances.get(node["metadata"]["name"])

    async def list(self) -> Sequence[Route]:
        return list(self.routes.values())

    async def create(self, route: Route, node: Obj) -> None:
        if self.failing:
            raise ProviderError(self.failing)
        self.routes[route.cidr] = Route(str(node["spec"]["providerID"]).rpartition("/")[2], route.cidr)

    async def delete(self, route: Route) -> None:
        self.routes.pop(route.cidr, None)


def world(cloud: FakeCloud) -> World:
    return World(CloudNodeController, CloudRouteController, outside=Outside(instances=cloud, routes=cloud))


async def register(w: World, name: str, **spec: object) -> None:
    """As the kubelet of a cluster with a cloud does it."""
    if not await w.items("namespaces"):
        await w.namespace()  # Events of Nodes are in default
    taint = {"key": UNINITIALIZED, "value": "true", "effect": "NoSchedule"}
    await w.create("nodes", {"metadata": {"name": name}, "spec": {"taints": [taint], **spec}})


async def ready(w: World, name: str, status: str) -> None:
    changed = clone(await w.client.get("nodes", name))
    addresses = [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name}]
    changed["status"] = {"conditions": [{"type": "Ready", "status": status}], "addresses": addresses}
    await w.client.update("nodes", changed, subresource="status")
    await w.settle()


async def test_a_new_node_is_initialized_and_then_left_alone() -> None:
    cloud = FakeCloud()
    async with world(cloud) as w:
        await register(w, "n1")
        await w.settle()
        assert (await w.client.get("nodes", "n1"))["spec"]["taints"], "the cloud does not know it yet"
        cloud.add("n1")
        await w.tick(5)
        await ready(w, "n1", "True")
        await w.tick(300)
        node = await w.client.get("nodes", "n1")
        assert node["spec"]["providerID"] == "fake://n1" and not node["spec"].get("taints")
        labels = node["metadata"]["labels"]
        assert labels["topology.kubernetes.io/zone"] == "z1" and labels["topology.kubernetes.io/region"] == "r1"
        assert labels["node.kubernetes.io/instance-type"] == "t3.small"
        kinds = {a["type"]: a["address"] for a in node["status"]["addresses"]}
        assert kinds == {"InternalIP": "10.0.0.1", "Hostname": "n1", "ExternalIP": "1.2.3.4"}
        before = await w.revision()
        await w.tick(300)
        assert w.store.revision == before


async def test_a_node_goes_with_its_machine_but_not_while_its_kubelet_answers() -> None:
    cloud = FakeCloud()
    async with world(cloud) as w:
        cloud.add("n1")
        await register(w, "n1")
        await ready(w, "n1", "True")
        await w.create("nodes", {"metadata": {"name": "mine"}, "spec": {"providerID": "other://x"}})
        cloud.instances.clear()
        await w.tick(300)
        assert len(await w.items("nodes")) == 2
        await ready(w, "n1", "Unknown")
        await ready(w, "mine", "Unknown")
        assert [n["metadata"]["name"] for n in await w.items("nodes")] == ["mine"], "another provider's stays"
        assert "DeletingNode" in {e["reason"] for e in await w.items("events")}


async def test_a_cloud_that_does_not_answer_proves_nothing() -> None:
    cloud = FakeCloud()
    async with world(cloud) as w:
        cloud.add("n1")
        await register(w, "n1")
        await ready(w, "n1", "True")
        cloud.failing = "RequestLimitExceeded: slow down"
        cloud.instances.clear()
        await ready(w, "n1", "Unknown")
        assert len(await w.items("nodes")) == 1
        assert "CloudProviderFailed" in {e["reason"] for e in await w.items("events")}
        cloud.failing = ""
        await w.tick(5)
        assert await w.items("nodes") == []


async def test_a_machine_that_is_switched_off_is_marked_until_it_runs_again() -> None:
    cloud = FakeCloud()
    async with world(cloud) as w:
        cloud.add("n1")
        await register(w, "n1")
        await ready(w, "n1", "True")
        cloud.add("n1", state="off")
        await ready(w, "n1", "Unknown")
        assert [t["key"] for t in (await w.client.get("nodes", "n1"))["spec"]["taints"]] == [SHUTDOWN]
        cloud.add("n1")
        await ready(w, "n1", "True")
        assert not (await w.client.get("nodes", "n1"))["spec"].get("taints")


async def test_the_clouds_network_learns_where_pods_are() -> None:
    cloud = FakeCloud()
    cloud.routes["10.244.9.0/24"] = Route("i-old", "10.244.9.0/24", blackhole=True)
    async with world(cloud) as w:
        cloud.add("n1")
        await register(w, "n1", podCIDR="10.244.1.0/24", podCIDRs=["10.244.1.0/24"])
        await ready(w, "n1", "True")
        assert cloud.routes == {"10.244.1.0/24": Route("n1", "10.244.1.0/24")}
        conditions = {c["type"]: c for c in (await w.client.get("nodes", "n1"))["status"]["conditions"]}
        assert conditions["NetworkUnavailable"]["reason"] == "RouteCreated"
        before = await w.revision()
        await w.tick(600)
        assert w.store.revision == before
        await w.client.delete("nodes", "n1")
        await w.settle()
        assert cloud.routes == {}


def test_a_route_to_the_wrong_instance_or_into_nothing_is_made_anew() -> None:
    node = {"metadata": {"name": "n1"}, "spec": {"providerID": "aws:///z/i-1", "podCIDRs": ["10.1.0.0/24"]}}
    for wrong in (Route("i-2", "10.1.0.0/24"), Route("i-1", "10.1.0.0/24", blackhole=True)):
        assert [r.cidr for r, _ in plan([node], [wrong]).create] == ["10.1.0.0/24"]
    assert plan([node], [Route("i-1", "10.1.0.0/24")]).create == ()
