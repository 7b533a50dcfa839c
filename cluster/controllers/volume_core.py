"""Which PersistentVolume a claim gets, and what both have to say: pure decisions of the binder.

Pure. Source: kubernetes pkg/controller/volume/persistentvolume (index.go, pv_controller.go). A binding is true when
both sides say so: the volume's spec.claimRef names the claim (and its uid), the claim's spec.volumeName the volume. The
volume's side is written first, so of two claims that want one volume only one can win (compare-and-swap on it).

     Available ──claimRef set──> Bound ──claim gone──> Released ──policy Delete──> deleted
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction

from cluster.api.quantity import parse_quantity
from cluster.api.selectors import from_label_selector
from cluster.machinery.client import Obj

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
STORAGE_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
PVC_FINALIZER = "kubernetes.io/pvc-protection"
PV_FINALIZER = "kubernetes.io/pv-protection"
DRIVER = "block.sk8.io"


def capacity(obj: Obj) -> Fraction:
    """A volume's capacity or a claim's request, in bytes."""
    spec = obj["spec"]
    amount = (spec.get("capacity") or (spec.get("resources") or {}).get("requests") or {}).get("storage", 0)
    return parse_quantity(amount)


def class_of(obj: Obj) -> str:
    """storageClassName or the old annotation; "" for none."""
    legacy = (obj["metadata"].get("annotations") or {}).get("volume.beta.kubernetes.io/storage-class")
    return str(legacy if legacy is not None else obj["spec"].get("storageClassName") or "")


def is_bound_to(volume: Obj, claim: Obj) -> bool:
    """The volume is reserved for exactly this claim (a claimRef without uid was written by a user, for the name)."""
    ref = volume["spec"].get("claimRef")
    meta = claim["metadata"]
    if not ref or ref.get("name") != meta["name"] or ref.get("namespace") != meta["namespace"]:
        return False
    return not ref.get("uid") or bool(ref["uid"] == meta["uid"])


def misfit(volume: Obj, claim: Obj) -> str:
    """Why the volume cannot serve the claim; "" when it can."""
    if capacity(volume) < capacity(claim):
        return "requested PV is too small"
    if class_of(volume) != class_of(claim):
        return "storageClassName does not match"
    if volume["spec"].get("volumeMode", "Filesystem") != claim["spec"].get("volumeMode", "Filesystem"):
        return "incompatible volumeMode"
    if not set(claim["spec"].get("accessModes") or []) <= set(volume["spec"].get("accessModes") or []):
        return "incompatible accessMode"
    return ""


def find_volume(claim: Obj, volumes: Sequence[Obj]) -> Obj | None:
    """The volume reserved for the claim, else the smallest free one that fits."""
    selector = claim["spec"].get("selector")
    matches = from_label_selector(selector).matches if selector else None
    best: Obj | None = None
    for volume in sorted(volumes, key=lambda v: (capacity(v), v["metadata"]["name"])):
        if "deletionTimestamp" in volume["metadata"]:
            continue
        ref = volume["spec"].get("claimRef")
        if ref:
            if is_bound_to(volume, claim) and not misfit(volume, claim):
                return volume
            continue
        if (volume.get("status") or {}).get("phase", "Available") not in ("Available", "Pending"):
            continue
        if best is None and not misfit(volume, claim):
            if matches is not None and not matches(volume["metadata"].get("labels") or {}):
                continue
            best = volume
    return best


def default_class(classes: Sequence[Obj]) -> Obj | None:
    """The newest of those marked as default."""
    marked = [c for c in classes if (c["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"]
    return max(marked, key=lambda c: (c["metadata"].get("creationTimestamp", ""), c["metadata"]["name"]), default=None)


def claim_ref(claim: Obj) -> Obj:
    meta = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
        "resourceVersion": meta.get("resourceVersion", ""),
    }


def volume_name(claim: Obj) -> str:
    """The dynamically provisioned volume's name, and its disk's."""
    return f"pvc-{claim['metadata']['uid']}"


def disk_size_bytes(claim: Obj) -> int:
    """The request, rounded up to whole MiB (at least one)."""
    mib = 1 << 20
    wanted = capacity(claim)
    return max(-(-int(-(-wanted.numerator // wanted.denominator)) // mib), 1) * mib


def unprovisionable(claim: Obj) -> str:
    """Why no disk can be what the claim asks for; "" when one can. A disk is on one machine at a time."""
    modes = sorted(set(claim["spec"].get("accessModes") or []) - {"ReadWriteOnce", "ReadWriteOncePod"})
    if modes:
        return (
            f"invalid AccessModes [{' '.join(modes)}]: only AccessModes [ReadWriteOnce ReadWriteOncePod] are supported"
        )
    if claim["spec"].get("volumeMode") == "Block":
        return f"{DRIVER} does not support block volume provisioning"
    return ""


def provisioned_volume(claim: Obj, storage_class: Obj, provisioner: str) -> Obj:
    """The PersistentVolume of a disk made for the claim; already reserved for it."""
    name = volume_name(claim)
    parameters = storage_class.get("parameters") or {}
    mode = claim["spec"].get("volumeMode", "Filesystem")
    source: Obj = {
        "driver": DRIVER,
        "volumeHandle": name,
        "volumeAttributes": {"storage.kubernetes.io/csiProvisionerIdentity": provisioner},
    }
    if mode == "Filesystem":
        source["fsType"] = parameters.get("csi.storage.k8s.io/fstype") or parameters.get("fsType") or "ext4"
    spec: Obj = {
        "accessModes": list(claim["spec"].get("accessModes") or ["ReadWriteOnce"]),
        "capacity": {"storage": (claim["spec"].get("resources") or {}).get("requests", {}).get("storage")},
        "claimRef": claim_ref(claim),
        "csi": source,
        "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy") or "Delete",
        "storageClassName": storage_class["metadata"]["name"],
        "volumeMode": mode,
    }
    if storage_class.get("mountOptions"):
        spec["mountOptions"] = storage_class["mountOptions"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: provisioner},
            "finalizers": [PV_FINALIZER],
        },
        "spec": spec,
    }


# ---- attach and detach


def unique_name(volume: Obj) -> str:
    """As in node.status.volumesInUse and volumesAttached: `kubernetes.io/csi/<driver>^<handle>`."""
    csi = volume["spec"].get("csi") or {}
    return f"kubernetes.io/csi/{csi.get('driver', '')}^{csi.get('volumeHandle', '')}"


def attachment_name(volume: Obj, node: str) -> str:
    """The VolumeAttachment of a volume on a node; Kubernetes' csi-<sha256 of handle, driver and node>."""
    csi = volume["spec"]["csi"]
    digest = hashlib.sha256(f"{csi['volumeHandle']}{csi['driver']}{node}".encode()).hexdigest()
    return f"csi-{digest}"


def pod_claims(pod: Obj) -> list[str]:
    """Names of the claims a pod uses, its ephemeral volumes' included."""
    names = []
    for volume in pod["spec"].get("volumes") or []:
        if volume.get("persistentVolumeClaim"):
            names.append(volume["persistentVolumeClaim"]["claimName"])
        elif volume.get("ephemeral"):
            names.append(f"{pod['metadata']['name']}-{volume['name']}")
    return names
