"""The attach/detach controller and the attacher of the disk drivers: volumes follow pods from machine to machine.

Shells around `attach_detach_core`. Two queues:
- volumes (PersistentVolume names): makes and deletes VolumeAttachment objects;
- attachments: carries them out at the provider, which alone knows and enforces where a disk is.
A VolumeAttachment is kept by its finalizer until the provider has detached the disk, and a second one of the same
volume is not made while one exists; so the object store, not our memory, says that a disk is in one place.

  wanted -> VA created -> provider.attach_disk -> status.attached, devicePath, volumesAttached -> kubelet mounts
  unused -> VA deleted -> provider.detach_disk -> finalizer removed, VA gone -> next machine
"""

from __future__ import annotations

import asyncio

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.api.volumes import DISK_DRIVERS, disk_source
from cluster.controllers import attach_detach_core as core
from cluster.controllers.env import Env
from cluster.controllers.node_lifecycle import pod_node
from cluster.controllers.node_lifecycle_core import is_gone
from cluster.controllers.volume_core import pod_claims
from cluster.controllers.volume_protection import claim_keys
from cluster.machinery.client import Obj, clone, ignore_not_found, is_already_exists, key_of
from cluster.machinery.provider import Disks, ProviderError
from cluster.machinery.reconciler import Reconciler, Result

_ATTACHMENTS = "volumeattachments.storage.k8s.io"
_RETRY_S = 1.0
_REFUSED_S = 60.0
_HANDLE = "volumeHandle"


class AttachDetachController:
    name = "attachdetach"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._pods = env.informer("pods")
        self._claims = env.informer("persistentvolumeclaims")
        self._volumes = env.informer("persistentvolumes")
        self._nodes = env.informer("nodes")
        self._attachments = env.informer(_ATTACHMENTS)
        self._events = env.recorder("attachdetach-controller")
        workers = env.config.concurrent_volume_syncs
        self.volumes = Reconciler("attachdetach", self._reconcile_volume, workers=workers)
        self.attachments = Reconciler("disk_attacher", self._reconcile_attachment, workers=workers)
        self._pods.add_index("claim", claim_keys)
        self._pods.add_index("node", pod_node)
        self._attachments.add_index("volume", _volume_of)
        self._attachments.add_index("node", _node_of)
        self._pods.add_handler(self._on_pod)
        self._claims.add_handler(self._on_claim)
        self._volumes.add_handler(self.volumes.enqueue)
        self._nodes.add_handler(self._on_node)
        self._attachments.add_handler(self._on_attachment)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.volumes.run())
            group.create_task(self.attachments.run())

    def resync(self) -> None:
        self.volumes.enqueue_all(self._volumes.items())
        self.attachments.enqueue_all(self._attachments.items())

    # ---- what wakes it

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        for pod in (old, new):
            if pod is None or not pod["spec"].get("nodeName"):
                continue
            for name in pod_claims(pod):
                claim = self._claims.get(pod["metadata"]["namespace"], name)
                if claim is not None:
                    self._on_claim(None, claim)

    def _on_claim(self, old: Obj | None, new: Obj | None) -> None:
        claim = new or old
        if claim is not None and claim["spec"].get("volumeName"):
            self.volumes.queue.add(claim["spec"]["volumeName"])

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        node = new or old
        if node is None or (old is not None and new is not None and _concerns(old) == _concerns(new)):
            return
        for attachment in self._attachments.by_index("node", node["metadata"]["name"]):
            self._on_attachment(None, attachment)
        for pod in self._pods.by_index("node", node["metadata"]["name"]):
            self._on_pod(None, pod)

    def _on_attachment(self, old: Obj | None, new: Obj | None) -> None:
        attachment = new or old
        if attachment is None:
            return
        for name in _volume_of(attachment):
            self.volumes.queue.add(name)
        self.attachments.queue.add(key_of(attachment))

    # ---- VolumeAttachment objects

    async def _reconcile_volume(self, name: str) -> Result | None:
        volume = self._volumes.get("", name)
        attachments = [a for a in self._attachments.by_index("volume", name) if a["spec"]["attacher"] in DISK_DRIVERS]
        if volume is None:
            # Its disk may still be somewhere: detached by the attachment's own finalizer.
            await asyncio.gather(*(self._remove(core.Detach(a, "the volume is gone")) for a in attachments))
            return None
        names = {a["spec"]["nodeName"] for a in attachments}
        users = self._users(volume)
        names |= {p["spec"].get("nodeName", "") for p in users}
        nodes = {n: self._nodes.get("", n) for n in names if n}
        plan = core.plan_volume(volume, users, attachments, nodes)
        for step in plan.detach:
            await self._remove(step)
        for attach in plan.attach:
            await self._add(attach)
        for blocked in plan.blocked:
            self._say_blocked(blocked)
        return None

    def _users(self, volume: Obj) -> list[Obj]:
        ref = volume["spec"].get("claimRef")
        if not ref:
            return []
        key = f"{ref.get('namespace', '')}/{ref['name']}"
        claim = self._claims.get(ref.get("namespace", ""), ref["name"])
        if claim is None or claim["spec"].get("volumeName") != volume["metadata"]["name"]:
            return []
        return self._pods.by_index("claim", key)

    async def _add(self, step: core.Attach) -> None:
        source = disk_source(step.volume)
        if source is None:
            return
        try:
            await self._env.client.create(_ATTACHMENTS, core.attachment_for(step.volume, source, step.node))
        except ApiError as err:
            if not is_already_exists(err):
                raise

    async def _remove(self, step: core.Detach) -> None:
        meta = step.attachment["metadata"]
        if "deletionTimestamp" in meta:
            return
        with ignore_not_found():
            await self._env.client.delete(_ATTACHMENTS, meta["name"], uid=meta["uid"])

    def _say_blocked(self, step: core.Blocked) -> None:
        name = step.volume["metadata"]["name"]
        message = (
            f'Multi-Attach error for volume "{name}" Volume is already exclusively attached to one node and '
            f"can't be attached to another ({step.holder} has it; it is released once its pods are gone from there, "
            "or the machine is proven to be off)"
        )
        for pod in step.pods:
            if "deletionTimestamp" not in pod["metadata"]:
                self._events.event(pod, "Warning", "FailedAttachVolume", message)

    # ---- the attacher

    async def _reconcile_attachment(self, name: str) -> Result | None:
        attachment = self._attachments.get("", name)
        if attachment is None or attachment["spec"]["attacher"] not in DISK_DRIVERS:
            return None
        volume = self._volumes.get("", attachment["spec"]["source"].get("persistentVolumeName", ""))
        if "deletionTimestamp" in attachment["metadata"]:
            return await self._detach(attachment, volume)
        source = disk_source(volume) if volume is not None else None
        if volume is None or source is None:
            return None
        node = self._nodes.get("", attachment["spec"]["nodeName"])
        if (attachment.get("status") or {}).get("attached") and (node is None or is_gone(node)):
            return None  # nothing can be asked of a machine that is off; the volume's own queue lets go of it
        return await self._attach(attachment, volume, source.handle)

    async def _attach(self, attachment: Obj, volume: Obj, handle: str) -> Result | None:
        """Also for one that is attached: the provider answers the same again, or mends what a reboot undid."""
        node = attachment["spec"]["nodeName"]
        try:
            device = await self._disks_of(attachment).attach_disk(handle, node)
        except ProviderError as err:
            await self._failed(attachment, "attachError", str(err))
            self._say(volume, "Warning", "FailedAttachVolume", f"AttachVolume.Attach failed for volume: {err}")
            return Result(_RETRY_S if err.retriable else _REFUSED_S)
        wanted = {"attached": True, "attachmentMetadata": {"devicePath": device, _HANDLE: handle}}
        if attachment.get("status") == wanted:
            await self._show_on_node(node)
            return None
        changed = clone(attachment)
        changed["status"] = wanted
        await self._env.client.update(_ATTACHMENTS, changed, subresource="status")
        await self._show_on_node(node)
        name = volume["metadata"]["name"]
        self._say(volume, "Normal", "SuccessfulAttachVolume", f'AttachVolume.Attach succeeded for volume "{name}"')
        return None

    async def _detach(self, attachment: Obj, volume: Obj | None) -> Result | None:
        driver, meta = attachment["spec"]["attacher"], attachment["metadata"]
        finalizer = core.finalizer_of(driver)
        if finalizer not in (meta.get("finalizers") or []):
            return None
        node = attachment["spec"]["nodeName"]
        current = self._nodes.get("", node)
        if volume is not None and current is not None and core.in_use(current, volume) and not is_gone(current):
            return None  # the kubelet took it again before we could; its next word wakes us
        source = disk_source(volume) if volume is not None else None
        handle = source.handle if source is not None else self._handle_of(attachment)
        try:
            if driver in self._env.outside.disks or (attachment.get("status") or {}).get("attached"):
                await self._disks_of(attachment).detach_disk(handle, node)
        except ProviderError as err:
            await self._failed(attachment, "detachError", str(err))
            return Result(_RETRY_S if err.retriable else _REFUSED_S)
        patch = {
            "metadata": {
                "uid": meta["uid"],
                "finalizers": [f for f in meta["finalizers"] if f != finalizer] or None,
            }
        }
        with ignore_not_found():
            await self._env.client.patch(_ATTACHMENTS, meta["name"], patch)
        await self._show_on_node(node, without=meta["name"])
        return None

    def _disks_of(self, attachment: Obj) -> Disks:
        """Raises ProviderError when the driver's provider is not configured."""
        driver = attachment["spec"]["attacher"]
        disks = self._env.outside.disks.get(driver)
        if disks is None:
            raise ProviderError(f"no provider of {driver} is configured: its settings are missing", retriable=False)
        return disks

    @staticmethod
    def _handle_of(attachment: Obj) -> str:
        """Of a volume that is gone: what was noted when it was attached; else its name, which block disks have."""
        metadata = (attachment.get("status") or {}).get("attachmentMetadata") or {}
        return str(metadata.get(_HANDLE) or _volume_of(attachment)[0])

    async def _failed(self, attachment: Obj, field: str, message: str) -> None:
        status = attachment.get("status") or {}
        if (status.get(field) or {}).get("message") == message:
            return
        changed = clone(attachment)
        changed["status"] = {"attached": bool(status.get("attached")), **status}
        changed["status"][field] = {"message": message, "time": rfc3339(self._env.clock())}
        await self._env.client.update(_ATTACHMENTS, changed, subresource="status")

    def _say(self, volume: Obj, kind: str, reason: str, message: str) -> None:
        for pod in self._users(volume):
            if pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]:
                self._events.event(pod, kind, reason, message)

    async def _show_on_node(self, name: str, without: str = "") -> None:
        node = self._nodes.get("", name)
        if node is None:
            return
        attachments = [a for a in self._attachments.by_index("node", name) if a["metadata"]["name"] != without]
        volumes = {v["metadata"]["name"]: v for v in self._volumes.items()}
        wanted = core.volumes_attached(name, attachments, volumes)
        if ((node.get("status") or {}).get("volumesAttached") or []) == wanted:
            return
        patch = {"metadata": {"uid": node["metadata"]["uid"]}, "status": {"volumesAttached": wanted or None}}
        with ignore_not_found():
            await self._env.client.patch("nodes", name, patch, subresource="status")


def _volume_of(attachment: Obj) -> list[str]:
    name = attachment["spec"]["source"].get("persistentVolumeName")
    return [name] if name else []


def _node_of(attachment: Obj) -> list[str]:
    return [attachment["spec"]["nodeName"]]


def _concerns(node: Obj) -> tuple[object, ...]:
    return (
        node["metadata"]["uid"],
        (node.get("status") or {}).get("volumesInUse"),
        [t["key"] for t in node["spec"].get("taints") or []],
    )
