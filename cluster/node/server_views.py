"""The pages of the kubelet's server that show the machine: pods, statistics, metrics, configuration, its log directory.

IO through what it is given. Paths and formats are the kubelet's.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from cluster.api.quantity import parse_quantity
from cluster.node import cadvisor, probe_metrics, stats
from cluster.node.config import KubeletConfig
from cluster.node.metering import Meter
from cluster.node.runtime import Runtime
from cluster.node.settings import kubelet_configuration

Obj = dict[str, Any]
LOGS = Path("/var/log")
_TEXT = {"Content-Type": "text/plain; version=0.0.4"}


class PodsSeen(Protocol):
    def pods(self) -> list[Obj]: ...

    def sandboxes(self) -> dict[str, str]:
        """Pod uid -> sandbox id."""
        ...


class Views:
    def __init__(self, config: KubeletConfig, runtime: Runtime, pods: PodsSeen, meter: Meter) -> None:
        self._config = config
        self._runtime = runtime
        self._pods = pods
        self._meter = meter

    def add_routes(self, app: web.Application) -> None:
        pages: dict[str, Callable[[web.Request], Awaitable[web.Response]]] = {
            "/pods": self._list_pods,
            "/runningpods": self._running_pods,
            "/stats/summary": self._summary,
            "/metrics": self.metrics,
            "/metrics/resource": self._resource_metrics,
            "/metrics/cadvisor": self._cadvisor,
            "/metrics/probes": self._probes,
            "/configz": self._configz,
        }
        for path, page in pages.items():
            app.router.add_get(path, page)
        for path in ("/pods", "/runningpods"):
            app.router.add_get(f"{path}/", pages[path])
        if LOGS.is_dir():
            app.router.add_static("/logs", LOGS, show_index=True, follow_symlinks=True)

    async def _list_pods(self, request: web.Request) -> web.Response:
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self._pods.pods()})

    async def _running_pods(self, request: web.Request) -> web.Response:
        """What the engine says, whatever the API knows."""
        found: dict[str, Obj] = {}
        for info in await self._runtime.containers():
            if info.state != "running" or info.is_sandbox:
                continue
            meta = {"name": info.pod.name, "namespace": info.pod.namespace, "uid": info.pod.uid}
            pod = found.setdefault(info.pod.uid, {"metadata": meta, "spec": {"containers": []}, "status": {}})
            pod["spec"]["containers"].append({"name": info.name, "image": info.image_id, "resources": {}})
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [*found.values()]})

    async def metrics(self, request: web.Request) -> web.Response:
        return _metrics_of(REGISTRY)

    async def _probes(self, request: web.Request) -> web.Response:
        return _metrics_of(probe_metrics.REGISTRY)

    async def _sample(self) -> tuple[stats.Sample, stats.NodeFacts]:
        started = {p["metadata"]["uid"]: (p.get("status") or {}).get("startTime", "") for p in self._pods.pods()}
        sandboxes = self._pods.sandboxes()
        sample = await self._meter.sample()
        return sample, await asyncio.to_thread(self._meter.facts, started, sandboxes)

    async def _summary(self, request: web.Request) -> web.Response:
        body = stats.summary(*await self._sample())
        return web.Response(text=json.dumps(body), content_type="application/json")

    async def _resource_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=stats.resource_metrics(await self._meter.sample()).encode(), headers=_TEXT)

    async def _cadvisor(self, request: web.Request) -> web.Response:
        images = {
            str(status.get("containerID", "")).partition("://")[2]: str(status.get("image", ""))
            for pod in self._pods.pods()
            for key in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
            for status in (pod.get("status") or {}).get(key) or ()
        }
        cores = float(parse_quantity(self._config.cpu)) if self._config.cpu else float(os.cpu_count() or 1)
        return web.Response(
            body=cadvisor.metrics(*await self._sample(), images, cores).encode(),
            headers=_TEXT,
        )

    async def _configz(self, request: web.Request) -> web.Response:
        return web.json_response({"kubeletconfig": kubelet_configuration(self._config)})


def _metrics_of(registry: CollectorRegistry) -> web.Response:
    return web.Response(body=generate_latest(registry), headers=_TEXT)
