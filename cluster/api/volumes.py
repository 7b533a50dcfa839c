"""What a PersistentVolume is made of, in the words of CSI: whose disk it is, what it is called, how it is named.

Pure. Source: CSI's names in Kubernetes (pkg/volume/csi) and its csi-translation-lib: an `awsElasticBlockStore` volume
is the same disk as one of the driver ebs.csi.aws.com, so that from here on there is one form of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]

BLOCK = "block.sk8.io"
EBS = "ebs.csi.aws.com"
LOCAL_PATH = "local-path.sk8.io"
DISK_DRIVERS = (BLOCK, EBS)
"""Drivers whose disks the cluster attaches to machines, one at a time, and the kubelets mount."""
LOCAL_DEVICE = "local-volume"
"""No driver: a local PersistentVolume's device, which belongs to its machine for good."""
_IN_TREE = {"kubernetes.io/aws-ebs": EBS}


def driver_of(provisioner: str) -> str:
    """The CSI driver behind a StorageClass's provisioner; the old names of Kubernetes' own are known."""
    return _IN_TREE.get(provisioner, provisioner)


@dataclass(frozen=True, slots=True)
class DiskSource:
    """A disk as `driver` calls it. `partition`: the one that is meant, "" for the whole disk."""

    driver: str
    handle: str
    fstype: str = "ext4"
    read_only: bool = False
    partition: str = ""

    @property
    def unique_name(self) -> str:
        """As in node.status.volumesInUse and volumesAttached."""
        return f"kubernetes.io/csi/{self.driver}^{self.handle}"

    def attachment_name(self, node: str) -> str:
        """The name Kubernetes gives the VolumeAttachment of a CSI volume on a node."""
        return "csi-" + hashlib.sha256(f"{self.handle}{self.driver}{node}".encode()).hexdigest()


def csi_source(volume: Obj) -> DiskSource | None:
    """The disk of a PersistentVolume, whoever's it is; None for one that is no CSI volume and never was."""
    spec = volume["spec"]
    csi, ebs = spec.get("csi"), spec.get("awsElasticBlockStore")
    if csi:
        partition = str((csi.get("volumeAttributes") or {}).get("partition") or "")
        return DiskSource(
            csi["driver"], csi["volumeHandle"], csi.get("fsType") or "ext4", bool(csi.get("readOnly")), partition
        )
    if ebs:
        handle = str(ebs["volumeID"]).rpartition("/")[2]  # "vol-1" or "aws://us-east-1a/vol-1"
        partition = str(ebs.get("partition") or "")
        return DiskSource(EBS, handle, ebs.get("fsType") or "ext4", bool(ebs.get("readOnly")), partition)
    return None


def disk_source(volume: Obj) -> DiskSource | None:
    """As `csi_source`, but only of the drivers that are ours to attach and mount."""
    source = csi_source(volume)
    return source if source is not None and source.driver in DISK_DRIVERS else None


def local_device(volume: Obj) -> DiskSource:
    """The file system on the device of a local PersistentVolume, whose path is one."""
    local = volume["spec"]["local"]
    return DiskSource(LOCAL_DEVICE, str(local["path"]), local.get("fsType") or "ext4")


def is_block(volume: Obj) -> bool:
    """Used as a device, without a file system (spec.volumeMode of a PersistentVolume or a claim)."""
    return bool(volume["spec"].get("volumeMode") == "Block")
