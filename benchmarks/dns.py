"""Answers of the node-local DNS server over UDP on loopback: rate, latency and CPU per answer.

The server is a process of its own, as on a machine; this one asks. The peer is dnsmasq with the same names, where it
is installed (CoreDNS is not packaged here). Simulated: Services are objects made here; no API server, no pods.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from typing import Any

import psutil
import uvloop

from benchmarks.frame import Bench, main, percentile
from cluster.machinery.client import ObjectList, WatchEvent
from cluster.network import dns_wire as wire
from cluster.network.config import DnsConfig
from cluster.network.dns import DnsServer

SERVICES = 1000
NAMESPACE = "shop"
WINDOW = 64
A, AAAA = 1, 28


def name_of(index: int) -> str:
    return f"s{index % SERVICES}.default.svc.cluster.local"


class StaticApi:
    """The Services of this benchmark, once."""

    async def list(self, resource: str, namespace: str = "", **_: str) -> ObjectList:
        if resource == "pods":  # this benchmark, as a pod of another namespace
            meta = {"name": "asker", "namespace": NAMESPACE, "resourceVersion": "1"}
            return ObjectList([{"metadata": meta, "spec": {}, "status": {"podIP": "127.0.0.1"}}], "1")
        if resource != "services":
            return ObjectList([], "1")
        return ObjectList(
            [
                {
                    "metadata": {"name": f"s{index}", "namespace": "default", "resourceVersion": "1"},
                    "spec": {"clusterIP": address_of(index), "ports": [{"name": "http", "port": 80}]},
                }
                for index in range(SERVICES)
            ],
            "1",
        )

    async def watch(self, resource: str, namespace: str = "", **_: str) -> AsyncIterator[WatchEvent]:
        await asyncio.Event().wait()
        yield WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": "2"}})


def address_of(index: int) -> str:
    return f"10.96.{1 + index // 250}.{1 + index % 250}"


def serve(ready: Connection) -> None:
    """The server's process."""

    async def run() -> None:
        client: Any = StaticApi()
        server = DnsServer(DnsConfig(listen_ip="127.0.0.1", port=0, make_link=False, node_name="m1"), client)
        task = asyncio.create_task(server.run())
        while not server.health()["ready"]:  # noqa: ASYNC110 - health is all a part shows of itself
            await asyncio.sleep(0.01)
        ready.send(server.port)
        await task

    uvloop.run(run())


def query(index: int, qtype: int, suffix: str = "", short: str = "") -> bytes:
    """`short`: a namespace, for the name as a pod of another namespace writes it."""
    asked = f"s{index % SERVICES}.{short}" if short else name_of(index)
    question = wire.name(asked + suffix) + qtype.to_bytes(2) + b"\0\1"
    return (index & 0xFFFF).to_bytes(2) + b"\1\0\0\1\0\0\0\0\0\0" + question


def rate(port: int, queries: list[bytes], seconds: float, pid: int) -> tuple[float, int, float]:
    """(answers per second, answers, server's CPU seconds per answer) with WINDOW queries in flight on four sockets."""
    selector = selectors.DefaultSelector()
    process = psutil.Process(pid)
    sockets = []
    for _ in range(4):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, sock)
        sockets.append(sock)
    done = sent = 0
    cpu = sum(process.cpu_times()[:2])
    started = time.perf_counter()
    for index in range(WINDOW):
        sockets[index % 4].send(queries[sent % len(queries)])
        sent += 1
    while time.perf_counter() - started < seconds:
        for key, _ in selector.select(0.5):
            sock = key.data
            while True:
                try:
                    sock.recv(2048)
                except BlockingIOError:
                    break
                done += 1
                sock.send(queries[sent % len(queries)])
                sent += 1
    elapsed = time.perf_counter() - started
    used = sum(process.cpu_times()[:2]) - cpu
    selector.close()
    for sock in sockets:
        sock.close()
    return done / elapsed, done, used / max(1, done)


def latencies(port: int, queries: list[bytes], count: int) -> list[float]:
    """Seconds of each of `count` queries asked one at a time."""
    out = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.settimeout(2.0)
        for index in range(count):
            started = time.perf_counter()
            sock.send(queries[index % len(queries)])
            sock.recv(2048)
            out.append(time.perf_counter() - started)
    return out


def start_dnsmasq(directory: str) -> tuple[subprocess.Popen[bytes], int] | None:
    program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
    if program is None:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    hosts = os.path.join(directory, "hosts")
    with open(hosts, "w") as out:
        out.writelines(f"{address_of(index)} {name_of(index)}\n" for index in range(SERVICES))
    os.chmod(directory, 0o755)
    flags = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1"]
    flags += [f"--port={port}", f"--addn-hosts={hosts}", "--local=/cluster.local/", "--pid-file="]
    process = subprocess.Popen([program, *flags])
    time.sleep(0.5)
    return process, port


def run(bench: Bench) -> None:
    seconds, count = (0.3, 200) if bench.smoke else (5.0, 20_000)
    parent, child = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(child,))
    server.start()
    peer: tuple[subprocess.Popen[bytes], int] | None = None
    with tempfile.TemporaryDirectory() as directory:
        try:
            if not parent.poll(30):
                raise SystemExit("the DNS server did not start within 30 s")
            port = int(parent.recv())
            peer = start_dnsmasq(directory) if bench.peer else None
            if bench.peer and peer is None:
                bench.note("dnsmasq is not installed: no peer")
            measure(bench, port, server.pid or 0, peer, seconds, count)
        finally:
            server.terminate()
            server.join()
            if peer is not None:
                peer[0].terminate()
                peer[0].wait()


def measure(
    bench: Bench, port: int, pid: int, peer: tuple[subprocess.Popen[bytes], int] | None, seconds: float, count: int
) -> None:
    found = [query(index, A) for index in range(SERVICES)]
    searched = [query(index, qtype, ".default.svc.cluster.local") for index in range(SERVICES) for qtype in (A, AAAA)]
    # From a pod, whose search path is known: a name of another namespace, found with the first question.
    one_round = [query(index, A, f".{NAMESPACE}.svc.cluster.local", "default") for index in range(SERVICES)]
    for label, queries, goal in (
        ("ClusterIP", found, 100_000.0),
        ("search path of a pod, one round", one_round, 100_000.0),
        ("NXDOMAIN of a search path", searched, None),
    ):
        rate(port, queries, min(0.5, seconds), pid)
        value, done, cpu_s = rate(port, queries, seconds, pid)
        other = rate(peer[1], queries, seconds, peer[0].pid) if peer else None
        bench.add(f"{label}, {WINDOW} in flight", value, "answers/s", samples=done, peer=other and other[0])
        per_core = 1 / cpu_s if cpu_s else 0.0
        bench.add(f"{label}, a core of the server", per_core, "answers/s", samples=done, goal=goal)
        bench.add(f"{label}, server CPU", cpu_s * 1e6, "cpu_us", samples=done, peer=other and other[2] * 1e6)
    times = latencies(port, found, count)
    other_times = latencies(peer[1], found, count) if peer else []
    for percent in (50, 99):
        bench.add(
            f"one at a time, p{percent}",
            percentile(times, percent) * 1000,
            "ms",
            samples=count,
            peer=percentile(other_times, percent) * 1000 if other_times else None,
            goal=10.0 if percent == 99 else None,
        )
    bench.note(f"client and server share {os.cpu_count()} cores")


if __name__ == "__main__":
    main(run, __doc__)
