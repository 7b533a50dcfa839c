"""A Proxy's DNS server as a process of its own, over an API in memory, to be killed by tests.

    python -m tests.support.dns_proxy_process HANDOVER_SOCKET ZONE_FILE NAME...

prints "serving" once it answers; each NAME is a Service of namespace default at 10.96.0.20.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry

from cluster.machinery.client import ObjectList, WatchEvent
from cluster.network.config import DnsConfig
from cluster.network.dns import DnsServer


class Api:
    def __init__(self, names: list[str]) -> None:
        self._services = [
            {"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": "10.96.0.20", "ports": []}}
            for name in names
        ]

    async def list(self, resource: str, namespace: str = "", **_: str) -> ObjectList:
        return ObjectList(self._services if resource == "services" else [], "5")

    async def watch(self, resource: str, namespace: str = "", **_: str) -> AsyncIterator[WatchEvent]:
        await asyncio.Event().wait()
        yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "6"}})


def config(handover_socket: str, zone_file: str) -> DnsConfig:
    return DnsConfig(
        listen_ip="127.0.0.1", port=0, make_link=False, handover_socket=handover_socket, zone_file=zone_file
    )


async def serve(handover_socket: str, zone_file: str, names: list[str]) -> None:
    api: Any = Api(names)
    server = DnsServer(config(handover_socket, zone_file), api, registry=CollectorRegistry())
    task = asyncio.create_task(server.run())
    while not server.health()["ready"]:
        await asyncio.sleep(0.005)
    print("serving", flush=True)
    await task


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2], sys.argv[3:]))
