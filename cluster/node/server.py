"""The kubelet's server: logs, exec, attach, port-forward, health, pods, statistics, metrics.

IO: HTTPS on the node's address, for those whom access.py lets in (docs/contracts.md); plain /healthz on loopback.
Refusals are metav1.Status objects, so that the API server can pass them on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiohttp import web

from cluster.api import errors
from cluster.api.errors import ApiError
from cluster.api.remotecommand import URL_BYTES, WEBSOCKET_PROTOCOLS, refusal
from cluster.machinery.mtls import server_context
from cluster.node import exec_stream, logs, parts, pod_dial, pod_story, port_forward
from cluster.node.access import Access, asked_for
from cluster.node.config import KubeletConfig
from cluster.node.core import PodCore
from cluster.node.core_status import container_status
from cluster.node.log_reader import read_log
from cluster.node.metering import Meter
from cluster.node.runtime import Runtime, RuntimeFailure, Session
from cluster.node.server_views import PodsSeen, Views

log = logging.getLogger(__name__)
Obj = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pods(PodsSeen, Protocol):
    """What the server needs to know of the kubelet."""

    def core_of(self, namespace: str, name: str) -> PodCore | None: ...

    def health(self) -> dict[str, object]: ...


@dataclass(frozen=True, slots=True)
class _Target:
    id: str
    spec: Obj
    running: bool


class KubeletServer:
    def __init__(
        self,
        config: KubeletConfig,
        runtime: Runtime,
        pods: Pods,
        meter: Meter,
        access: Access,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._runtime = runtime
        self._pods = pods
        self._access = access
        self._views = Views(config, runtime, pods, meter)
        self._clock = clock
        self._runners: list[web.AppRunner] = []
        self.port = config.port
        self.healthz_port = config.healthz_port

    async def start(self) -> None:
        """Listen. Raises OSError when an address is taken."""
        app = web.Application(middlewares=[self._authorize])
        app.router.add_get("/containerLogs/{ns}/{pod}/{container}", self._logs)
        for what in ("exec", "attach"):
            app.router.add_get(f"/{what}/{{ns}}/{{pod}}/{{container}}", self._interactive)
        app.router.add_get("/portForward/{ns}/{pod}", self._port_forward)
        for check in ("", "/ping", "/log", "/syncloop"):
            app.router.add_get(f"/healthz{check}", self._healthz)
        self._views.add_routes(app)
        app.router.add_get("/podstory/{ns}/{pod}", self._story)
        app.router.add_get("/metrics/parts", self._parts)
        app.router.add_get("/metrics/parts/{part}", self._part_metrics)
        local = web.Application()
        local.router.add_get("/healthz", self._healthz)
        local.router.add_get("/metrics", self._views.metrics)
        self.port = await self._listen(app, self._config.node_ip, self._config.port, self._tls())
        self.healthz_port = await self._listen(local, "127.0.0.1", self._config.healthz_port, None)

    async def _story(self, request: web.Request) -> web.StreamResponse:
        core = self._pods.core_of(request.match_info["ns"], request.match_info["pod"])
        if core is None:
            raise errors.not_found("pods", request.match_info["pod"])
        return web.json_response({"uid": core.pod["metadata"]["uid"], "steps": pod_story.told(core.story())})

    async def _parts(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(sorted(self._config.part_ports))

    async def _part_metrics(self, request: web.Request) -> web.StreamResponse:
        return await parts.relay(self._config.part_ports, request.match_info["part"])

    async def stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _listen(self, app: web.Application, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0, max_line_size=URL_BYTES)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        return int(runner.addresses[0][1])

    def _tls(self) -> ssl.SSLContext:
        config = self._config
        files = (config.server_cert_file, config.server_key_file, config.client_ca_file)
        return server_context(*files, clients=ssl.CERT_OPTIONAL)  # who shows none brings a token

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        page = request.match_info.route.resource
        asked = asked_for(request.method, page.canonical if page else "")
        try:
            await self._access.require(certificate, request.headers, asked)
            return await handler(request)
        except ApiError as err:
            return _refused(err)
        except RuntimeFailure as err:
            return _refused(errors.internal(str(err)))

    # ------------------------------------------------------------ containers

    def _target(self, request: web.Request, *, previous: bool = False) -> _Target:
        """The run of a container that a request means. Raises ApiError 404, or 400 where there is no such run."""
        namespace, pod, name = (request.match_info[k] for k in ("ns", "pod", "container"))
        core = self._pods.core_of(namespace, pod)
        if core is None:
            raise errors.not_found("pods", pod)
        state = core.containers.get(name)
        if state is None:
            raise errors.not_found("containers", f"{pod}/{name}")
        waiting = (
            "PodInitializing"
            if any(c.kind in ("init", "sidecar") for c in core.containers.values())
            else "ContainerCreating"
        )
        container_id = logs.run_of(container_status(state, waiting, core.runtime), pod, previous=previous)
        return _Target(container_id, state.spec, not previous and state.phase in ("running", "stopping"))

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        query = logs.LogQuery.parse(request.query, self._clock())
        target = self._target(request, previous=query.previous)
        info = await self._runtime.inspect(target.id)
        if info is None or not await asyncio.to_thread(os.path.exists, info.log_path):
            raise ApiError(404, "NotFound", f"unable to retrieve container logs for {self._runtime.name}://{target.id}")
        if info.state != "running":
            await self._runtime.log_written(target.id)
        chunks = read_log(
            info.log_path,
            query.options,
            limit_bytes=query.limit_bytes,
            complete=lambda: self._runtime.log_complete(target.id),
        )
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        # The client of a quiet followed log may go without a write ever failing: watch for its end as well.
        task = asyncio.get_running_loop().create_task(_copy(chunks, response))
        try:
            while not task.done():
                await asyncio.wait([task], timeout=1.0)
                if request.transport is None or request.transport.is_closing():
                    break
            if task.done():
                await task
                await response.write_eof()
        except (RuntimeFailure, OSError) as err:
            # Too late for a status: an unfinished chunked body tells the client that the log broke off.
            log.warning("log of %s broke off: %s", target.id[:12], err)
            response.force_close()
            if request.transport is not None:
                request.transport.close()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return response

    async def _interactive(self, request: web.Request) -> web.StreamResponse:
        what = request.path.split("/")[1]
        target = self._target(request)
        if not target.running:
            raise errors.bad_request(f'unable to upgrade connection: container not found ("{target.spec["name"]}")')
        wants = {k: request.query.get(k, "").lower() in ("1", "true") for k in ("stdin", "stdout", "stderr", "tty")}
        socket = web.WebSocketResponse(
            protocols=WEBSOCKET_PROTOCOLS, compress=False, max_msg_size=0, timeout=exec_stream.CLOSE_S
        )
        if not socket.can_prepare(request).ok:
            raise errors.bad_request("a WebSocket upgrade is required")
        session = await self._open(what, target, request.query.getall("command", []), wants)
        try:
            await socket.prepare(request)
        except BaseException:
            await session.close()
            raise
        await exec_stream.serve(socket, session, stdin=wants["stdin"])
        return socket

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        namespace, pod = request.match_info["ns"], request.match_info["pod"]
        core = self._pods.core_of(namespace, pod)
        if core is None:
            raise errors.not_found("pods", pod)
        if core.sandbox.phase != "ready" or core.sandbox.lost:
            phase = core.status()["phase"]
            raise errors.bad_request(f"unable to forward port because pod is not running. Current status={phase}")
        netns = ""
        if not core.pod["spec"].get("hostNetwork"):
            info = await self._runtime.inspect(core.sandbox.id)
            if info is None or not info.netns:
                raise errors.internal(f"the sandbox of pod {pod} has no network namespace")
            netns = info.netns
        socket = web.WebSocketResponse(
            protocols=port_forward.PROTOCOLS, compress=False, max_msg_size=0, timeout=exec_stream.CLOSE_S
        )
        ready = socket.can_prepare(request)
        if not ready.ok or ready.protocol is None:
            raise errors.bad_request(f"a WebSocket upgrade to one of {', '.join(port_forward.PROTOCOLS)} is required")
        given = request.query.getall("ports", []) + request.query.getall("port", [])
        ports = [] if ready.protocol == port_forward.SPDY else port_forward.ports_of(given)
        await socket.prepare(request)
        await port_forward.serve(socket, functools.partial(pod_dial.dial, netns), ports)
        return socket

    async def _open(self, what: str, target: _Target, command: list[str], wants: dict[str, bool]) -> Session:
        if what == "attach":
            tty = bool(target.spec.get("tty"))
            stdin = wants["stdin"] and bool(target.spec.get("stdin"))
            return await self._runtime.attach(
                target.id,
                stdin=stdin,
                stdout=wants["stdout"],
                stderr=wants["stderr"],
                tty=tty,
                stdin_once=bool(target.spec.get("stdinOnce")),
            )
        if not command:
            raise errors.bad_request("you must specify at least one command for the container")
        return await self._runtime.exec(
            target.id, command, stdin=wants["stdin"], stdout=wants["stdout"], stderr=wants["stderr"], tty=wants["tty"]
        )

    # ------------------------------------------------------------ the rest

    async def _healthz(self, request: web.Request) -> web.Response:
        health = self._pods.health()
        if health.get("ready"):
            return web.Response(text="ok")
        return web.json_response(health, status=503)


async def _copy(chunks: Any, response: web.StreamResponse) -> None:
    async for chunk in chunks:
        await response.write(chunk)


def _refused(why: ApiError) -> web.Response:
    return web.json_response(why.status(), status=why.code, headers=refusal(why.message))
