"""The device plugin API, v1beta1: plugins register here, announce their devices, and say how a container gets them.

IO: gRPC over unix sockets in the machine's device-plugins directory, a checkpoint beside them. A plugin that goes away
takes its devices out of allocatable; containers keep what they have. Plugins notice a restarted kubelet by its new
socket and register again, as with Kubernetes' kubelet. That socket has to be there before any plugin is, so every
kubelet serves it, and pays for grpc; who only imports this module does not.

The table is read and changed on the loop alone; threads only see the text that goes into the checkpoint.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cluster.node import device_wire as wire
from cluster.node.device_core import DeviceTable, Grant, NoDevices, ended_before, requested
from cluster.node.pod_env import ConfigError

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_SOCKET = "kubelet.sock"
_CHECKPOINT = "kubelet_internal_checkpoint"
_NOTHING = "{}"
_ALLOCATE_S = 30.0


class DevicePlugins:
    """`changed()` is called when the number of devices is another."""

    def __init__(self, directory: Path, changed: Callable[[], None]) -> None:
        self._directory = directory
        self._changed = changed
        self._table = DeviceTable()
        self._endpoints: dict[str, str] = {}  # resource -> its plugin's socket
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._saved = _NOTHING  # the checkpoint as it was last written
        self._saving = asyncio.Lock()

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """(capacity, allocatable) by resource."""
        return self._table.counts()

    async def run(self) -> None:
        """Serve registrations until cancelled."""
        import grpc

        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / _SOCKET
        path.unlink(missing_ok=True)
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self._register, request_deserializer=wire.register_request)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler}),)
        )
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        try:
            await server.wait_for_termination()
        finally:
            for task in self._watches.values():
                task.cancel()
            await server.stop(None)

    async def _register(self, request: wire.RegisterRequest, context: Any) -> bytes:
        import grpc

        if request.version != wire.VERSION:
            why = f"requested API version {request.version!r} is not supported by kubelet. Supported version is v1beta1"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
        if "/" not in request.resource or "/" in request.endpoint:
            why = f"resource {request.resource!r} at {request.endpoint!r}: a name such as vendor.com/device is needed"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
        log.info("device plugin for %s registered at %s", request.resource, request.endpoint)
        before = self._watches.pop(request.resource, None)
        if before is not None:
            before.cancel()
        self._endpoints[request.resource] = request.endpoint
        watch = self._watch(request.resource, request.endpoint)
        self._watches[request.resource] = asyncio.create_task(watch, name=f"devices {request.resource}")
        return b""

    async def _watch(self, resource: str, endpoint: str) -> None:
        """Follow a plugin's devices until its stream ends."""
        import grpc

        try:
            async with self._channel(endpoint) as channel:
                stream = channel.unary_stream("/v1beta1.DevicePlugin/ListAndWatch", response_deserializer=wire.devices)(
                    b""
                )
                async for listed in stream:
                    if self._table.announce(resource, listed):
                        self._changed()
        except (grpc.aio.AioRpcError, ValueError) as err:
            log.warning("device plugin for %s: %s", resource, err)
        if self._table.lose(resource):
            self._changed()

    def _channel(self, endpoint: str) -> Any:
        import grpc

        return grpc.aio.insecure_channel(f"unix:{self._directory / endpoint}")

    # ------------------------------------------------------------ containers

    async def grants(self, pod: Obj, container: Obj) -> list[Grant]:
        """What a container gets with the devices it asks for. Raises ConfigError or OSError: it is not started then."""
        out = []
        holder, ended = (pod["metadata"]["uid"], container["name"]), ended_before(pod, container["name"])
        for resource, count in requested(container).items():
            if resource not in self._endpoints:
                continue  # counted by configuration alone: there is nothing to hand over
            try:
                ids = self._table.take(holder, resource, count, ended)
            except NoDevices as err:
                raise ConfigError(str(err)) from err
            await self._save()
            out.append(await self._allocate(resource, ids))
        return out

    async def _allocate(self, resource: str, ids: list[str]) -> Grant:
        import grpc

        try:
            async with self._channel(self._endpoints[resource]) as channel:
                call = channel.unary_unary("/v1beta1.DevicePlugin/Allocate", response_deserializer=wire.grant)
                granted: Grant = await call(wire.allocate_request(ids), timeout=_ALLOCATE_S)
                return granted
        except (grpc.aio.AioRpcError, ValueError) as err:
            raise ConfigError(f"device plugin for {resource} did not allocate {', '.join(ids)}: {err}") from err

    async def free(self, uid: str) -> None:
        """A pod is over. Repeatable: what was not written is written by the next call. Raises OSError."""
        self._table.free(uid)
        await self._save()

    async def recall(self, living: Iterable[str]) -> None:
        """Learn what an earlier kubelet had given to pods that are still here."""
        path = self._directory / _CHECKPOINT
        try:
            self._saved = await asyncio.to_thread(path.read_text)
            self._table.recall(json.loads(self._saved), living)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as err:  # of a shape that no kubelet of today writes
            log.error("%s cannot be read, who has which device is not known: %s", path, err)

    async def _save(self) -> None:
        """One writer at a time, each with what is true when its turn comes."""
        async with self._saving:
            text = json.dumps(self._table.to_json())
            if text != self._saved:
                await asyncio.to_thread(self._write, text)
                self._saved = text

    def _write(self, text: str) -> None:
        """Blocking."""
        path = self._directory / _CHECKPOINT
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, path)
