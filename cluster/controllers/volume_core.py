"""Which PersistentVolume a claim gets, and what both have to say: pure decisions of the binder.

Pure. Source: kubernetes pkg/controller/volume/persistentvolume (index.go, pv_controller.go). A binding is true when
both sides say so: the volume's spec.claimRef names the claim (and its uid), the claim's spec.volumeName the volume. The
volume's side is written first, so of two claims that want one volume only one can win (compare-and-swap on it).

     Available ──claimRef set──> Bound ──claim gone──> Released ──policy Delete──> deleted
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from cluster.api.quantity import parse_quantity
from cluster.api.selectors import from_label_selector
from cluster.api.volumes import DISK_DRIVERS, driver_of, is_block
from cluster.machinery.client import Obj
from cluster.machinery.provider import MadeDisk

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
STORAGE_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
PVC_FINALIZER = "kubernetes.io/pvc-protection"
PV_FINALIZER = "kubernetes.io/pv-protection"


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


def find_volume(claim: Obj, volumes: Sequence[Obj], *, reserved_only: bool = False) -> Obj | None:
    """The volume reserved for the claim, else the smallest free one that fits. `reserved_only`: the scheduler, which
    knows from which node it has to be reached, chooses among the free ones."""
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
        if best is None and not reserved_only and not misfit(volume, claim):
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


def bytes_of(amount: Fraction) -> int:
    """Rounded up to whole bytes."""
    return -(-amount.numerator // amount.denominator)


def quantity_of(size_bytes: int, asked: str) -> str:
    """The size as users write it: what was asked for if that is what it is, else in the largest unit that fits."""
    if parse_quantity(asked) == size_bytes:
        return asked
    for unit, shift in (("Gi", 30), ("Mi", 20), ("Ki", 10)):
        if size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{unit}"
    return str(size_bytes)


def unprovisionable(claim: Obj, driver: str) -> str:
    """Why no disk can be what the claim asks for; "" when one can. A disk is on one machine at a time."""
    modes = sorted(set(claim["spec"].get("accessModes") or []) - {"ReadWriteOnce", "ReadWriteOncePod"})
    if modes:
        return (
            f"invalid AccessModes [{' '.join(modes)}]: only AccessModes [ReadWriteOnce ReadWriteOncePod] are supported"
        )
    if is_block(claim) and driver not in DISK_DRIVERS:
        return f"{driver} does not support block volume provisioning"
    return ""


def provisioned_volume(claim: Obj, storage_class: Obj, made: MadeDisk) -> Obj:
    """The PersistentVolume of a disk made for the claim; already reserved for it."""
    asked = (claim["spec"].get("resources") or {}).get("requests", {}).get("storage")
    spec: Obj = {
        "accessModes": list(claim["spec"].get("accessModes") or ["ReadWriteOnce"]),
        "capacity": {"storage": quantity_of(made.size_bytes, asked)},
        "claimRef": claim_ref(claim),
        "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy") or "Delete",
        "storageClassName": storage_class["metadata"]["name"],
        "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
        **(made.source or {"csi": _csi(claim, storage_class, made)}),
    }
    if storage_class.get("mountOptions"):
        spec["mountOptions"] = storage_class["mountOptions"]
    if made.topology:
        terms = [{"key": k, "operator": "In", "values": [v]} for k, v in sorted(made.topology.items())]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": terms}]}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": {PROVISIONED_BY: storage_class["provisioner"]},
            "finalizers": [PV_FINALIZER],
        },
        "spec": spec,
    }


def _csi(claim: Obj, storage_class: Obj, made: MadeDisk) -> Obj:
    provisioner, parameters = storage_class["provisioner"], storage_class.get("parameters") or {}
    source: Obj = {
        "driver": driver_of(provisioner),
        "volumeHandle": made.handle,
        "volumeAttributes": {"storage.kubernetes.io/csiProvisionerIdentity": provisioner},
    }
    if not is_block(claim):
        source["fsType"] = parameters.get("csi.storage.k8s.io/fstype") or parameters.get("fsType") or "ext4"
    return source


def pod_claims(pod: Obj) -> list[str]:
    """Names of the claims a pod uses, its ephemeral volumes' included."""
    names = []
    for volume in pod["spec"].get("volumes") or []:
        if volume.get("persistentVolumeClaim"):
            names.append(volume["persistentVolumeClaim"]["claimName"])
        elif volume.get("ephemeral"):
            names.append(f"{pod['metadata']['name']}-{volume['name']}")
    return names
