"""The kubelet's container engine: Docker, through its socket.

IO. Short calls go through the docker package in a bounded pool of threads (the pool is the back-pressure: at most
`workers` engine calls at once); streams (exec, logs, events) are asyncio on connections of their own. Only containers
labelled `sk8.machine=<machine>` are ever listed. Fulfils runtime.Runtime.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

import aiohttp
import docker
import docker.errors
import requests.exceptions

from cluster.node import docker_spec as spec
from cluster.node.cgroups import Cgroups
from cluster.node.disk_use import container_disk
from cluster.node.docker_logs import LogWriters
from cluster.node.docker_stream import StreamSession, Written, unframe, unlined, upgrade
from cluster.node.pull_secrets import Credential
from cluster.node.runtime import (
    LABEL_CONTAINER,
    LABEL_MACHINE,
    LABEL_UID,
    SANDBOX_CONTAINER,
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
_API = "v1.41"
_CALL_TIMEOUT_S = 120
_CAP_SYS_RESOURCE = 24
_EVENTS_RETRY_S = 1.0
_USAGE_AT_ONCE = 8
_MAX_EXEC_OUTPUT = 10 * 1024  # what a probe's or hook's output is cut to, as the kubelet's


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
        self._socket = socket_path
        self._places: dict[str, tuple[str, str]] = {}  # container id -> its writable layer, its log
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="engine")
        self._api: Any = None
        self._api_lock = threading.Lock()
        self._http: aiohttp.ClientSession | None = None
        self._logs = LogWriters(self._log_items, self._runs)
        self._log_paths: dict[str, str] = {}  # of containers that were made and not started yet

    # ------------------------------------------------------------ plumbing

    def _client(self) -> Any:
        with self._api_lock:
            if self._api is None:
                self._api = docker.APIClient(
                    base_url=f"unix://{self._socket}", version=_API.removeprefix("v"), timeout=_CALL_TIMEOUT_S
                )
            return self._api

    async def _call(self, what: Callable[[Any], _T]) -> _T:
        """Run `what(api)` in the pool; translate the engine's errors."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, lambda: what(self._client()))
        except docker.errors.NotFound as err:
            raise RuntimeFailure(_explain(err), "NotFound") from err
        except docker.errors.APIError as err:
            raise RuntimeFailure(_explain(err), "Conflict" if err.status_code == 409 else "") from err
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as err:
            raise RuntimeFailure(f"the container engine does not answer at {self._socket}: {err}") from err

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self._socket, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            )
        return self._http

    def _url(self, path: str, **query: str) -> str:
        return f"http://docker/{_API}{path}" + (f"?{urlencode(query)}" if query else "")

    async def close(self) -> None:
        await self._logs.close()
        if self._http is not None:
            await self._http.close()
            self._http = None
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._api is not None:
            self._api.close()

    # ------------------------------------------------------------ looking

    async def version(self) -> str:
        answer = await self._call(lambda api: api.version())
        return f"docker://{answer['Version']}"

    async def containers(self) -> list[ContainerInfo]:
        filters = {"label": [f"{LABEL_MACHINE}={self._machine}"]}
        entries = await self._call(lambda api: api.containers(all=True, filters=filters))
        return [spec.from_list(entry) for entry in entries]

    async def inspect(self, container_id: str) -> ContainerInfo | None:
        try:
            answer = await self._call(lambda api: api.inspect_container(container_id))
            return spec.from_inspect(answer, self._box.proc)
        except RuntimeFailure as err:
            if err.reason == "NotFound":
                return None
            raise

    async def image(self, name: str) -> ImageInfo | None:
        try:
            answer = await self._call(lambda api: api.inspect_image(name))
        except RuntimeFailure as err:
            if err.reason == "NotFound":
                return None
            raise
        config = answer.get("Config") or {}
        return ImageInfo(str(answer["Id"]), str(config.get("User") or ""), str(config.get("StopSignal") or ""))

    async def images(self) -> list[ImageEntry]:
        answer = await self._call(lambda api: api.images())
        return [ImageEntry(_names(entry), int(entry.get("Size") or 0), str(entry["Id"])) for entry in answer]

    async def images_in_use(self) -> set[str]:
        return {str(entry["ImageID"]) for entry in await self._call(lambda api: api.containers(all=True))}

    async def remove_image(self, image_id: str) -> None:
        """Name by name: with several, the engine takes an id only by force, which would not spare containers."""
        image = await self._call_unless_gone(lambda api: api.inspect_image(image_id))
        for name in (*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())) if image else ():
            await self._call_unless_gone(functools.partial(_untag, name=name))
        if image:
            await self._call_unless_gone(lambda api: api.remove_image(image_id))

    async def _call_unless_gone(self, what: Callable[[Any], _T]) -> _T | None:
        try:
            return await self._call(what)
        except RuntimeFailure as err:
            if err.reason != "NotFound":
                raise
            return None

    async def pull(self, name: str, credential: Credential | None = None, source: str = "") -> ImageInfo:
        repository, tag = _split_image(source or name)
        auth = None if credential is None else {"username": credential.username, "password": credential.password}

        def pull(api: Any) -> None:
            for line in api.pull(repository, tag=tag, stream=True, decode=True, auth_config=auth):
                if "error" in line:  # the answer's status was sent before the layers
                    raise docker.errors.APIError(str(line["error"]), explanation=str(line["error"]))
            if source and source != name:
                api.tag(source, *_split_image(name))
                api.remove_image(source)

        await self._call(pull)
        image = await self.image(name)
        if image is None:
            raise RuntimeFailure(f"image {name} is absent after it was pulled", "ErrImagePull")
        return image

    # ------------------------------------------------------------ making and ending

    async def run_sandbox(self, config: SandboxConfig) -> tuple[str, str]:
        if config.handler and config.handler not in (await self._call(lambda api: api.info())).get("Runtimes", {}):
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
            await self.remove(sandbox)
            raise
        return sandbox, info.netns

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

        return await self._call(create)

    async def start_container(self, container_id: str) -> None:
        await self._call(lambda api: api.start(container_id))
        path = self._log_paths.pop(container_id, "")
        if path:
            self._logs.start(container_id, path)

    async def update_resources(self, container_id: str, resources: Resources) -> None:
        await self._json("POST", f"/containers/{container_id}/update", spec.update_body(resources))

    async def signal(self, container_id: str, signal: str) -> None:
        try:
            await self._call(lambda api: api.kill(container_id, signal))
        except RuntimeFailure as err:
            if err.reason not in ("NotFound", "Conflict"):
                raise

    async def remove(self, container_id: str) -> None:
        self._logs.forget(container_id)
        self._log_paths.pop(container_id, None)
        try:
            await self._call(lambda api: api.remove_container(container_id, force=True, v=True))
        except RuntimeFailure as err:
            if err.reason != "NotFound" and "already in progress" not in str(err):
                raise

    # ------------------------------------------------------------ exec and attach

    async def exec_sync(self, container_id: str, command: list[str], timeout_s: float) -> ExecResult:
        session: StreamSession | None = None
        try:
            async with asyncio.timeout(timeout_s):
                session = await self.exec(container_id, command, stdin=False, stdout=True, stderr=True, tty=False)
                output = bytearray()
                async for _, data in session.read():
                    if len(output) < _MAX_EXEC_OUTPUT:
                        output += data
                return ExecResult(await session.exit_code(), bytes(output[:_MAX_EXEC_OUTPUT]))
        finally:
            if session is not None:
                await session.close()

    async def exec(
        self, container_id: str, command: list[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> StreamSession:
        body = {
            "AttachStdin": stdin,
            "AttachStdout": stdout,
            "AttachStderr": stderr and not tty,
            "Tty": tty,
            "Cmd": command,
        }
        answer = await self._json("POST", f"/containers/{container_id}/exec", body)
        exec_id = str(answer["Id"])
        start = {"Detach": False, "Tty": tty}
        reader, writer = await upgrade(self._socket, f"/{_API}/exec/{exec_id}/start", start)
        return StreamSession(
            reader,
            writer,
            tty=tty,
            resize=functools.partial(self._resize, f"/exec/{exec_id}/resize"),
            exit_code=functools.partial(self._exec_exit_code, exec_id),
        )

    async def _exec_exit_code(self, exec_id: str) -> int:
        """The code comes a moment after the output ends."""
        for delay in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0):
            await asyncio.sleep(delay)
            answer = await self._json("GET", f"/exec/{exec_id}/json")
            if not answer.get("Running"):
                return int(answer.get("ExitCode") or 0)
        raise RuntimeFailure("the command closed its output but still runs")

    async def _resize(self, path: str, height: int, width: int) -> None:
        await self._json("POST", f"{path}?{urlencode({'h': height, 'w': width})}")

    async def attach(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool, stdin_once: bool = False
    ) -> StreamSession:
        query = {"stream": "1", "stdin": _flag(stdin), "stdout": _flag(stdout), "stderr": _flag(stderr)}
        path = f"/{_API}/containers/{container_id}/attach?{urlencode(query)}"
        reader, writer = await upgrade(self._socket, path)
        try:
            await self._check_running(container_id)
        except BaseException:
            writer.transport.abort()
            raise

        async def no_code() -> int:
            return 0

        return StreamSession(
            reader,
            writer,
            tty=tty,
            resize=functools.partial(self._resize, f"/containers/{container_id}/resize"),
            exit_code=no_code,
            passes_eof=stdin_once,
        )

    async def _check_running(self, container_id: str) -> None:
        """An attachment to a container that has ended waits for its next start, that is for ever. Asked once attached:
        one that still runs then ends the attachment with itself."""
        found = await self._json("GET", f"/containers/{container_id}/json")
        if not (found.get("State") or {}).get("Running"):
            raise RuntimeFailure("the container has ended: read its output with kubectl logs", "Conflict")

    async def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            async with self._session().request(method, self._url(path), json=body) as response:
                data = await response.read()
                if response.status >= 400:
                    raise RuntimeFailure(
                        _body_message(data), {404: "NotFound", 409: "Conflict"}.get(response.status, "")
                    )
                return dict(json.loads(data)) if data.strip() else {}
        except (aiohttp.ClientError, OSError) as err:
            raise RuntimeFailure(f"the container engine does not answer at {self._socket}: {err}") from err

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
        details = await self._json("GET", f"/containers/{container_id}/json")
        query = {"stdout": "1", "stderr": "1", "follow": "1", "timestamps": "1"}
        if since:
            query["since"] = since
        try:
            async with self._session().get(self._url(f"/containers/{container_id}/logs", **query)) as response:
                if response.status >= 400:
                    reason = "NotFound" if response.status == 404 else ""
                    raise RuntimeFailure(_body_message(await response.read()), reason)
                split = unlined if (details.get("Config") or {}).get("Tty") else unframe
                async for items in split(response.content.iter_any()):
                    yield items
        except (aiohttp.ClientError, OSError) as err:
            raise RuntimeFailure(f"reading logs: {err}") from err

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        filters = {"type": ["container"], "event": ["die"], "label": [f"{LABEL_MACHINE}={self._machine}"]}
        while True:
            try:
                async with self._session().get(self._url("/events", filters=json.dumps(filters))) as response:
                    yield RuntimeEvent("resync")
                    async for line in response.content:
                        event = _event(line)
                        if event is not None:
                            yield event
            except (aiohttp.ClientError, OSError) as err:
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
        answer = await self._call(lambda api: api.inspect_container(container_id))
        layer = ((answer.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir") or ""
        return str(layer), str(answer.get("LogPath") or "")

    async def engine_info(self) -> EngineInfo:
        answer = await self._call(lambda api: api.info())
        driver: Literal["cgroupfs", "systemd"] = "systemd" if answer.get("CgroupDriver") == "systemd" else "cgroupfs"
        return EngineInfo(str(answer.get("DockerRootDir") or "/var/lib/docker"), driver)

    async def _usage(self, container_id: str) -> Usage | None:
        query = urlencode({"stream": "false", "one-shot": "true"})
        try:
            answer = await self._json("GET", f"/containers/{container_id}/stats?{query}")
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


def _untag(api: Any, name: str) -> None:
    api.remove_image(name)


def _names(entry: dict[str, Any]) -> tuple[str, ...]:
    """An image's names without the engine's <none>."""
    digests, tags = (sorted(n for n in entry.get(k) or () if "<none>" not in n) for k in ("RepoDigests", "RepoTags"))
    return (*digests, *tags)


def _flag(value: bool) -> str:
    return "1" if value else "0"


def _explain(err: docker.errors.APIError) -> str:
    return str(err.explanation or err)


def _body_message(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message") or "unknown error")
    except ValueError:
        return data.decode("utf-8", "replace").strip() or "unknown error"


def _split_image(name: str) -> tuple[str, str | None]:
    """registry:5000/a/b:tag -> (registry:5000/a/b, tag); a digest stays part of the name."""
    if "@" in name:
        return name, None
    head, colon, tail = name.rpartition(":")
    if colon and "/" not in tail:
        return head, tail
    return name, "latest"


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
