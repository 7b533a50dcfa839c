"""What becomes of a volume whose claim is gone: its disk deleted, its directory emptied, or nothing.

IO only through the injected Client and `Disks`. Retain: it stays Released until somebody deletes it. Delete: the disk
goes once it is detached, then the PersistentVolume. Recycle (hostPath only, as in Kubernetes): its files go, and it is
Available again. Files of a machine are removed by a pod there, since nobody else can reach them; it is named after the
volume, so that there is one, and what it ended with is what happened.
"""

from __future__ import annotations

from typing import Literal

from cluster.api.errors import ApiError
from cluster.api.volumes import LOCAL_PATH, csi_source
from cluster.controllers import volume_core as core
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, ignore_not_found, is_already_exists
from cluster.machinery.provider import ProviderError

_VOLUMES = "persistentvolumes"
NAMESPACE = "kube-system"
_POD = "recycler-for-"
IMAGE = "sk8/pause:1"  # on every machine, and it has busybox
_SCRUB = 'rm -rf /scrub/..?* /scrub/.[!.]* /scrub/* && test -z "$(ls -A /scrub)"'
Outcome = Literal["done", "waiting"]


class CannotReclaim(Exception):
    """`retriable`: the same may succeed later."""

    def __init__(self, reason: str, message: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.retriable = retriable


class Reclaimer:
    """Idempotent; `done` means that nothing of the volume is left to be done."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._pods = env.informer("pods")

    async def reclaim(self, volume: Obj) -> Outcome:
        """Raises CannotReclaim, ApiError."""
        policy = volume["spec"].get("persistentVolumeReclaimPolicy")
        if policy == "Delete":
            return await self._delete(volume)
        if policy == "Recycle":
            return await self._recycle(volume)
        return "done"

    async def tidy(self, name: str) -> None:
        """A volume that is gone or free again needs its pod no more: one may be made while it is just going."""
        pod = self._pods.get(NAMESPACE, f"{_POD}{name}")
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        with ignore_not_found():
            await self._env.client.delete("pods", f"{_POD}{name}", NAMESPACE, uid=pod["metadata"]["uid"])

    # ---- Delete

    async def _delete(self, volume: Obj) -> Outcome:
        provisioner = (volume["metadata"].get("annotations") or {}).get(core.PROVISIONED_BY, "")
        source = csi_source(volume)
        if source is not None:
            disks = self._env.outside.disks.get(source.driver)
            if disks is None or not (provisioner or "awsElasticBlockStore" in volume["spec"]):
                return "waiting"  # for whoever made it
            try:
                await disks.delete_disk(source.handle)
            except ProviderError as err:
                raise CannotReclaim("VolumeFailedDelete", str(err), retriable=True) from err
        elif provisioner == LOCAL_PATH:
            if not await self._emptied(volume, "VolumeFailedDelete"):
                return "waiting"
        elif provisioner:
            return "waiting"
        else:
            name = volume["metadata"]["name"]
            why = f'error getting deleter volume plugin for volume "{name}": no deletable volume plugin matched'
            raise CannotReclaim("VolumeFailedDelete", why)
        meta = volume["metadata"]
        with ignore_not_found():
            await self._env.client.delete(_VOLUMES, meta["name"], uid=meta["uid"])
        return "done"

    # ---- Recycle

    async def _recycle(self, volume: Obj) -> Outcome:
        if "hostPath" not in volume["spec"]:
            raise CannotReclaim("VolumeFailedRecycle", "no recyclable volume plugin matched: use Retain or Delete")
        if not await self._emptied(volume, "VolumeFailedRecycle"):
            return "waiting"
        changed = clone(volume)
        ref = changed["spec"].pop("claimRef")
        if changed["metadata"].get("annotations", {}).pop(core.BOUND_BY_CONTROLLER, None) is None:
            # A user wrote for which claim it is: it stays so, for another claim of that name.
            changed["spec"]["claimRef"] = {k: v for k, v in ref.items() if k not in ("uid", "resourceVersion")}
        await self._env.client.update(_VOLUMES, changed)
        return "done"

    # ---- the pod that removes files

    async def _emptied(self, volume: Obj, reason: str) -> bool:
        """Whether its pod has removed the volume's files and is gone itself."""
        wanted = scrub_pod(volume)
        name = wanted["metadata"]["name"]
        pod = self._pods.get(NAMESPACE, name)
        if pod is None:
            try:
                await self._env.client.create("pods", wanted, NAMESPACE)
            except ApiError as err:
                if not is_already_exists(err):
                    raise
            return False
        phase = (pod.get("status") or {}).get("phase")
        if phase not in ("Succeeded", "Failed") or "deletionTimestamp" in pod["metadata"]:
            return False
        await self._env.client.delete("pods", name, NAMESPACE, uid=pod["metadata"]["uid"])
        if phase == "Failed":
            raise CannotReclaim(reason, f"pod {name} could not remove the files", retriable=True)
        return True


def scrub_pod(volume: Obj) -> Obj:
    """A pod where the volume is, which leaves nothing in its directory, nor a directory that was made for it."""
    name, spec = volume["metadata"]["name"], volume["spec"]
    path, command = spec["hostPath"]["path"], _SCRUB
    if (volume["metadata"].get("annotations") or {}).get(core.PROVISIONED_BY) == LOCAL_PATH:
        path, _, own = path.rpartition("/")
        command = f"rm -rf '/scrub/{own}'"
    pod: Obj = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 600,
        "containers": [
            {
                "name": "recycler",
                "image": IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/busybox", "sh", "-c", command],
                "volumeMounts": [{"name": "vol", "mountPath": "/scrub"}],
            }
        ],
        "volumes": [{"name": "vol", "hostPath": {"path": path}}],
        "tolerations": [{"operator": "Exists"}],
    }
    if required := (spec.get("nodeAffinity") or {}).get("required"):
        pod["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    meta = {"name": f"{_POD}{name}", "namespace": NAMESPACE, "labels": {"sk8.io/recycler-for": name[:63]}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod}


def recycled_volume(pod: Obj) -> str:
    """The volume whose files this pod removes, "" for any other pod."""
    name = pod["metadata"]["name"]
    ours = pod["metadata"].get("namespace") == NAMESPACE and name.startswith(_POD)
    return name.removeprefix(_POD) if ours else ""
