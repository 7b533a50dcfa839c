"""Namespaces, their defaults, and the garbage collector."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.controllers.config import ControllerConfig
from cluster.controllers.deployment import DeploymentController
from cluster.controllers.garbage_collector import GarbageCollector
from cluster.controllers.namespace import NamespaceController
from cluster.controllers.namespace_defaults import RootCaPublisher, ServiceAccountController
from cluster.controllers.replicaset import ReplicaSetController
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World, deployment

WORKLOADS = (DeploymentController, ReplicaSetController, GarbageCollector)


def config_map(name: str, namespace: str = "default", owner: Obj | None = None, *, block: bool = True) -> Obj:
    meta: Obj = {"name": name, "namespace": namespace}
    if owner is not None:
        ref = {k: owner[k] for k in ("apiVersion", "kind")} | {k: owner["metadata"][k] for k in ("name", "uid")}
        meta["ownerReferences"] = [ref | {"blockOwnerDeletion": block}]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


async def test_every_namespace_gets_its_account_and_the_root_certificate(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_text("PEM")
    config = ControllerConfig(root_ca_file=str(ca))
    async with World(ServiceAccountController, RootCaPublisher, config=config) as w:
        for name in ("default", "team"):
            await w.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await w.settle()
        assert sorted(a["metadata"]["namespace"] for a in await w.items("serviceaccounts")) == ["default", "team"]
        maps = await w.items("configmaps")
        assert [m["data"] for m in maps] == [{"ca.crt": "PEM"}] * 2
        await w.client.delete("configmaps", "kube-root-ca.crt", "team")
        await w.client.delete("serviceaccounts", "default", "team")
        changed = clone(maps[0])
        changed["data"] = {"ca.crt": "forged"}
        await w.client.update("configmaps", changed)
        await w.settle()
        assert len(await w.items("serviceaccounts")) == 2
        assert [m["data"] for m in await w.items("configmaps")] == [{"ca.crt": "PEM"}] * 2


async def test_deleting_a_deployment_takes_everything_below_it() -> None:
    async with World(*WORKLOADS) as w:
        await w.namespace()
        await w.node("n1")
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        await w.client.delete("deployments.apps", "web", "default", propagation="Background")
        await w.settle_with_kubelet()
        assert await w.items("replicasets.apps") == [] and await w.items("pods") == []


async def test_foreground_deletion_waits_for_the_dependents() -> None:
    async with World(*WORKLOADS) as w:
        await w.namespace()
        await w.node("n1")
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        await w.client.delete("deployments.apps", "web", "default", propagation="Foreground")
        await w.settle()
        (left,) = await w.items("deployments.apps")
        assert left["metadata"]["finalizers"] == ["foregroundDeletion"]
        assert all("deletionTimestamp" in p["metadata"] for p in await w.items("pods"))
        await w.settle_with_kubelet()
        for resource in ("deployments.apps", "replicasets.apps", "pods"):
            assert await w.items(resource) == []


async def test_orphaned_dependents_stay_without_their_owner() -> None:
    async with World(*WORKLOADS) as w:
        await w.namespace()
        await w.node("n1")
        await w.create("deployments.apps", deployment())
        await w.settle_with_kubelet()
        await w.client.delete("deployments.apps", "web", "default", propagation="Orphan")
        await w.settle_with_kubelet()
        (rs,) = await w.items("replicasets.apps")
        assert not rs["metadata"].get("ownerReferences") and len(await w.items("pods")) == 3
        assert await w.items("deployments.apps") == []


async def test_an_object_stays_while_one_of_its_owners_does() -> None:
    async with World(GarbageCollector) as w:
        await w.namespace()
        first = await w.create("configmaps", config_map("first"))
        second = await w.create("configmaps", config_map("second"))
        child = config_map("child", owner=first)
        child["metadata"]["ownerReferences"] += config_map("x", owner=second)["metadata"]["ownerReferences"]
        await w.create("configmaps", child)
        await w.client.delete("configmaps", "first", "default")
        await w.settle()
        kept = await w.client.get("configmaps", "child", "default")
        assert [r["name"] for r in kept["metadata"]["ownerReferences"]] == ["second"]
        await w.client.delete("configmaps", "second", "default")
        await w.settle()
        assert await w.items("configmaps") == []


async def test_an_owner_of_the_same_name_but_another_uid_is_absent() -> None:
    async with World(GarbageCollector) as w:
        await w.namespace()
        owner = await w.create("configmaps", config_map("owner"))
        child = config_map("child", owner=owner)
        child["metadata"]["ownerReferences"][0]["uid"] = "another"
        await w.create("configmaps", child)
        await w.settle()
        assert [m["metadata"]["name"] for m in await w.items("configmaps")] == ["owner"]


async def test_only_who_blocks_holds_its_owner_up() -> None:
    async with World(GarbageCollector) as w:
        await w.namespace()
        owner = await w.create("configmaps", config_map("owner"))
        for name, block in (("blocks", True), ("does-not", False)):
            child = config_map(name, owner=owner, block=block)
            child["metadata"]["finalizers"] = ["example.com/hold"]
            await w.create("configmaps", child)
        await w.client.delete("configmaps", "owner", "default", propagation="Foreground")
        await w.settle()
        assert "owner" in {m["metadata"]["name"] for m in await w.items("configmaps")}
        await w.client.patch("configmaps", "blocks", {"metadata": {"finalizers": None}}, "default")
        await w.settle()
        assert [m["metadata"]["name"] for m in await w.items("configmaps")] == ["does-not"]


@pytest.mark.parametrize("propagation", ["Foreground", "Background"])
async def test_a_circle_of_owners_goes(propagation: str) -> None:
    """Each waits for the next to go: somebody has to stop waiting."""
    async with World(GarbageCollector) as w:
        await w.namespace()
        names = ("a", "b", "c")
        made = {name: await w.create("configmaps", config_map(name)) for name in names}
        for name, owner in zip(names, ("c", "a", "b"), strict=True):
            refs = config_map("x", owner=made[owner])["metadata"]["ownerReferences"]
            await w.client.patch("configmaps", name, {"metadata": {"ownerReferences": refs}}, "default")
        await w.settle()
        assert len(await w.items("configmaps")) == 3, "all are owned, and none is deleted"
        await w.client.delete("configmaps", "a", "default", propagation=propagation)
        await w.settle()
        assert await w.items("configmaps") == []


async def test_a_deleted_namespace_is_emptied_and_goes() -> None:
    async with World(NamespaceController, ServiceAccountController, *WORKLOADS) as w:
        await w.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
        await w.node("n1")
        await w.settle()
        await w.create("deployments.apps", {**deployment(), "metadata": {"name": "web", "namespace": "team"}})
        await w.create("configmaps", config_map("a", "team"))
        await w.settle_with_kubelet()
        held = config_map("held", "team")
        held["metadata"]["finalizers"] = ["example.com/hold"]
        await w.create("configmaps", held)
        await w.client.delete("namespaces", "team")
        await w.settle()
        (ns,) = await w.items("namespaces")
        remaining = {c["type"]: c for c in ns["status"]["conditions"]}
        assert remaining["NamespaceContentRemaining"]["status"] == "True"
        assert "example.com/hold in 1 resource instances" in remaining["NamespaceFinalizersRemaining"]["message"]
        await w.settle_with_kubelet()
        await w.client.patch("configmaps", "held", {"metadata": {"finalizers": None}}, "team")
        await w.tick(3)
        await w.tick(3)
        assert await w.items("namespaces") == []
        for resource in ("pods", "configmaps", "serviceaccounts", "deployments.apps"):
            assert await w.items(resource) == []
