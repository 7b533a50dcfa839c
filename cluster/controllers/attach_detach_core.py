"""Which volumes belong on which machines, and which may leave: the pure part of attach and detach.

Pure. Invariants:
- a volume is wanted on a node while a pod that is not finished is bound there and uses it (a terminating pod too: the
  kubelet still has it mounted);
- a volume leaves a node only when no such pod is left and the kubelet no longer lists it in use, or the node is gone by
  proof (out of service, or no longer exists);
- a disk is attached to one machine at a time: while any attachment of it exists elsewhere, no other is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.api.pods import is_terminal
from cluster.api.volumes import DiskSource, disk_source
from cluster.controllers.node_lifecycle_core import is_gone
from cluster.controllers.volume_core import pod_claims
from cluster.machinery.client import Obj


@dataclass(frozen=True, slots=True)
class Attach:
    """Make the VolumeAttachment of `volume` on `node`."""

    volume: Obj
    node: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """`volume` is wanted on `node` by `pods`, but is still attached to `holder`."""

    volume: Obj
    node: str
    holder: str
    pods: tuple[Obj, ...]


@dataclass(frozen=True, slots=True)
class Detach:
    """Remove the attachment; `why` is for people."""

    attachment: Obj
    why: str


@dataclass(frozen=True, slots=True)
class VolumePlan:
    attach: tuple[Attach, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    detach: tuple[Detach, ...] = ()


def plan_volume(
    volume: Obj, users: Sequence[Obj], attachments: Sequence[Obj], nodes: Mapping[str, Obj | None]
) -> VolumePlan:
    """What to do about one volume.

    `users`: pods that use it; `attachments`: of it; `nodes`: by name, None for one that does not exist.
    """
    if disk_source(volume) is None:
        return VolumePlan()
    wanted: dict[str, list[Obj]] = {}
    for pod in sorted(users, key=lambda p: (p["metadata"].get("creationTimestamp", ""), p["metadata"]["name"])):
        node = pod["spec"].get("nodeName", "")
        if node and not is_terminal(pod):
            wanted.setdefault(node, []).append(pod)
    detach = []
    for attachment in attachments:
        if "deletionTimestamp" in attachment["metadata"]:
            continue
        why = _may_leave(volume, attachment["spec"]["nodeName"], wanted, nodes)
        if why:
            detach.append(Detach(attachment, why))
    attach: list[Attach] = []
    blocked: list[Blocked] = []
    holders = [a["spec"]["nodeName"] for a in attachments]
    for node, pods in wanted.items():
        if node in holders:
            continue
        current = nodes.get(node)
        if holders:
            blocked.append(Blocked(volume, node, holders[0], tuple(pods)))
        elif current is not None and not is_gone(current) and _alive(pods):
            attach.append(Attach(volume, node))
            holders.append(node)
    return VolumePlan(tuple(attach), tuple(blocked), tuple(detach))


def _alive(pods: Sequence[Obj]) -> bool:
    """Nothing is attached for pods that are only on their way out."""
    return any("deletionTimestamp" not in p["metadata"] for p in pods)


def _may_leave(volume: Obj, node: str, wanted: Mapping[str, Sequence[Obj]], nodes: Mapping[str, Obj | None]) -> str:
    current = nodes.get(node)
    if current is None:
        return f"node {node} no longer exists"
    if is_gone(current):
        return f"node {node} is out of service"
    if node in wanted or in_use(current, volume):
        return ""
    return "no pod uses it there any more"


def in_use(node: Obj, volume: Obj) -> bool:
    """The kubelet of the node still lists the volume as mounted."""
    source = disk_source(volume)
    return source is not None and source.unique_name in ((node.get("status") or {}).get("volumesInUse") or [])


def attachment_for(volume: Obj, source: DiskSource, node: str) -> Obj:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttachment",
        "metadata": {
            "name": source.attachment_name(node),
            "finalizers": [finalizer_of(source.driver)],
        },
        "spec": {
            "attacher": source.driver,
            "nodeName": node,
            "source": {"persistentVolumeName": volume["metadata"]["name"]},
        },
    }


def finalizer_of(driver: str) -> str:
    """As the CSI attacher's: external-attacher/block-sk8-io."""
    return f"external-attacher/{driver.replace('.', '-')}"


def volumes_attached(node: str, attachments: Sequence[Obj], volumes: Mapping[str, Obj]) -> list[Obj]:
    """node.status.volumesAttached from the attachments that are done."""
    result = []
    for attachment in attachments:
        volume = volumes.get(attachment["spec"]["source"].get("persistentVolumeName", ""))
        status = attachment.get("status") or {}
        source = disk_source(volume) if volume is not None else None
        if source is None or attachment["spec"]["nodeName"] != node or not status.get("attached"):
            continue
        device = (status.get("attachmentMetadata") or {}).get("devicePath", "")
        result.append({"name": source.unique_name, "devicePath": device})
    return sorted(result, key=lambda v: str(v["name"]))


def users_of(claim_key: str, pods: Sequence[Obj]) -> list[Obj]:
    """Those of `pods` that use the claim `namespace/name`."""
    namespace, _, name = claim_key.partition("/")
    return [p for p in pods if p["metadata"]["namespace"] == namespace and name in pod_claims(p)]
