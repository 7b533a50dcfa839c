"""Volumes on the real engine, with a real API server and the node's own identity: nothing more is allowed to it."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api.volumes import BLOCK, DiskSource
from tests.support.node_world import NODE_TESTS, NodeWorld, machine_namespace, sh

pytestmark = NODE_TESTS
CLAIMED: dict[str, Any] = {"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}
MOUNTED: dict[str, Any] = {**CLAIMED, "container": {"volumeMounts": [{"name": "d", "mountPath": "/data"}]}}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-volumes"):
        async with NodeWorld(tmp_path, edge=True) as w:
            yield w
        assert w.leftovers() == []


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A blank disk as the provider would attach it."""
    disk = tmp_path / "disk.img"
    with disk.open("wb") as handle:
        handle.truncate(64 << 20)
    name = sh("losetup", "--find", "--show", str(disk)).strip()
    yield name
    subprocess.run(["losetup", "-d", name], check=True)


def in_pod(status: dict[str, Any], *command: str) -> str:
    container = status["containerStatuses"][0]["containerID"].removeprefix("docker://")
    return sh("docker", "exec", container, *command)


async def test_secrets_tokens_and_memory_are_there_and_never_on_disk(world: NodeWorld) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    await world.client.create("secrets", {**secret, "data": {"p": base64.b64encode(b"geheim").decode()}}, "default")
    await world.run_pod(
        "v",
        automountServiceAccountToken=True,
        container={
            "volumeMounts": [
                {"name": "sec", "mountPath": "/sec"},
                {"name": "mem", "mountPath": "/mem"},
                {"name": "down", "mountPath": "/down"},
                {"name": "mem", "mountPath": "/sub", "subPath": "inner"},
            ]
        },
        volumes=[
            {"name": "sec", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "down", "downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ],
        securityContext={"fsGroup": 4321},
    )
    status = await world.ready("v")
    assert in_pod(status, "cat", "/sec/p") == "geheim"
    assert in_pod(status, "cat", "/down/n") == "v"
    assert in_pod(status, "stat", "-c", "%g %a", "/sec/..data/p").strip() == "4321 440"
    assert "tmpfs" in in_pod(status, "grep", " /mem ", "/proc/mounts")
    assert "tmpfs" in in_pod(status, "grep", " /sec ", "/proc/mounts")
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert in_pod(status, "cat", f"{account}/token").count(".") == 2
    assert in_pod(status, "cat", f"{account}/ca.crt").startswith("-----BEGIN CERTIFICATE")
    assert in_pod(status, "cat", f"{account}/namespace") == "default"
    assert in_pod(status, "stat", "-c", "%g %a", "/mem", "/sub").split() == ["4321", "3777"] * 2
    in_pod(status, "touch", "/sub/x")
    assert in_pod(status, "ls", "/mem/inner").strip() == "x"
    await world.client.delete("pods", "v", "default", grace_period_s=1)
    await world.gone("v")
    assert world.leftovers() == []


async def bound_claim(
    world: NodeWorld, source: dict[str, Any], *, mode: str = "Filesystem", access: str = "ReadWriteOnce"
) -> None:
    """The claim `data`, bound to a volume of this source."""
    meta = {"apiVersion": "v1", "metadata": {"name": "data"}}
    size = {"storage": "64Mi"}
    spec = {"accessModes": [access], "storageClassName": "block", "volumeMode": mode}
    volume = {**spec, "capacity": size, "claimRef": {"namespace": "default", "name": "data"}, **source}
    await world.client.create("persistentvolumes", {**meta, "kind": "PersistentVolume", "spec": volume})
    wanted = {**spec, "resources": {"requests": size}, "volumeName": "data"}
    pvc = await world.client.create(
        "persistentvolumeclaims", {**meta, "kind": "PersistentVolumeClaim", "spec": wanted}, "default"
    )
    status = {"phase": "Bound", "capacity": size}
    await world.client.update("persistentvolumeclaims", {**pvc, "status": status}, subresource="status")


async def claim(world: NodeWorld, device: str, **kind: str) -> dict[str, Any]:
    """A bound claim whose volume is about to be attached; returns the VolumeAttachment."""
    await bound_claim(world, {"csi": {"driver": "block.sk8.io", "volumeHandle": "h1", "fsType": "ext4"}}, **kind)
    name = DiskSource(BLOCK, "h1").attachment_name(world.name)
    source = {"attacher": "block.sk8.io", "nodeName": world.name, "source": {"persistentVolumeName": "data"}}
    group = "storage.k8s.io/v1"
    return await world.client.create(
        "volumeattachments.storage.k8s.io",
        {"apiVersion": group, "kind": "VolumeAttachment", "metadata": {"name": name}, "spec": source},
    )


async def attach(world: NodeWorld, attachment: dict[str, Any], device: str) -> None:
    status = {"attached": True, "attachmentMetadata": {"devicePath": device}}
    await world.client.update(
        "volumeattachments.storage.k8s.io", {**attachment, "status": status}, subresource="status"
    )


async def test_a_claim_is_formatted_once_and_keeps_its_data(world: NodeWorld, device: str) -> None:
    attachment = await claim(world, device)
    use = {**MOUNTED, "securityContext": {"fsGroup": 1234}}
    await world.run_pod("first", **use)
    await world.status("first", lambda s: s.get("phase") == "Pending")
    await attach(world, attachment, device)
    status = await world.ready("first")
    in_pod(status, "sh", "-c", "echo kept > /data/row; sync")
    assert in_pod(status, "stat", "-c", "%g", "/data").strip() == "1234"
    node = await world.client.get("nodes", world.name)
    assert node["status"]["volumesInUse"] == ["kubernetes.io/csi/block.sk8.io^h1"]
    await world.stop()
    await world.start()
    await world.client.delete("pods", "first", "default", grace_period_s=1)
    await world.gone("first")
    node = await world.client.get("nodes", world.name)
    assert not node["status"].get("volumesInUse")
    assert world.leftovers() == []
    await world.run_pod("second", **use)
    status = await world.ready("second")
    assert in_pod(status, "cat", "/data/row") == "kept\n"


async def test_a_missing_volume_says_so_and_comes_later(world: NodeWorld) -> None:
    use = {"container": {"volumeMounts": [{"name": "c", "mountPath": "/c"}]}}
    await world.run_pod("late", volumes=[{"name": "c", "configMap": {"name": "later"}}], **use)
    await world.told("late", "FailedMount")
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}, "data": {"a": "b"}}
    await world.client.create("configmaps", config, "default")
    await world.ready("late")


@pytest.mark.parametrize("source", ["local", "hostPath"])
async def test_a_volume_of_the_machines_own_disk_is_used_in_place(
    world: NodeWorld, tmp_path: Path, source: str
) -> None:
    directory = tmp_path / "disk"
    directory.mkdir()
    (directory / "kept").write_text("here before")
    await bound_claim(world, {source: {"path": str(directory)}, **on_machine(world)})
    await world.run_pod("first", **MOUNTED)
    status = await world.ready("first")
    assert in_pod(status, "cat", "/data/kept") == "here before"
    in_pod(status, "touch", "/data/new")
    await world.client.delete("pods", "first", "default")
    await world.gone("first")
    assert sorted(p.name for p in directory.iterdir()) == ["kept", "new"]


async def test_a_local_volume_on_a_device_is_formatted_once_and_keeps_its_data(world: NodeWorld, device: str) -> None:
    """Nobody attaches it, so it is in no list of what is attached; and a restarted kubelet lets go of it, too."""
    await bound_claim(world, {"local": {"path": device}, **on_machine(world)})
    await world.run_pod("first", **MOUNTED, securityContext={"fsGroup": 1234})
    status = await world.ready("first")
    in_pod(status, "sh", "-c", "echo kept > /data/row; sync")
    assert in_pod(status, "stat", "-c", "%g", "/data").strip() == "1234"
    assert in_pod(status, "grep", " /data ", "/proc/mounts").startswith(f"{device} /data ext4")
    assert not (await world.client.get("nodes", world.name))["status"].get("volumesInUse")
    await world.stop()
    await world.start()
    await world.client.delete("pods", "first", "default", grace_period_s=1)
    await world.gone("first")
    assert world.leftovers() == []
    await world.run_pod("second", **MOUNTED)
    assert in_pod(await world.ready("second"), "cat", "/data/row") == "kept\n"


async def test_a_local_volume_whose_directory_is_absent_says_so(world: NodeWorld, tmp_path: Path) -> None:
    await bound_claim(world, {"local": {"path": str(tmp_path / "absent")}, **on_machine(world)})
    await world.run_pod("waits", **CLAIMED)

    async def told() -> list[str]:
        events = (await world.client.list("events", "default")).items
        return [e["message"] for e in events if e["reason"] == "FailedMount"]

    assert "hostPath type check failed" in (await world.until(told, 30))[0]


def on_machine(world: NodeWorld) -> dict[str, Any]:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [world.name]}]}
    return {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}


async def test_a_volume_that_was_made_larger_grows(world: NodeWorld, device: str) -> None:
    """Under its running pod where the kernel lets us (CAP_SYS_RESOURCE), else with the next pod, and it says so."""
    attachment = await claim(world, device)
    await attach(world, attachment, device)
    await world.run_pod("first", **MOUNTED)
    status = await world.ready("first")
    in_pod(status, "sh", "-c", "echo kept > /data/row; sync")
    before = room(status)
    await make_larger(world, device)
    if not may_grow_mounted():
        await world.told("first", "VolumeResizeFailed")
        await world.client.delete("pods", "first", "default", grace_period_s=1)
        await world.gone("first")
        await world.run_pod("second", **MOUNTED)
        status = await world.ready("second")

    async def done() -> bool:
        now = await world.client.get("persistentvolumeclaims", "data", "default")
        return now["status"]["capacity"] == {"storage": "128Mi"} and not now["status"].get("conditions")

    await world.until(done, 60)
    assert room(status) > before * 1.5
    assert in_pod(status, "cat", "/data/row") == "kept\n"
    await world.told("first" if may_grow_mounted() else "second", "FileSystemResizeSuccessful")


async def test_a_raw_device_reaches_the_container_and_keeps_its_bytes(world: NodeWorld, device: str) -> None:
    attachment = await claim(world, device, mode="Block")
    await attach(world, attachment, device)
    use = {**CLAIMED, "container": {"volumeDevices": [{"name": "d", "devicePath": "/dev/xvda"}]}}
    await world.run_pod("first", **use)
    status = await world.ready("first")
    in_pod(status, "sh", "-c", "echo raw bytes | dd of=/dev/xvda conv=fsync")
    node = await world.client.get("nodes", world.name)
    assert node["status"]["volumesInUse"] == ["kubernetes.io/csi/block.sk8.io^h1"]
    await world.stop()
    await world.start()
    await world.client.delete("pods", "first", "default", grace_period_s=1)
    await world.gone("first")

    async def free() -> bool:
        return not (await world.client.get("nodes", world.name))["status"].get("volumesInUse")

    await world.until(free, 30)
    await world.run_pod("second", **use)
    status = await world.ready("second")
    assert in_pod(status, "head", "-c", "9", "/dev/xvda") == "raw bytes"


async def test_a_volume_for_one_pod_alone_is_refused_to_a_second(world: NodeWorld, device: str) -> None:
    attachment = await claim(world, device, access="ReadWriteOncePod")
    await attach(world, attachment, device)
    await world.run_pod("first", **CLAIMED)
    await world.ready("first")
    await world.run_pod("second", **CLAIMED)

    async def refused() -> bool:
        events = (await world.client.list("events", "default")).items
        return any("ReadWriteOncePod access mode and is already in use" in e["message"] for e in events)

    await world.until(refused, 30)
    await world.client.delete("pods", "first", "default", grace_period_s=1)
    await world.ready("second")


def room(status: dict[str, Any]) -> int:
    """KiB of the file system at /data."""
    return int(in_pod(status, "df", "-k", "/data").split("\n")[1].split()[1])


def may_grow_mounted() -> bool:
    effective = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> 24 & 1)  # CAP_SYS_RESOURCE


async def make_larger(world: NodeWorld, device: str) -> None:
    """What the provider and the controller do to a disk in use."""
    backing = sh("losetup", "--list", "--noheadings", "--output", "BACK-FILE", device).strip()
    os.truncate(backing, 128 << 20)
    sh("losetup", "--set-capacity", device)
    volume = await world.client.get("persistentvolumes", "data")
    spec = {**volume["spec"], "capacity": {"storage": "128Mi"}}
    await world.client.update("persistentvolumes", {**volume, "spec": spec})
    pvc = await world.client.get("persistentvolumeclaims", "data", "default")
    pending = {"type": "FileSystemResizePending", "status": "True"}
    grown = {**pvc, "status": {**pvc["status"], "conditions": [pending]}}
    await world.client.update("persistentvolumeclaims", grown, subresource="status")
