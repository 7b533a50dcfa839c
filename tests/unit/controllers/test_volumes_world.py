"""Volumes: binding, provisioning, attaching, and never two machines with one disk."""

from __future__ import annotations

from typing import Any

from cluster.api.volumes import EBS, LOCAL_PATH, disk_source
from cluster.controllers import volume_core as core
from cluster.controllers.attach_detach import AttachDetachController
from cluster.controllers.node_lifecycle_core import OUT_OF_SERVICE
from cluster.controllers.persistent_volume import PersistentVolumeController
from cluster.controllers.volume_protection import VolumeProtectionController
from cluster.machinery.client import Obj, clone
from cluster.machinery.provider import DiskStatus
from tests.support.controller_world import World
from tests.unit.controllers.test_endpoints_world import pod

ALL = (PersistentVolumeController, VolumeProtectionController, AttachDetachController)
ATTACHMENTS = "volumeattachments.storage.k8s.io"
LOCAL_PATHS = {"metadata": {"name": "paths"}, "provisioner": LOCAL_PATH}


def unique_name(volume: Obj) -> str:
    source = disk_source(volume)
    assert source is not None
    return source.unique_name


def storage_class(mode: str = "Immediate", **extra: Any) -> Obj:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "block", "annotations": {core.DEFAULT_CLASS: "true"}},
        "provisioner": "block.sk8.io",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": mode,
        **extra,
    }


def claim(name: str = "data", size: str = "64Mi", **spec: Any) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
            "storageClassName": "block",
            **spec,
        },
    }


def volume(name: str, size: str = "1Gi", **spec: Any) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": size},
            "hostPath": {"path": "/x"},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "manual",
            **spec,
        },
    }


def user(name: str, claim_name: str = "data") -> Obj:
    body = pod(name)
    body["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": claim_name}}]
    return body


async def start(w: World, mode: str = "Immediate") -> None:
    await w.namespace()
    await w.node("n1")
    await w.node("n2")
    await w.create("storageclasses.storage.k8s.io", storage_class(mode))


async def in_use(w: World, node: str, names: list[str]) -> None:
    changed = clone(await w.client.get("nodes", node))
    changed["status"]["volumesInUse"] = names
    await w.client.update("nodes", changed, subresource="status")


async def bind(w: World, name: str, node: str) -> None:
    body = {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}
    await w.client.create("pods", body, "default", subresource="binding", name=name)


async def test_a_claim_is_provisioned_bound_and_its_disk_deleted_with_it() -> None:
    async with World(*ALL) as w:
        await start(w)
        await w.create("persistentvolumeclaims", claim())
        await w.settle()
        (c,) = await w.items("persistentvolumeclaims")
        (v,) = await w.items("persistentvolumes")
        assert c["status"]["phase"] == "Bound" and c["spec"]["volumeName"] == v["metadata"]["name"]
        assert c["status"]["capacity"] == {"storage": "64Mi"}
        assert v["status"]["phase"] == "Bound" and v["spec"]["csi"]["fsType"] == "ext4"
        assert w.provider.disks_[v["metadata"]["name"]].size_bytes == 64 << 20
        assert core.PVC_FINALIZER in c["metadata"]["finalizers"]
        before = await w.revision()
        for controller in w.controllers:
            controller.resync()
        await w.settle()
        assert w.store.revision == before
        await w.client.delete("persistentvolumeclaims", "data", "default")
        await w.settle()
        assert await w.items("persistentvolumeclaims") == [] and await w.items("persistentvolumes") == []
        assert w.provider.disks_ == {}


async def test_a_disk_is_not_made_for_what_no_disk_can_do() -> None:
    """Regression: a claim to be written from many machines was Bound, and its second pod waited for ever."""
    async with World(*ALL) as w:
        await start(w)
        await w.create("persistentvolumeclaims", claim("shared", accessModes=["ReadWriteOnce", "ReadWriteMany"]))
        await w.create("storageclasses.storage.k8s.io", storage_class("WaitForFirstConsumer") | LOCAL_PATHS)
        raw = claim("raw", volumeMode="Block", storageClassName="paths")
        raw["metadata"]["annotations"] = {core.SELECTED_NODE: "n1"}
        await w.create("persistentvolumeclaims", raw)
        await w.settle()
        phases = {c["metadata"]["name"]: c["status"]["phase"] for c in await w.items("persistentvolumeclaims")}
        assert phases == {"shared": "Pending", "raw": "Pending"} and w.provider.disks_ == {}
        said = [e["message"] for e in await w.items("events") if e["reason"] == "ProvisioningFailed"]
        assert any("invalid AccessModes [ReadWriteMany]" in m for m in said), said
        assert any("does not support block volume provisioning" in m for m in said), said


async def test_wait_for_first_consumer_waits_for_the_scheduler() -> None:
    async with World(*ALL) as w:
        await start(w, "WaitForFirstConsumer")
        await w.create("persistentvolumeclaims", claim())
        await w.settle()
        (c,) = await w.items("persistentvolumeclaims")
        assert c["status"]["phase"] == "Pending" and await w.items("persistentvolumes") == []
        patch = {"metadata": {"annotations": {core.SELECTED_NODE: "n1"}}}
        await w.client.patch("persistentvolumeclaims", "data", patch, "default")
        await w.settle()
        (c,) = await w.items("persistentvolumeclaims")
        assert c["status"]["phase"] == "Bound"


async def test_of_volumes_made_by_hand_the_scheduler_chooses() -> None:
    async with World(*ALL) as w:
        await start(w, "WaitForFirstConsumer")
        for name in ("a", "b"):
            await w.create("persistentvolumes", volume(name, storageClassName="block"))
        made = await w.create("persistentvolumeclaims", claim())
        await w.settle()
        (c,) = await w.items("persistentvolumeclaims")
        assert c["status"]["phase"] == "Pending" and "volumeName" not in c["spec"]
        reserved = clone(await w.client.get("persistentvolumes", "b"))
        reserved["spec"]["claimRef"] = core.claim_ref(made)
        await w.client.update("persistentvolumes", reserved)
        await w.settle()
        (c,) = await w.items("persistentvolumeclaims")
        assert c["status"]["phase"] == "Bound" and c["spec"]["volumeName"] == "b"


async def test_a_selected_node_that_is_gone_is_taken_back() -> None:
    async with World(*ALL) as w:
        await start(w, "WaitForFirstConsumer")
        body = claim()
        body["metadata"]["annotations"] = {core.SELECTED_NODE: "gone"}
        await w.create("persistentvolumeclaims", body)
        await w.settle()
        (c,) = await w.items("persistentvolumeclaims")
        assert core.SELECTED_NODE not in (c["metadata"].get("annotations") or {})
        assert c["status"]["phase"] == "Pending" and await w.items("persistentvolumes") == []
        said = [e["reason"] for e in await w.items("events")]
        assert "ProvisioningReschedule" in said


async def test_the_smallest_volume_that_fits_is_taken_and_kept_after_release() -> None:
    async with World(*ALL) as w:
        await start(w)
        for name, size in (("big", "10Gi"), ("small", "1Gi"), ("tiny", "1Mi")):
            await w.create("persistentvolumes", volume(name, size))
        await w.create("persistentvolumeclaims", claim(storageClassName="manual"))
        await w.settle()
        (c,) = await w.items("persistentvolumeclaims")
        assert c["spec"]["volumeName"] == "small"
        await w.client.delete("persistentvolumeclaims", "data", "default")
        await w.settle()
        phases = {v["metadata"]["name"]: v["status"]["phase"] for v in await w.items("persistentvolumes")}
        assert phases == {"big": "Available", "small": "Released", "tiny": "Available"}


async def test_a_claim_in_use_is_not_deleted() -> None:
    async with World(*ALL) as w:
        await start(w)
        await w.create("persistentvolumeclaims", claim())
        await w.settle()
        await w.create("pods", user("a"))
        await w.client.delete("persistentvolumeclaims", "data", "default")
        await w.settle()
        assert len(await w.items("persistentvolumeclaims")) == 1
        await w.client.delete("pods", "a", "default")
        await w.settle()
        assert await w.items("persistentvolumeclaims") == []


async def test_a_volume_follows_its_pod_and_is_never_on_two_machines() -> None:
    async with World(*ALL) as w:
        await start(w)
        await w.create("persistentvolumeclaims", claim())
        await w.settle()
        await w.create("pods", user("a"))
        await bind(w, "a", "n1")
        await w.settle()
        (va,) = await w.items(ATTACHMENTS)
        (v,) = await w.items("persistentvolumes")
        device = va["status"]["attachmentMetadata"]["devicePath"]
        assert va["status"]["attached"] is True and va["spec"]["nodeName"] == "n1" and device
        node = await w.client.get("nodes", "n1")
        assert node["status"]["volumesAttached"] == [{"name": unique_name(v), "devicePath": device}]
        await in_use(w, "n1", [unique_name(v)])
        await w.create("pods", user("b"))
        await bind(w, "b", "n2")
        await w.settle()
        assert [a["spec"]["nodeName"] for a in await w.items(ATTACHMENTS)] == ["n1"]
        assert "FailedAttachVolume" in {e["reason"] for e in await w.items("events")}
        await w.client.delete("pods", "a", "default", grace_period_s=0)
        await w.settle()
        assert [a["spec"]["nodeName"] for a in await w.items(ATTACHMENTS)] == ["n1"], "still mounted"
        await in_use(w, "n1", [])
        await w.settle()
        (va,) = await w.items(ATTACHMENTS)
        assert va["spec"]["nodeName"] == "n2" and va["status"]["attached"] is True
        assert not (await w.client.get("nodes", "n1"))["status"].get("volumesAttached")
        assert w.provider.violations == []


async def test_a_gone_machine_releases_its_volumes() -> None:
    async with World(*ALL) as w:
        await start(w)
        await w.create("persistentvolumeclaims", claim())
        await w.settle()
        (v,) = await w.items("persistentvolumes")
        await w.create("pods", user("a"))
        await bind(w, "a", "n1")
        await w.settle()
        await in_use(w, "n1", [unique_name(v)])
        node = clone(await w.client.get("nodes", "n1"))
        node["spec"]["taints"] = [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]
        await w.client.update("nodes", node)
        await w.client.delete("pods", "a", "default", grace_period_s=0)
        await w.create("pods", user("b"))
        await bind(w, "b", "n2")
        await w.settle()
        (va,) = await w.items(ATTACHMENTS)
        assert va["spec"]["nodeName"] == "n2" and va["status"]["attached"] is True
        assert w.provider.violations == []


async def test_an_attachment_of_another_driver_is_left_alone() -> None:
    async with World(AttachDetachController) as w:
        await start(w)
        spec = {"attacher": "other.example.com", "nodeName": "n1", "source": {"persistentVolumeName": "nowhere"}}
        await w.create("volumeattachments.storage.k8s.io", {"metadata": {"name": "theirs"}, "spec": spec})
        await w.settle()
        kept = await w.client.get("volumeattachments.storage.k8s.io", "theirs")
        assert "deletionTimestamp" not in kept["metadata"]


async def test_a_volume_of_the_reference_is_attached_through_ebs_or_says_what_is_missing() -> None:
    for configured in (False, True):
        async with World(*ALL) as w:
            if configured:
                w.disks[EBS] = w.provider
            await start(w)
            w.provider.disks_["vol-abc123"] = DiskStatus("vol-abc123", 10 << 30)
            source = {"hostPath": None, "awsElasticBlockStore": {"volumeID": "aws://us-east-1a/vol-abc123"}}
            await w.create("persistentvolumes", volume("pv-database", "10Gi", **source))
            await w.create("persistentvolumeclaims", claim(size="10Gi", storageClassName="manual"))
            await w.create("pods", user("postgres"))
            await bind(w, "postgres", "n1")
            await w.settle()
            (va,) = await w.items(ATTACHMENTS)
            assert va["spec"]["attacher"] == EBS and va["status"]["attached"] is configured
            if not configured:
                assert "no provider of ebs.csi.aws.com is configured" in va["status"]["attachError"]["message"]
            await w.client.delete("pods", "postgres", "default", grace_period_s=0)
            await w.settle()
            assert await w.items(ATTACHMENTS) == [] and w.provider.disks_["vol-abc123"].attached_to == ""
