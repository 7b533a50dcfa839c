"""Volumes that are directories of a machine's own disk: the driver `local-path.sk8.io`.

Pure. Nothing is made ahead: the kubelet makes the directory when the first pod comes (hostPath, DirectoryOrCreate), and
a pod there removes it (`volume_reclaim`). The volume stays where its first pod ran, so a class of this driver has to
wait for that (WaitForFirstConsumer). A directory has no size: what is asked for is noted, and not enforced.
"""

from __future__ import annotations

from cluster.machinery.provider import DiskWish, MadeDisk, ProviderError

HOSTNAME = "kubernetes.io/hostname"


class LocalPathDisks:
    """Fulfils Disks. `directory` has `{node}` where the machine's name belongs."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    async def create_disk(self, wish: DiskWish) -> MadeDisk:
        if not wish.node:
            raise ProviderError("no node was chosen: use a StorageClass with volumeBindingMode WaitForFirstConsumer")
        path = f"{self._directory.replace('{node}', wish.node)}/{wish.name}"
        source = {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}
        topology = {HOSTNAME: wish.labels.get(HOSTNAME, wish.node)}
        return MadeDisk(wish.name, wish.size_bytes, source, topology)

    async def grow_disk(self, handle: str, size_bytes: int) -> int:
        return size_bytes

    async def delete_disk(self, handle: str) -> None:
        """Its files go by a pod on its machine."""

    async def attach_disk(self, handle: str, machine: str) -> str:
        raise ProviderError(f"{handle} is a directory: there is nothing to attach", retriable=False)

    async def detach_disk(self, handle: str, machine: str) -> None:
        """Nothing was attached."""
