"""Pods from a directory of the machine, and their mirrors in the API.

IO: the directory, the API through the injected Client. Level-based: a pass compares the manifests, the workers and the
mirrors, and does what is missing; it runs when one of them changed, and now and then. The manifests are what is true: a
mirror that somebody deletes comes back, a pod goes when its file goes, with its grace.

    file --> static pod (uid: hash of the file) --worker--> containers
                 |                                 |
                 +-- mirror pod (the API's uid) <--+ status
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.machinery.client import Client, is_not_found
from cluster.machinery.clock import Clock
from cluster.node import core_events as ev
from cluster.node.inotify import DirectoryWatch
from cluster.node.pod_set import PodSet
from cluster.node.pod_worker import PodWorker
from cluster.node.static_spec import (
    HASH,
    MIRROR,
    ManifestError,
    annotation,
    full_name,
    is_static,
    mirror_of,
    static_pod,
)
from cluster.node.status_writer import StatusWriter

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_Name = tuple[str, str]
_RETRY_S = 1.0


class MirrorStatuses:
    """Where static pods' workers report: their statuses are written to their mirrors (seams.Statuses)."""

    def __init__(self, writer: StatusWriter) -> None:
        self._writer = writer
        self.mirrors: dict[_Name, Obj] = {}
        self._last: dict[str, tuple[Obj, Obj]] = {}

    def set(self, pod: Obj, status: Obj) -> None:
        self._last[pod["metadata"]["uid"]] = (pod, status)
        mirror = self._mirror(pod)
        if mirror is not None:
            self._writer.set(mirror, status)

    def seen(self, pod: Obj) -> None:
        """The API's view is the mirror's."""

    async def flush(self, uid: str) -> None:
        mirror = self._mirror(self._last[uid][0]) if uid in self._last else None
        if mirror is not None:
            await self._writer.flush(mirror["metadata"]["uid"])

    def forget(self, uid: str) -> None:
        self._last.pop(uid, None)

    def _mirror(self, pod: Obj) -> Obj | None:
        """The mirror of just this pod: one of an earlier manifest is not."""
        mirror = self.mirrors.get(full_name(pod))
        return mirror if mirror is not None and annotation(mirror, MIRROR) == pod["metadata"]["uid"] else None

    def on_mirror(self, old: Obj | None, new: Obj | None) -> None:
        """A mirror as the API has it now; a new one is told what is known."""
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            self._writer.forget(old["metadata"]["uid"])
            self.mirrors.pop(full_name(old), None)
        if new is None:
            return
        known = self.mirrors.get(full_name(new))
        self.mirrors[full_name(new)] = new
        if known is not None and known["metadata"]["uid"] == new["metadata"]["uid"]:
            self._writer.seen(new)
            return
        last = self._last.get(annotation(new, MIRROR))
        if last is not None:
            self._writer.set(new, last[1])


class StaticPods:
    """`node()`: this machine's Node, which owns the mirrors. No directory: no static pods, and mirrors are removed."""

    def __init__(
        self,
        directory: str,
        node_name: str,
        client: Client,
        statuses: MirrorStatuses,
        *,
        node: Callable[[], Obj | None],
        period_s: float,
        clock: Clock,
    ) -> None:
        self._directory = Path(directory) if directory else None
        self._node_name = node_name
        self._client = client
        self._statuses = statuses
        self._node = node
        self._period_s = period_s
        self._clock = clock
        self._wanted: dict[_Name, Obj] = {}
        self._by_file: dict[str, Obj] = {}
        self._complaints: dict[str, str] = {}
        self._wake = asyncio.Event()

    # ------------------------------------------------------------ the outside

    def pods(self) -> list[Obj]:
        """As of the last look at the directory."""
        return list(self._wanted.values())

    async def load(self) -> None:
        """Look at the directory. A file that is wrong keeps the pod it was: half written is not deleted."""
        if self._directory is not None:
            self._wanted = await asyncio.to_thread(self._read)

    def on_mirror(self, old: Obj | None, new: Obj | None) -> None:
        self._statuses.on_mirror(old, new)
        self._wake.set()

    def forgotten(self) -> None:
        """Nothing of some pod is left: another of its name may begin."""
        self._wake.set()

    async def run(self, pods: PodSet) -> None:
        """Returns only by cancellation."""
        if self._directory is None:
            await self._loop(pods)
            return
        await asyncio.to_thread(os.makedirs, self._directory, 0o755, True)
        with DirectoryWatch(str(self._directory)) as watch:
            watching = asyncio.create_task(self._follow(watch), name="manifests")
            try:
                await self._loop(pods)
            finally:
                watching.cancel()

    async def _loop(self, pods: PodSet) -> None:
        while True:
            self._wake.clear()  # before the directory is read: what changes meanwhile is met by the next pass
            await self.load()
            await self._pass(pods)

    async def _follow(self, watch: DirectoryWatch) -> None:
        while True:
            if await watch.changed(self._period_s):
                self._wake.set()

    async def _pass(self, pods: PodSet) -> None:
        """Do what is missing, then wait for a change."""
        wait = self._period_s
        self._workers(pods)
        try:
            await self._mirrors(pods)
        except ApiError as err:
            log.warning("mirror pods: %s", err.message)
            wait = _RETRY_S
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            return

    # ------------------------------------------------------------ the directory

    def _read(self) -> dict[_Name, Obj]:
        """Blocking."""
        found: dict[_Name, Obj] = {}
        pods: dict[str, Obj] = {}
        for path in sorted(self._directory.iterdir()) if self._directory and self._directory.is_dir() else ():
            if path.name.startswith(".") or not path.is_file():
                continue
            pod = self._pod_of(path)
            if pod is None:
                continue
            pods[path.name] = pod
            if found.setdefault(full_name(pod), pod) is not pod:
                self._complain(path.name, f"another file is pod {'/'.join(full_name(pod))} already")
        self._by_file = pods
        return found

    def _pod_of(self, path: Path) -> Obj | None:
        """The file's pod; the one it was before while the file is wrong, or has not changed."""
        before = self._by_file.get(path.name)
        try:
            pod = static_pod(path.read_text(), str(path), self._node_name, self._clock())
        except (ManifestError, OSError, UnicodeDecodeError) as err:
            self._complain(path.name, str(err))
            return before
        self._complaints.pop(path.name, None)
        same = before is not None and before["metadata"]["uid"] == pod["metadata"]["uid"]
        return before if same else pod

    def _complain(self, file: str, why: str) -> None:
        """Once for each thing that is wrong."""
        if self._complaints.get(file) != why:
            self._complaints[file] = why
            log.error("manifest %s: %s", file, why)

    # ------------------------------------------------------------ workers and mirrors

    def _workers(self, pods: PodSet) -> None:
        uids = {pod["metadata"]["uid"] for pod in self._wanted.values()}
        busy = set()
        for worker in pods.workers():
            if is_static(worker.pod):
                busy.add(full_name(worker.pod))
                if worker.uid not in uids:
                    _terminate(worker, self._clock())
        for name, pod in self._wanted.items():
            if name not in busy:
                pods.add(pod, ev.Adopt(None))

    async def _mirrors(self, pods: PodSet) -> None:
        running = {full_name(w.pod): w.uid for w in pods.workers() if is_static(w.pod)}
        for name, mirror in list(self._statuses.mirrors.items()):
            pod = self._wanted.get(name)
            stale = pod is None or annotation(mirror, MIRROR) != annotation(pod, HASH)
            if "deletionTimestamp" in mirror["metadata"] or (stale and running.get(name) != annotation(mirror, MIRROR)):
                await self._delete(mirror)
        node = self._node()
        for name, pod in self._wanted.items():
            if node is not None and name not in self._statuses.mirrors and running.get(name) == pod["metadata"]["uid"]:
                made = await self._client.create("pods", mirror_of(pod, node), name[0])
                self._statuses.on_mirror(None, made)

    async def _delete(self, mirror: Obj) -> None:
        meta = mirror["metadata"]
        try:
            await self._client.delete("pods", meta["name"], meta["namespace"], uid=meta["uid"], grace_period_s=0)
        except ApiError as err:
            if not is_not_found(err) and err.code != 409:
                raise


def _terminate(worker: PodWorker, now: float) -> None:
    """As a deletion in the API would."""
    if worker.core.mode in ("terminate", "done"):
        return
    grace = worker.pod["spec"].get("terminationGracePeriodSeconds", 30)
    ending = {"deletionTimestamp": rfc3339(now + grace), "deletionGracePeriodSeconds": grace}
    worker.post(ev.PodSeen({**worker.pod, "metadata": {**worker.pod["metadata"], **ending}}))
