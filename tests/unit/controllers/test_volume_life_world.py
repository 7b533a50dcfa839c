"""The later life of volumes: grown, emptied, deleted, kept; directories of machines; raw devices."""

from __future__ import annotations

from typing import Any

from cluster.api.volumes import LOCAL_PATH
from cluster.controllers import volume_core as core
from cluster.controllers.volume_expand import ExpandController
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World
from tests.unit.controllers.test_volumes_world import ALL, LOCAL_PATHS, claim, start, storage_class, volume

PARTS = (*ALL, ExpandController)


async def grow(w: World, size: str) -> None:
    w.clock.advance(1)  # Events are named after the time
    patch = {"spec": {"resources": {"requests": {"storage": size}}}}
    await w.client.patch("persistentvolumeclaims", "data", patch, "default")
    await w.settle()


async def the_claim(w: World) -> Obj:
    return await w.client.get("persistentvolumeclaims", "data", "default")


def conditions(c: Obj) -> list[str]:
    return [x["type"] for x in c["status"].get("conditions") or ()]


async def reasons(w: World) -> set[str]:
    return {e["reason"] for e in await w.items("events")}


async def bound(w: World, **spec: Any) -> Obj:
    await start(w)
    patch = {"allowVolumeExpansion": True}
    await w.client.patch("storageclasses.storage.k8s.io", "block", patch)
    await w.create("persistentvolumeclaims", claim(**spec))
    await w.settle()
    (v,) = await w.items("persistentvolumes")
    return v


async def test_a_claim_grows_at_the_provider_and_waits_for_its_file_system() -> None:
    async with World(*PARTS) as w:
        v = await bound(w)
        await grow(w, "128Mi")
        c, v = await the_claim(w), await w.client.get("persistentvolumes", v["metadata"]["name"])
        assert w.provider.disks_[v["metadata"]["name"]].size_bytes == 128 << 20
        assert v["spec"]["capacity"] == {"storage": "128Mi"}
        assert c["status"]["capacity"] == {"storage": "64Mi"}, "the file system is as it was"
        assert conditions(c) == ["FileSystemResizePending"]
        assert c["status"]["allocatedResources"] == {"storage": "128Mi"}
        assert c["status"]["allocatedResourceStatuses"] == {"storage": "NodeResizePending"}
        said = await reasons(w)
        assert {"Resizing", "FileSystemResizeRequired"} <= said, said
        before = await w.revision()
        for controller in w.controllers:
            controller.resync()
        await w.settle()
        assert w.store.revision == before


async def test_a_raw_device_has_nothing_inside_that_would_have_to_grow() -> None:
    async with World(*PARTS) as w:
        v = await bound(w, volumeMode="Block")
        assert v["spec"]["volumeMode"] == "Block" and "fsType" not in v["spec"]["csi"]
        await grow(w, "96Mi")
        c = await the_claim(w)
        assert c["status"]["capacity"] == {"storage": "96Mi"} and conditions(c) == []
        assert "allocatedResourceStatuses" not in c["status"]


async def test_a_provider_that_cannot_grow_says_so_on_the_claim_until_it_can() -> None:
    async with World(*PARTS) as w:
        await bound(w)
        w.provider.grow_error = "no room is left"
        await grow(w, "1Gi")
        c = await the_claim(w)
        assert conditions(c) == ["Resizing"] and "no room is left" in c["status"]["conditions"][0]["message"]
        assert "VolumeResizeFailed" in await reasons(w)
        w.provider.grow_error = ""
        await w.tick(5)
        assert conditions(await the_claim(w)) == ["FileSystemResizePending"]


async def test_a_volume_to_recycle_is_emptied_by_a_pod_and_available_again() -> None:
    async with World(*PARTS) as w:
        await w.namespace("kube-system")
        await start(w)
        await w.create("persistentvolumes", volume("old", persistentVolumeReclaimPolicy="Recycle"))
        await w.create("persistentvolumeclaims", claim(storageClassName="manual"))
        await w.settle()
        await w.client.delete("persistentvolumeclaims", "data", "default")
        await w.settle()
        (pod,) = await w.items("pods")
        assert pod["metadata"]["name"] == "recycler-for-old"
        assert pod["spec"]["volumes"][0]["hostPath"]["path"] == "/x"
        assert (await w.client.get("persistentvolumes", "old"))["status"]["phase"] == "Released"
        await w.pod_status(pod, ready=False, phase="Succeeded")
        await w.settle()
        found = await w.client.get("persistentvolumes", "old")
        assert found["status"]["phase"] == "Available" and "claimRef" not in found["spec"]
        assert await w.items("pods") == []


async def test_a_volume_that_nobody_can_delete_or_recycle_is_failed_with_the_reason() -> None:
    async with World(*PARTS) as w:
        await start(w)
        source = {"hostPath": None, "nfs": {"server": "s", "path": "/p"}}
        for policy in ("Delete", "Recycle"):
            await w.create("persistentvolumes", volume(policy.lower(), persistentVolumeReclaimPolicy=policy, **source))
            name = {"volumeName": policy.lower(), "storageClassName": "manual"}
            await w.create("persistentvolumeclaims", claim(policy.lower(), **name))
        await w.settle()
        for policy in ("delete", "recycle"):
            await w.client.delete("persistentvolumeclaims", policy, "default")
        await w.settle()
        phases = {v["metadata"]["name"]: v["status"] for v in await w.items("persistentvolumes")}
        assert phases["delete"]["phase"] == phases["recycle"]["phase"] == "Failed"
        assert "no deletable volume plugin matched" in phases["delete"]["message"]
        assert {"VolumeFailedDelete", "VolumeFailedRecycle"} <= await reasons(w)


async def test_a_directory_of_a_machine_is_a_volume_that_stays_there_and_is_removed_there() -> None:
    async with World(*PARTS) as w:
        await w.namespace("kube-system")
        await start(w)
        await w.create("storageclasses.storage.k8s.io", storage_class("WaitForFirstConsumer") | LOCAL_PATHS)
        wanted = claim(storageClassName="paths")
        wanted["metadata"]["annotations"] = {core.SELECTED_NODE: "n2"}
        await w.create("persistentvolumeclaims", wanted)
        await w.settle()
        (v,) = await w.items("persistentvolumes")
        name = v["metadata"]["name"]
        assert v["spec"]["hostPath"] == {"path": f"/disk/n2/{name}", "type": "DirectoryOrCreate"}
        (term,) = v["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"]
        assert term == {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}
        assert v["metadata"]["annotations"] == {core.PROVISIONED_BY: LOCAL_PATH}
        await w.client.delete("persistentvolumeclaims", "data", "default")
        await w.settle()
        (pod,) = await w.items("pods")
        assert pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert pod["spec"]["volumes"][0]["hostPath"]["path"] == "/disk/n2"
        assert pod["spec"]["containers"][0]["command"][-1] == f"rm -rf '/scrub/{name}'"
        failed = clone(pod)
        await w.pod_status(failed, ready=False, phase="Failed")
        await w.settle()
        assert (await w.client.get("persistentvolumes", name))["status"]["phase"] == "Failed"
        await w.tick(5)
        (pod,) = await w.items("pods")
        await w.pod_status(pod, ready=False, phase="Succeeded")
        await w.settle()
        assert await w.items("persistentvolumes") == [] and await w.items("pods") == []
