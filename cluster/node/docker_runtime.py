"""The kubelet's container engine: Docker, through its socket.

IO through its parts: short calls (docker_calls.py), what is followed (docker_http.py), images, exec and attach. Only
containers labelled `sk8.machine=<machine>` are ever listed. Fulfils runtime.Runtime.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

import docker.errors

from cluster.node import docker_spec as spec
from cluster.node.cgroups import Cgroups
from cluster.node.container_labels import LABEL_CONTAINER, LABEL_MACHINE, LABEL_UID
from cluster.node.disk_use import container_disk
from cluster.node.docker_calls import CHANGE_S, LOOK_S, SIGNAL_S, DockerCalls
from cluster.node.docker_exec import DockerExec
from cluster.node.docker_http import DockerHttp
from cluster.node.docker_images import DockerImages
from cluster.node.docker_logs import LogWriters
from cluster.node.docker_stream import StreamSession, Written, unframe, unlined
from cluster.node.pull_secrets import Credential
from cluster.node.runtime import (
    SANDBOX_CONTAINER,
    UNANSWERED,
    ContainerConfig,
    ContainerDisk,
    ContainerInfo,
    EngineInfo,
    ExecResult,
    ImageEntry,
    ImageInfo,
    Resources,
    RuntimeEvent,
    RuntimeFailure,
    SandboxConfig,
    Usage,
)

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_CAP_SYS_RESOURCE = 24
_EVENTS_RETRY_S = 1.0
_USAGE_AT_ONCE = 8
_REMOVE_S = 30


class DockerRuntime:
    """`machine` marks what belongs to us. Belongs to the loop it is first used on.

    `netns` and `proc` are docker_spec.Box's (machine_netns.py finds them);
    `pods_cgroup` the control group that holds those of the pods (cgroup_plan.py), "" where there is none.
    """

    name = "docker"

    def __init__(
        self,
        machine: str,
        *,
        socket_path: str = "/var/run/docker.sock",
        netns: str = "",
        proc: str = "/proc",
        pods_cgroup: str = "",
        workers: int = 8,
    ) -> None:
        self._machine = machine
        self._box = spec.Box(lowest_oom_score(), netns, proc, os.path.exists("/proc/sys/net/ipv6"))
        self._cgroups = Cgroups(time.time, pods=pods_cgroup)
        self._places: dict[str, tuple[str, str]] = {}  # container id -> its writable layer, its log
        self._calls = DockerCalls(socket_path, workers)
        self._http = DockerHttp(socket_path)
        self._pulls = DockerCalls(socket_path, workers)  # many that wait for a registry hold up no kill
        self._images = DockerImages(self._calls, self._pulls)
        self._exec = DockerExec(self._http, socket_path)
        self._logs = LogWriters(self._log_items, self._runs)
        self._log_paths: dict[str, str] = {}  # of containers that were made and not started yet

    async def close(self) -> None:
        await self._logs.close()
        await self._http.close()
        self._calls.close()
        self._pulls.close()

    # ------------------------------------------------------------ looking

    async def version(self) -> str:
        answer = await self._calls.call(lambda api: api.version())
        return f"docker://{answer['Version']}"

    async def containers(self) -> list[ContainerInfo]:
        filters = {"label": [f"{LABEL_MACHINE}={self._machine}"]}
        entries = await self._calls.call(lambda api: api.containers(all=True, filters=filters))
        return [spec.from_list(entry) for entry in entries]

    async def inspect(self, container_id: str) -> ContainerInfo | None:
        try:
            answer = await self._of(container_id, lambda api: api.inspect_container(container_id))
            return spec.from_inspect(answer, self._box.proc)
        except RuntimeFailure as err:
            if err.reason == "NotFound":
                return None
            raise

    async def _of(self, container: str, what: Callable[[Any], _T], limit_s: int = LOOK_S) -> _T:
        """A call about one container."""
        return await self._calls.call(what, about=container, limit_s=limit_s)

    # ------------------------------------------------------------ images

    async def image(self, name: str) -> ImageInfo | None:
        return await self._images.find(name)

    async def images(self) -> list[ImageEntry]:
        return await self._images.all()

    async def images_in_use(self) -> set[str]:
        return await self._images.in_use()

    async def remove_image(self, image_id: str) -> None:
        await self._images.remove(image_id)

    async def pull(self, name: str, credential: Credential | None = None, source: str = "") -> ImageInfo:
        return await self._images.pull(name, credential, source)

    # ------------------------------------------------------------ making and ending

    async def run_sandbox(self, config: SandboxConfig) -> tuple[str, str]:
        if config.handler and config.handler not in (await self._calls.call(lambda api: api.info())).get(
            "Runtimes", {}
        ):
            raise RuntimeFailure(f'failed to get sandbox runtime: no runtime for "{config.handler}" is configured')
        name = spec.container_name(config.pod, SANDBOX_CONTAINER, config.attempt)
        sandbox = await self._create(name, spec.sandbox_body(self._machine, config, self._box))
        try:
            await self.start_container(sandbox)
            if config.host_network and self._box.netns:
                await self._entered(sandbox)
            info = await self.inspect(sandbox)
            if info is None or not info.netns:
                raise RuntimeFailure("the engine gave the sandbox no network namespace")
        except BaseException:
            await self._discard(sandbox)
            raise
        return sandbox, info.netns

    async def _discard(self, sandbox: str) -> None:
        """What stays is removed with its pod."""
        try:
            await self.remove(sandbox)
        except RuntimeFailure as err:
            log.warning("removing the half-made sandbox %s: %s", sandbox[:12], err)

    async def _entered(self, sandbox: str) -> None:
        """Wait until the sandbox's process is in the machine's network namespace."""
        wanted = f"net:[{os.stat(self._box.netns).st_ino}]"
        look = [
            "/bin/busybox",
            "readlink",
            "/proc/self/ns/net",
        ]  # an exec follows the sandbox; with hostPID 1 is not it
        for delay in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
            await asyncio.sleep(delay)
            if (await self.exec_sync(sandbox, look, 5.0)).output.decode("utf-8", "replace").strip() == wanted:
                return
        raise RuntimeFailure("the sandbox did not enter the machine's network namespace")

    async def create_container(self, config: ContainerConfig) -> str:
        name = spec.container_name(config.pod, config.name, config.attempt)
        made = await self._create(name, spec.container_body(self._machine, config, self._box.oom_floor))
        self._log_paths[made] = config.log_path
        return made

    async def _create(self, name: str, body: dict[str, Any]) -> str:
        """Our names carry uid and attempt: one that is taken is what an earlier kubelet left half made."""

        def create(api: Any) -> str:
            try:
                return str(api.create_container_from_config(body, name)["Id"])
            except docker.errors.APIError as err:
                if err.status_code != 409:
                    raise
                log.info("replacing the half-made container %s", name)
                api.remove_container(name, force=True, v=True)
                return str(api.create_container_from_config(body, name)["Id"])

        return await self._of(name, create, CHANGE_S)

    async def start_container(self, container_id: str) -> None:
        await self._of(container_id, lambda api: api.start(container_id), CHANGE_S)
        path = self._log_paths.pop(container_id, "")
        if path:
            self._logs.start(container_id, path)

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        await self._http.json("POST", f"/containers/{container_id}/update", spec.update_body(resources))

    async def signal(self, container_id: str, signal: str) -> None:
        try:
            await self._of(container_id, lambda api: api.kill(container_id, signal), SIGNAL_S)
        except RuntimeFailure as err:
            if err.reason not in ("NotFound", "Conflict"):
                raise

    async def remove(self, container_id: str) -> None:
        self._logs.forget(container_id)
        self._log_paths.pop(container_id, None)
        try:
            await self._of(container_id, lambda api: api.remove_container(container_id, force=True, v=True), _REMOVE_S)
        except RuntimeFailure as err:
            if "already in progress" in str(err):
                await self._until_gone(container_id)
            elif err.reason != "NotFound":
                raise

    async def _until_gone(self, container_id: str) -> None:
        """Another removal is under way, which may be one that never ends."""
        for delay in (0.05, 0.2, 0.5, 1.0, 3.0):
            await asyncio.sleep(delay)
            if await self.inspect(container_id) is None:
                return
        raise RuntimeFailure("an earlier removal of the container has not ended", UNANSWERED)

    # ------------------------------------------------------------ exec and attach

    async def exec_sync(self, container_id: str, command: list[str], timeout_s: float) -> ExecResult:
        return await self._exec.result(container_id, command, timeout_s)

    async def exec(
        self, container_id: str, command: list[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> StreamSession:
        return await self._exec.begin(container_id, command, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)

    async def attach(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, stdin_once: bool = False
    ) -> StreamSession:
        return await self._exec.attach(
            container_id, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty, stdin_once=stdin_once
        )

    # ------------------------------------------------------------ logs, events, usage

    async def keep_logs(self, containers: Sequence[ContainerInfo]) -> None:
        for info in containers:
            if info.log_path and info.state != "created":
                self._logs.start(info.id, info.log_path)

    async def log_complete(self, container_id: str) -> bool:
        return self._logs.complete(container_id)

    async def log_written(self, container_id: str) -> None:
        await self._logs.written(container_id)

    async def reopen_log(self, container_id: str) -> None:
        self._logs.reopen(container_id)

    async def _runs(self, container_id: str) -> bool:
        info = await self.inspect(container_id)
        return info is not None and info.state == "running"

    async def _log_items(self, container_id: str, since: str) -> AsyncIterator[Written]:
        details = await self._http.json("GET", f"/containers/{container_id}/json")
        query = {"stdout": "1", "stderr": "1", "follow": "1", "timestamps": "1"}
        if since:
            query["since"] = since
        split = unlined if (details.get("Config") or {}).get("Tty") else unframe
        async with self._http.follow(f"/containers/{container_id}/logs", **query) as content:
            async for items in split(content.iter_any()):
                yield items

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        filters = {"type": ["container"], "event": ["die"], "label": [f"{LABEL_MACHINE}={self._machine}"]}
        while True:
            try:
                async with self._http.follow("/events", filters=json.dumps(filters)) as content:
                    yield RuntimeEvent("resync")
                    async for line in content:
                        event = _event(line)
                        if event is not None:
                            yield event
            except RuntimeFailure as err:
                log.warning("the engine's event stream broke: %s", err)
            await asyncio.sleep(_EVENTS_RETRY_S)

    async def usages(self, container_ids: Sequence[str]) -> dict[str, Usage]:
        """From the control groups in one go; the engine is asked about those whose group is not found."""
        found = await asyncio.to_thread(lambda: {i: self._cgroups.usage(i) for i in container_ids})
        limit = asyncio.Semaphore(_USAGE_AT_ONCE)

        async def ask(container_id: str) -> Usage | None:
            async with limit:
                return await self._usage(container_id)

        unknown = [i for i, usage in found.items() if usage is None]
        found.update(zip(unknown, await asyncio.gather(*map(ask, unknown)), strict=True))
        return {i: usage for i, usage in found.items() if usage is not None}

    async def disk_usages(self, container_ids: Sequence[str]) -> dict[str, ContainerDisk]:
        """The engine says where a container's layer and log are; what is there is counted here."""
        found = {}
        for container_id in container_ids:
            try:
                places = self._places.get(container_id) or await self._disk_places(container_id)
            except RuntimeFailure as err:
                if err.reason != "NotFound":
                    raise
                continue
            self._places[container_id] = places
            found[container_id] = await asyncio.to_thread(container_disk, *places)
        self._places = {i: p for i, p in self._places.items() if i in found}
        return found

    async def _disk_places(self, container_id: str) -> tuple[str, str]:
        answer = await self._of(container_id, lambda api: api.inspect_container(container_id))
        layer = ((answer.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir") or ""
        return str(layer), str(answer.get("LogPath") or "")

    async def engine_info(self) -> EngineInfo:
        answer = await self._calls.call(lambda api: api.info())
        driver: Literal["cgroupfs", "systemd"] = "systemd" if answer.get("CgroupDriver") == "systemd" else "cgroupfs"
        return EngineInfo(str(answer.get("DockerRootDir") or "/var/lib/docker"), driver)

    async def _usage(self, container_id: str) -> Usage | None:
        query = urlencode({"stream": "false", "one-shot": "true"})
        try:
            answer = await self._http.json("GET", f"/containers/{container_id}/stats?{query}")
        except RuntimeFailure as err:
            if err.reason in ("NotFound", "Conflict"):
                return None
            raise
        return _usage(answer)


def lowest_oom_score() -> int:
    """-1000, or 0 on a box whose root lacks CAP_SYS_RESOURCE: there a negative score fails the container's start."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return -1000 if int(line.split()[1], 16) & (1 << _CAP_SYS_RESOURCE) else 0
    return 0


def _event(line: bytes) -> RuntimeEvent | None:
    if not line.strip():
        return None
    message = json.loads(line)
    if message.get("Action") != "die":
        return None
    actor = message.get("Actor") or {}
    marks = actor.get("Attributes") or {}
    return RuntimeEvent("died", str(actor.get("ID") or ""), marks.get(LABEL_CONTAINER, ""), marks.get(LABEL_UID, ""))


def _usage(answer: dict[str, Any]) -> Usage | None:
    memory = answer.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    stats = memory.get("stats") or {}
    used = int(memory["usage"])
    inactive = int(stats.get("total_inactive_file", stats.get("inactive_file", 0)))
    return Usage(
        at=spec.time_of(answer.get("read")),
        cpu_ns=int((answer.get("cpu_stats") or {}).get("cpu_usage", {}).get("total_usage") or 0),
        memory_bytes=used,
        working_set_bytes=max(used - inactive, 0),
        rss_bytes=int(stats.get("total_rss", stats.get("anon", 0))),
        page_faults=int(stats.get("total_pgfault", stats.get("pgfault", 0))),
        major_page_faults=int(stats.get("total_pgmajfault", stats.get("pgmajfault", 0))),
    )
