"""A pod's volumes on its machine: mounted before its containers start, kept current, taken away after them.

IO: the kubelet's directory, mounts, the Client. One method per volume type, in a table. Layout as the kubelet's:
`<root>/pods/<uid>/volumes/kubernetes.io~<type>/<name>`. Secrets, projected volumes and memory-backed emptyDirs are
tmpfs: they never reach a disk. Every step can be repeated. Invariant: nothing is removed recursively below a mount.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cluster.api.errors import ApiError
from cluster.api.quantity import units
from cluster.machinery.client import Client
from cluster.node import mounts, subpaths
from cluster.node.disk_use import tree
from cluster.node.host_path import check_host_path
from cluster.node.object_cache import ObjectCache
from cluster.node.pod_env import ConfigError, EnvContext
from cluster.node.runtime import DiskUse
from cluster.node.volume_block import BlockVolumes
from cluster.node.volume_claims import ClaimVolumes, Say, claim_of
from cluster.node.volume_device import RawDevice, VolumeFailure
from cluster.node.volume_files import FileContent, Payload, downward_payload, object_payload, write_atomically
from cluster.node.volume_tokens import PodTokens

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_T = TypeVar("_T")
_DEFAULT_MODE = 0o644
_TMPFS_FLAGS = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC


@dataclass(frozen=True, slots=True)
class MountedVolumes:
    """Where each volume of a pod is, and which of them may only be read; `devices` has those in mode Block."""

    paths: Mapping[str, str]
    read_only: frozenset[str]
    devices: Mapping[str, RawDevice] = field(default_factory=dict)


class Volumes:
    """All pods' volumes on one machine."""

    def __init__(
        self,
        client: Client,
        node: str,
        root: str,
        *,
        cache: ObjectCache,
        report_in_use: Callable[[list[str]], Awaitable[None]],
        clock: Callable[[], float],
        allocatable: Mapping[str, int],
        say: Say = lambda pod, kind, reason, message: None,
    ) -> None:
        """`say` takes the Events of what happens to a pod's volumes while it runs."""
        self._root = Path(root)
        self._cache = cache
        self._tokens = PodTokens(client, clock)
        self.block = BlockVolumes(client, node, root, report_in_use)
        self._allocatable = allocatable
        self._claims = ClaimVolumes(client, cache, self.block, say)
        self._types: dict[str, Callable[[Obj, Obj], Awaitable[str | RawDevice]]] = {
            "emptyDir": self._empty_dir,
            "hostPath": self._host_path,
            "configMap": self._config_map,
            "secret": self._secret,
            "projected": self._projected,
            "downwardAPI": self._downward,
            "persistentVolumeClaim": self._claim,
            "ephemeral": self._claim,
        }

    def pod_dir(self, uid: str) -> Path:
        return self._root / "pods" / uid

    async def mount(self, pod: Obj) -> MountedVolumes:
        """Mount all of a pod's volumes at once; repeatable. Raises VolumeFailure."""
        volumes = pod["spec"].get("volumes") or ()
        self.pod_dir(pod["metadata"]["uid"]).mkdir(parents=True, exist_ok=True)
        results = await asyncio.gather(*(self._mount_one(pod, v) for v in volumes), return_exceptions=True)
        for result in results:
            if isinstance(result, VolumeFailure) and not result.waiting:
                raise result
        paths: dict[str, str] = {}
        devices: dict[str, RawDevice] = {}
        for volume, result in zip(volumes, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, RawDevice):
                devices[volume["name"]] = result
            else:
                paths[volume["name"]] = result
        return MountedVolumes(paths, frozenset(v["name"] for v in volumes if _read_only(v)), devices)

    async def refresh(self, pod: Obj) -> None:
        """Bring volumes made of API objects up to date, and grow those that were made larger. Raises VolumeFailure."""
        live = ("configMap", "secret", "projected", "downwardAPI")
        for volume in pod["spec"].get("volumes") or ():
            if any(kind in volume for kind in live):
                await self._mount_one(pod, volume)
            elif claim_of(pod, volume):
                await self._guarded(volume["name"], self._claims.refresh(pod, volume))

    async def release(self, uid: str) -> None:
        """Unmount everything of a pod, and empty what was its own alone. Raises OSError when something is busy."""
        self._tokens.forget(uid)
        self._claims.forget(uid)
        directory = self.pod_dir(uid)
        await asyncio.to_thread(_unmount_below, directory / subpaths.DIRECTORY)  # they hold the volumes they are of
        claims = [
            e.target for e in await asyncio.to_thread(mounts.below, str(directory)) if "kubernetes.io~csi" in e.target
        ]
        for target in claims:
            await self.block.unmount(target)
        await self.block.withdraw(uid)
        await asyncio.to_thread(_unmount_below, directory)
        await asyncio.to_thread(_remove_tree, directory / "volumes")

    def usage(self, pod: Obj) -> tuple[dict[str, DiskUse], frozenset[str]]:
        """What each emptyDir of a pod holds, and which of them are memory. Blocking: directories are walked."""
        used: dict[str, DiskUse] = {}
        memory = set()
        for volume in pod["spec"].get("volumes") or ():
            if "emptyDir" in volume:
                used[volume["name"]] = tree(str(self._dir(pod, "empty-dir", volume["name"])))
                if (volume["emptyDir"] or {}).get("medium") == "Memory":
                    memory.add(volume["name"])
        return used, frozenset(memory)

    async def remove(self, uid: str) -> None:
        """Remove a pod's directory, after `release`. Raises OSError while anything is mounted below it."""
        await asyncio.to_thread(_remove_tree, self.pod_dir(uid))

    def known(self) -> list[str]:
        """The uids that have a directory here."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self._root / "pods"))
        return []

    # ------------------------------------------------------------ types

    async def _mount_one(self, pod: Obj, volume: Obj) -> str | RawDevice:
        name = volume["name"]
        method = next((m for kind, m in self._types.items() if kind in volume), None)
        if method is None:
            kinds = ", ".join(sorted(set(volume) - {"name"})) or "none"
            raise VolumeFailure(f'volume "{name}": type {kinds} is not supported by this kubelet')
        return await self._guarded(name, method(pod, volume))

    @staticmethod
    async def _guarded(name: str, work: Awaitable[_T]) -> _T:
        """What goes wrong with a volume is said in its name."""
        try:
            return await work
        except VolumeFailure as err:
            raise VolumeFailure(_failed(name, err), waiting=err.waiting) from err
        except (ConfigError, OSError, ApiError) as err:
            raise VolumeFailure(_failed(name, err)) from err

    def _dir(self, pod: Obj, kind: str, name: str) -> Path:
        return self.pod_dir(pod["metadata"]["uid"]) / "volumes" / f"kubernetes.io~{kind}" / name

    async def _empty_dir(self, pod: Obj, volume: Obj) -> str:
        source = volume["emptyDir"] or {}
        medium = source.get("medium") or ""
        if medium not in ("", "Memory"):
            raise VolumeFailure(f"emptyDir medium {medium} is not supported by this kubelet")
        target = self._dir(pod, "empty-dir", volume["name"])
        size = f"size={units(source['sizeLimit'])}" if source.get("sizeLimit") and medium == "Memory" else ""

        def make() -> None:
            target.mkdir(parents=True, exist_ok=True)
            if medium == "Memory" and not mounts.is_mounted(str(target)):
                mounts.mount("tmpfs", str(target), "tmpfs", mounts.MS_NOSUID | mounts.MS_NODEV, size)
            # A tmpfs is made sticky (1777), and stays so, as with Kubernetes' kubelet.
            target.chmod(stat.S_IMODE(target.stat().st_mode) & stat.S_ISVTX | 0o777)
            _own(target, _fs_group(pod), recursive=False)

        await asyncio.to_thread(make)
        return str(target)

    async def _host_path(self, pod: Obj, volume: Obj) -> str:
        source = volume["hostPath"]
        await asyncio.to_thread(check_host_path, source["path"], source.get("type") or "")
        return str(source["path"])

    async def _config_map(self, pod: Obj, volume: Obj) -> str:
        source = volume["configMap"]
        obj = await self._cache.get("configmaps", pod["metadata"]["namespace"], source.get("name", ""))
        payload = object_payload(obj, "configmap", source, _mode(source))
        return await self._write(pod, self._dir(pod, "configmap", volume["name"]), payload, memory=False)

    async def _secret(self, pod: Obj, volume: Obj) -> str:
        source = volume["secret"]
        obj = await self._cache.get("secrets", pod["metadata"]["namespace"], source.get("secretName", ""))
        payload = object_payload(obj, "secret", source, _mode(source))
        return await self._write(pod, self._dir(pod, "secret", volume["name"]), payload, memory=True)

    async def _downward(self, pod: Obj, volume: Obj) -> str:
        source = volume["downwardAPI"]
        payload = downward_payload(source.get("items") or [], self._context(pod), _mode(source))
        return await self._write(pod, self._dir(pod, "downward-api", volume["name"]), payload, memory=False)

    async def _projected(self, pod: Obj, volume: Obj) -> str:
        projected = volume["projected"]
        mode, payload = _mode(projected), Payload()
        for source in projected.get("sources") or ():
            payload.update(await self._projection(pod, source, mode))
        return await self._write(pod, self._dir(pod, "projected", volume["name"]), payload, memory=True)

    async def _projection(self, pod: Obj, source: Obj, mode: int) -> Payload:
        namespace = pod["metadata"]["namespace"]
        if "serviceAccountToken" in source:
            token = source["serviceAccountToken"]
            value = await self._tokens.token(pod, token)
            return {str(token["path"]): FileContent(value.encode(), mode)}
        if "configMap" in source:
            obj = await self._cache.get("configmaps", namespace, source["configMap"].get("name", ""))
            return object_payload(obj, "configmap", source["configMap"], mode)
        if "secret" in source:
            obj = await self._cache.get("secrets", namespace, source["secret"].get("name", ""))
            return object_payload(obj, "secret", source["secret"], mode)
        if "downwardAPI" in source:
            return downward_payload(source["downwardAPI"].get("items") or [], self._context(pod), mode)
        raise VolumeFailure(f"projected source {', '.join(sorted(source))} is not supported by this kubelet")

    async def _claim(self, pod: Obj, volume: Obj) -> str | RawDevice:
        found = await self._claims.mount(pod, volume, self._dir(pod, "csi", volume["name"]) / "mount")
        if isinstance(found, RawDevice):
            return found
        # The machine's own files are not given away.
        group = None if found.of_machine else _fs_group(pod)
        if group is not None and not found.read_only:
            policy = (pod["spec"].get("securityContext") or {}).get("fsGroupChangePolicy")
            mismatch = policy == "OnRootMismatch"
            await asyncio.to_thread(_own, Path(found.path), group, recursive=True, only_on_mismatch=mismatch)
        return found.path

    async def _write(self, pod: Obj, target: Path, payload: Payload, *, memory: bool) -> str:
        group = _fs_group(pod)

        def write() -> None:
            target.mkdir(parents=True, exist_ok=True)
            if memory and not mounts.is_mounted(str(target)):
                mounts.mount("tmpfs", str(target), "tmpfs", _TMPFS_FLAGS, "mode=0755")
            write_atomically(str(target), payload, group)

        await asyncio.to_thread(write)
        return str(target)

    def _context(self, pod: Obj) -> EnvContext:
        return EnvContext(pod=pod, pod_ip="", node_ip="", allocatable=self._allocatable)


# ---------------------------------------------------------------- helpers


def _failed(name: str, err: Exception) -> str:
    text = err.message if isinstance(err, ApiError) else str(err)
    return f'MountVolume.SetUp failed for volume "{name}" : {text}'


def _read_only(volume: Obj) -> bool:
    if any(kind in volume for kind in ("configMap", "secret", "projected", "downwardAPI")):
        return True
    return bool((volume.get("persistentVolumeClaim") or {}).get("readOnly"))


def _mode(source: Obj) -> int:
    mode = source.get("defaultMode")
    return _DEFAULT_MODE if mode is None else int(mode)


def _fs_group(pod: Obj) -> int | None:
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    return None if group is None else int(group)


def _own(target: Path, group: int | None, *, recursive: bool, only_on_mismatch: bool = False) -> None:
    """Give a volume to fsGroup: group-owned, group-writable, new files inherit the group."""
    if group is None:
        return
    root = target.stat()
    if only_on_mismatch and root.st_gid == group and root.st_mode & stat.S_ISGID:
        return
    os.chown(target, -1, group)
    target.chmod(stat.S_IMODE(target.stat().st_mode) | 0o2770)
    if not recursive:
        return
    for directory, names, files in os.walk(target):
        for name in names + files:
            path = Path(directory) / name
            if path.is_symlink():
                os.lchown(path, -1, group)
                continue
            os.chown(path, -1, group)
            extra = 0o2770 if path.is_dir() else 0o660
            path.chmod(stat.S_IMODE(path.stat().st_mode) | extra)


def _unmount_below(directory: Path) -> None:
    for entry in mounts.below(str(directory)):
        mounts.unmount(entry.target)


def _remove_tree(directory: Path) -> None:
    still = mounts.below(str(directory))
    if still:
        raise OSError(f"{still[0].target} is still mounted")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)
