"""`sk8 host-agent`: the local provider, one daemon on the box that hosts the machines.

IO. It serves `/run/sk8/host.sock` (JSON over HTTP, 0600) for the CLI, the machines that join and the controllers that
attach disks, and forwards the host's 127.0.0.1:6443. Machines outlive it: a new agent adopts them.

 GET  /v1/health   ("features": FEATURES)          GET  /v1/machines[?after=VERSION]   (long poll: waits for a change)
 POST /v1/machines {"name","zone"}                 DELETE /v1/machines/{m}             (a worker comes or goes)
 POST /v1/machines/{m}/start {"wipe"}              POST /v1/machines/{m}/kill | stop | wipe
 POST /v1/machines/{m}/restart | renew             (sk8-machine anew, by SIGHUP; new certificates now, by SIGUSR1)
 POST /v1/machines/{m}/link {"up"}                 POST /v1/machines/{m}/netem {"delay_ms","jitter_ms","loss_percent"}
 GET  /v1/disks   POST /v1/disks {"name","size_bytes"}   DELETE /v1/disks/{d}
 POST /v1/disks/{d}/attach | detach {"machine"}    POST /v1/disks/{d}/grow {"size_bytes"}
                                                   POST /v1/join {"machine","token" or "proof","requests"}
 POST /v1/settings {name: value}                   (for the parts that start from now on)
 POST /v1/certificates {"signer","request","usages","lifetime_s"}   (signed here: the CA's key stays on the box)

Errors: {"error": message, "retriable": bool} with 400 refused, 404 unknown, 409 wrong state, 503 try again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from cluster.cloud import mounts, network
from cluster.cloud.cleanup import ENGINE_NAMESPACES, mark_shared
from cluster.cloud.disks import DiskError, Disks
from cluster.cloud.engine import Engine, EngineError
from cluster.cloud.machines import MachineError, Machines
from cluster.machine.changes import changed
from cluster.machine.config import ClusterConfig, load_cluster, parse_settings, save_cluster
from cluster.machine.config_json import ConfigError
from cluster.machine.files import Lock, make_private_dir
from cluster.machine.forwarder import Forwarder, ForwarderConfig
from cluster.machine.identity import Authority
from cluster.machine.loop_watch import LoopWatch
from cluster.machine.pki import PkiError, Proof
from cluster.machine.workers import with_worker, without_worker

log = logging.getLogger(__name__)

FEATURES = ("workers",)
"""What a command asks for before it begins, as the agent may be of an older release. workers: they come and go."""
_POLL_S = 25.0
_RESTART_S = 1.0
"""How long a part that failed stays away."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Part(Protocol):
    def run(self) -> Coroutine[Any, Any, None]: ...


class HostAgent:
    """`run()` returns after SIGTERM; the machines go on. Make it only with the lock of `_serve`: it reads the disks."""

    def __init__(self, config: ClusterConfig, beside: Sequence[Part] = ()) -> None:
        """`beside`: more parts to run, which this room does not know (the DNS relay)."""
        self._config = config
        self._beside = beside
        self._authority = Authority(config)
        self._disks = Disks(config.disks_dir)
        self._version = 1
        self._changed = asyncio.Condition()
        self._shaping = asyncio.Lock()
        self._machines = Machines(config, self._disks, Engine(config.engine_socket), self._authority, self._bump)
        self._switch = network.Switch(config)
        self._background: set[asyncio.Task[None]] = set()
        endpoint = ("127.0.0.1", config.api_port)
        self._forwarder = Forwarder(ForwarderConfig(endpoint, config.api_endpoints, config.pki / "ca.crt"))

    async def run(self) -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await asyncio.to_thread(self._prepare_host)
        adopted = await self._machines.adopt()
        log.info("adopted machines: %s", ", ".join(adopted) or "none")
        runner = web.AppRunner(self.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        socket = self._config.host_socket
        socket.unlink(missing_ok=True)
        await web.UnixSite(runner, str(socket)).start()
        socket.chmod(0o600)
        forwarder = asyncio.create_task(self._forwarder.run())
        stopped = asyncio.create_task(stop.wait())
        others = [asyncio.create_task(_kept(run)) for run in (_watch_loop, *(part.run for part in self._beside))]
        try:
            await asyncio.wait({forwarder, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = (forwarder, stopped, *others)
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            self._machines.forget()
            await runner.cleanup()
            socket.unlink(missing_ok=True)
        if isinstance(ends[0], Exception):
            raise ends[0]

    def _prepare_host(self) -> None:
        """Before machines start, because they copy the mount table of this moment."""
        for path in (self._config.base, ENGINE_NAMESPACES):
            made = mounts.share(path)
            table = mounts.mounts()
            on = mounts.mount_of(path, table)
            if made or (on is not None and on.path == path and mounts.is_self_bind(on, table)):
                mark_shared(self._config, path)  # a second cluster on this box may outlive the one that made it
        self._switch.make()

    def _bump(self) -> None:
        self._version += 1
        task = asyncio.create_task(self._notify())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # -- HTTP ----------------------------------------------------------------------------------------------------
    def application(self) -> web.Application:
        app = web.Application(middlewares=[_errors], client_max_size=1 << 20)
        app.router.add_get("/v1/health", self._health)
        app.router.add_get("/v1/machines", self._list_machines)
        app.router.add_post("/v1/machines", self._add_machine)
        app.router.add_delete("/v1/machines/{machine}", self._remove_machine)
        app.router.add_post("/v1/machines/{machine}/{verb}", self._machine_verb)
        app.router.add_post("/v1/machines/{machine}/containers/{container}/kill", self._kill_container)
        app.router.add_get("/v1/disks", self._list_disks)
        app.router.add_post("/v1/disks", self._create_disk)
        app.router.add_delete("/v1/disks/{disk}", self._delete_disk)
        app.router.add_post("/v1/disks/{disk}/{verb}", self._disk_verb)
        app.router.add_post("/v1/join", self._join)
        app.router.add_post("/v1/settings", self._configure)
        app.router.add_post("/v1/certificates", self._sign)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        shown = {"ok": True, "forwarder": self._forwarder.health(), "version": self._version, "features": FEATURES}
        return web.json_response(shown)

    async def _list_machines(self, request: web.Request) -> web.Response:
        after = int(request.query.get("after", "0"))
        try:
            async with asyncio.timeout(_POLL_S), self._changed:
                await self._changed.wait_for(lambda: self._version > after)
        except TimeoutError:
            log.debug("no machine changed within %g s", _POLL_S)
        items = [
            {
                "name": m.name,
                "state": self._machines.power(m.name),
                "addresses": [m.ip],
                "zone": m.zone,
                "control_plane": m.control_plane,
                "pid": self._machines.pid(m.name),
            }
            for m in self._config.machines
        ]
        return web.json_response({"version": self._version, "machines": items})

    async def _add_machine(self, request: web.Request) -> web.Response:
        body = await _body(request)
        async with self._shaping:
            try:
                config = with_worker(self._config, str(body.get("name", "")), str(body.get("zone", "")))
            except ConfigError as e:
                raise ValueError(str(e)) from e
            await self._reshape(config)
        made = config.machines[-1]
        log.info("there is a machine %s at %s now", made.name, made.ip)
        return web.json_response({"name": made.name, "ip": made.ip})

    async def _remove_machine(self, request: web.Request) -> web.Response:
        """Its disk is emptied first: said again after a crash in between, it finds the machine, and ends it."""
        name = request.match_info["machine"]
        async with self._shaping:
            config = without_worker(self._config, name)
            await self._machines.wipe(name)
            await self._reshape(config)
        log.info("machine %s is no more", name)
        return web.json_response({})

    async def _configure(self, request: web.Request) -> web.Response:
        body = await _body(request)
        async with self._shaping:
            try:
                config = changed(self._config, parse_settings(body))
            except ConfigError as e:
                raise ValueError(str(e)) from e
            await self._reshape(config)
        log.info("other settings: %s", ", ".join(body))
        return web.json_response({})

    async def _reshape(self, config: ClusterConfig) -> None:
        """Written before it is so: an agent that dies here is followed by one that reads it."""
        await asyncio.to_thread(save_cluster, config)
        self._config, self._authority = config, Authority(config)
        self._machines.reshape(config, self._authority)

    async def _machine_verb(self, request: web.Request) -> web.Response:
        name, verb = request.match_info["machine"], request.match_info["verb"]
        self._config.spec(name)
        body = await _body(request)
        match verb:
            case "start":
                await self._machines.start(name, wipe=bool(body.get("wipe", False)))
            case "kill":
                await self._machines.kill(name)
            case "stop":
                await self._machines.stop(name)
            case "wipe":
                await self._machines.wipe(name)
            case "restart" | "renew":
                self._need_on(name)
                self._machines.tell(name, signal.SIGHUP if verb == "restart" else signal.SIGUSR1)
            case "link":
                up = bool(body.get("up", True))
                self._need_on(name)
                await asyncio.to_thread(self._switch.set_link, name, up=up)
            case "netem":
                settings = _netem(body)
                self._need_on(name)
                await asyncio.to_thread(lambda: self._switch.set_netem(name, **settings))
            case _:
                raise web.HTTPNotFound()
        return web.json_response({"state": self._machines.power(name)})

    async def _kill_container(self, request: web.Request) -> web.Response:
        name, container = request.match_info["machine"], request.match_info["container"]
        self._config.spec(name)
        shim = bool((await _body(request)).get("shim", False))
        return web.json_response({"done": await self._machines.kill_container(name, container, shim=shim)})

    def _need_on(self, name: str) -> None:
        if self._machines.power(name) != "running":
            raise MachineError(f"machine {name} is {self._machines.power(name)}; start it first")

    async def _list_disks(self, _: web.Request) -> web.Response:
        items = await asyncio.to_thread(self._disks.list)
        rows = [
            {"name": d.name, "size_bytes": d.size_bytes, "attached_to": d.attached_to, "device_path": device}
            for d, device in items
        ]
        return web.json_response({"disks": rows})

    async def _create_disk(self, request: web.Request) -> web.Response:
        body = await _body(request)
        name, size = str(body.get("name", "")), int(body.get("size_bytes", 0))
        await asyncio.to_thread(lambda: self._disks.create(name, size))
        return web.json_response({})

    async def _delete_disk(self, request: web.Request) -> web.Response:
        name = request.match_info["disk"]
        await asyncio.to_thread(lambda: self._disks.delete(name))
        return web.json_response({})

    async def _disk_verb(self, request: web.Request) -> web.Response:
        name, verb = request.match_info["disk"], request.match_info["verb"]
        body = await _body(request)
        if verb == "grow":
            size = int(body.get("size_bytes", 0))
            return web.json_response({"size_bytes": await asyncio.to_thread(lambda: self._disks.grow(name, size))})
        machine = str(body.get("machine", ""))
        self._config.spec(machine)
        if verb == "attach":
            self._need_on(machine)
            return web.json_response(
                {"device_path": await asyncio.to_thread(lambda: self._disks.attach(name, machine))}
            )
        if verb == "detach":
            await asyncio.to_thread(lambda: self._disks.detach(name, machine))
            return web.json_response({})
        raise web.HTTPNotFound()

    async def _join(self, request: web.Request) -> web.Response:
        body = await _body(request)
        requests = {str(k): str(v).encode() for k, v in dict(body.get("requests", {})).items()}
        name = str(body.get("machine", ""))
        if "proof" in body:
            reply = await asyncio.to_thread(self._authority.renew, name, Proof.from_json(body["proof"]), requests)
        else:
            reply = await asyncio.to_thread(self._authority.admit, name, str(body.get("token", "")), requests)
        log.info("machine %s has new certificates: %s", name, ", ".join(requests))
        return web.Response(body=reply.to_json(), content_type="application/json")

    async def _sign(self, request: web.Request) -> web.Response:
        body = await _body(request)
        signer, usages = str(body.get("signer", "")), [str(u) for u in body.get("usages", ())]
        asked, lifetime_s = str(body.get("request", "")).encode(), float(body.get("lifetime_s", 0))
        certificate = await asyncio.to_thread(self._authority.sign, signer, asked, usages, lifetime_s)
        log.info("signed a request for %s", signer)
        return web.json_response({"certificate": certificate.decode()})


async def _watch_loop() -> None:
    await LoopWatch("host-agent").beat()  # one beats once: its thread ends with it


async def _kept(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """For ever: a part that fails or returns is missed by nobody here, so it is logged and started again."""
    while True:
        try:
            await run()
            log.error("%s returned; it starts again in %g s", run.__qualname__, _RESTART_S)
        except Exception:  # a part's outermost loop: the machines need the others
            log.exception("%s failed; it starts again in %g s", run.__qualname__, _RESTART_S)
        await asyncio.sleep(_RESTART_S)


def _netem(body: dict[str, Any]) -> dict[str, float]:
    """Raises ValueError."""
    settings = {name: float(body.get(name, 0)) for name in ("delay_ms", "jitter_ms", "loss_percent")}
    for name, most in (("delay_ms", 60_000), ("jitter_ms", 60_000), ("loss_percent", 100)):
        if not 0 <= settings[name] <= most:
            raise ValueError(f"{name}: {settings[name]:g}: must be from 0 to {most}")
    return settings


async def _body(request: web.Request) -> dict[str, Any]:
    if not request.can_read_body:
        return {}
    value = await request.json()
    if not isinstance(value, dict):
        raise ValueError("the body must be a JSON object")
    return value


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal says why, and whether trying again makes sense."""
    try:
        return await handler(request)
    except ConfigError as e:
        return _error(404, e, False)
    except DiskError as e:
        return _error(409 if e.retriable else 400, e, e.retriable)
    except (PkiError, ValueError, TypeError, KeyError) as e:
        return _error(400, e, False)
    except MachineError as e:
        return _error(409, e, True)
    except (EngineError, network.NetworkError, OSError) as e:
        log.error("%s %s: %s", request.method, request.path, e)
        return _error(503, e, True)
    except web.HTTPException:
        raise
    except Exception as e:  # outermost loop of a request: logged, and told as an answer that can be read
        log.exception("%s %s failed", request.method, request.path)
        return _error(500, RuntimeError(f"{type(e).__name__}: {e}"), True)


def _error(status: int, error: Exception, retriable: bool) -> web.Response:
    return web.json_response({"error": str(error), "retriable": retriable}, status=status)


def serve(base: Path, beside: Callable[[ClusterConfig], Sequence[Part]] = lambda _: ()) -> None:
    """Runs the agent in the foreground until SIGTERM; raises Locked when one runs already."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.chdir("/")
    config = load_cluster(base)
    asyncio.run(_serve(config, beside(config)))


async def _serve(config: ClusterConfig, beside: Sequence[Part] = ()) -> None:
    """Locked first: what one agent does while another still ends would be lost on both. The lock's file stays."""
    make_private_dir(config.run)
    lock = Lock(config.run / "host-agent.pid")
    lock.acquire()
    try:
        await HostAgent(config, beside).run()
    finally:
        lock.release()
