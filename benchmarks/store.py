"""The store: three members as processes on this machine, mutual TLS, every write on three disks' logs.

Puts of 256 bytes over 10,000 keys and linearizable reads, at 1, 64 and 256 concurrent callers in one client process;
then how long writes stand still when the leader is killed, and what a member costs in memory. One disk and all cores
are shared by members, client and peer. The peer is etcd where it is on PATH: three members, plain HTTP between them,
driven through its JSON gateway (there is no gRPC client here), which costs it a hop that our own protocol has not.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import psutil
import uvloop

from benchmarks.frame import Bench, main, percentile
from cluster.machine.pki import Subject, issue, new_ca
from raft.client import StoreClient
from raft.config import CLIENT_ROLE, PEER_ROLE, TlsFiles
from raft.errors import StoreError

KEYS = 10_000
VALUE = b"v" * 256
MEMBERS = (1, 2, 3)
Call = Callable[[int], Awaitable[object]]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def key(i: int) -> bytes:
    return b"/registry/core/pods/default/%06d" % (i % KEYS)


class Group:
    """Our members, as processes of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ca, now = new_ca("bench", dt.datetime.now(dt.UTC)), dt.datetime.now(dt.UTC)
        (root / "ca.crt").write_bytes(ca.cert)
        self.tls: dict[str, TlsFiles] = {}
        for role in (PEER_ROLE, CLIENT_ROLE):
            files = TlsFiles(root / f"{role}.crt", root / f"{role}.key", root / "ca.crt")
            pair = issue(ca, Subject("bench", (role,), ips=("127.0.0.1",), server=role == PEER_ROLE), now)
            files.cert.write_bytes(pair.cert)
            files.key.write_bytes(pair.key)
            self.tls[role] = files
        ports = free_ports(6)
        self.addresses = {m: ("127.0.0.1", ports[2 * i], ports[2 * i + 1]) for i, m in enumerate(MEMBERS)}
        self.processes = {m: self._start(m) for m in MEMBERS}
        self.endpoints = {m: ("127.0.0.1", address[2]) for m, address in self.addresses.items()}

    def _start(self, member: int) -> subprocess.Popen[bytes]:
        host, peer_port, client_port = self.addresses[member]
        peer = self.tls[PEER_ROLE]
        config = {
            "dir": str(self.root / str(member)),
            "host": host,
            "peer_port": peer_port,
            "client_port": client_port,
            "metrics": None,
            "peer_tls": {"cert": str(peer.cert), "key": str(peer.key), "ca": str(peer.ca)},
            "create": {"cluster_id": "bench", "member_id": member, "members": self.addresses},
        }
        path = self.root / f"{member}.json"
        path.write_text(json.dumps(config))
        with (self.root / f"{member}.log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-m", "raft", "--config", str(path)], stderr=log)

    def client(self) -> StoreClient:
        return StoreClient(list(self.endpoints.values()), self.tls[CLIENT_ROLE])

    def stop(self) -> None:
        stop(list(self.processes.values()))


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def load(call: Call, callers: int, count: int) -> tuple[float, list[float]]:
    """(calls a second, milliseconds of each)."""
    numbers = itertools.count()
    took: list[float] = []

    async def caller() -> None:
        while (i := next(numbers)) < count:
            began = time.perf_counter()
            await call(i)
            took.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return count / (time.perf_counter() - began), took


def cpu_s(processes: list[subprocess.Popen[bytes]]) -> float:
    times = [psutil.Process(process.pid).cpu_times() for process in processes]
    return sum(t.user + t.system for t in times)


@contextlib.asynccontextmanager
async def etcd(root: Path) -> AsyncIterator[tuple[Call, Call]]:
    """(put, get) on a group of etcd."""
    ports = free_ports(6)
    urls = [(f"http://127.0.0.1:{ports[2 * i]}", f"http://127.0.0.1:{ports[2 * i + 1]}") for i in range(3)]
    members = ",".join(f"m{i}={peer}" for i, (peer, _) in enumerate(urls))
    processes = []
    for i, (peer, client) in enumerate(urls):
        command = ["etcd", "--name", f"m{i}", "--data-dir", str(root / f"etcd{i}"), "--initial-cluster", members]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client, "--log-level", "error"]
        quiet = subprocess.DEVNULL
        processes.append(subprocess.Popen(command, stdout=quiet, stderr=quiet))  # noqa: ASYNC220 - before the run

    def text(raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def post(path: str, body: dict[str, str]) -> None:
            async with session.post(urls[0][1] + path, json=body) as answer:
                await answer.read()
                answer.raise_for_status()

        async def put(i: int) -> None:
            await post("/v3/kv/put", {"key": text(key(i)), "value": text(VALUE)})

        async def get(i: int) -> None:
            await post("/v3/kv/range", {"key": text(key(i))})

        try:
            async with asyncio.timeout(30):
                await until_up(put)
            yield put, get
        finally:
            stop(processes)


async def until_up(put: Call) -> None:
    while True:
        try:
            await put(0)
            return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)


async def stands_still(group: Group, client: StoreClient) -> float:
    """Seconds without an acknowledged write around the leader's death."""
    leader = int((await client.status(group.endpoints[1]))["leader"])
    widest, last, killed_at, i = 0.0, time.perf_counter(), 0.0, 0
    began = last
    while not killed_at or time.perf_counter() < killed_at + 4:
        if not killed_at and time.perf_counter() > began + 0.5:
            group.processes[leader].send_signal(signal.SIGKILL)
            killed_at = time.perf_counter()
        i += 1
        try:
            await client.put(key(i), VALUE)
        except StoreError:
            continue
        widest, last = max(widest, time.perf_counter() - last), time.perf_counter()
    return widest


async def measure(bench: Bench, root: Path) -> None:
    group = Group(root)
    client = group.client()
    try:
        await client.put(b"warm", b"")
        async with contextlib.AsyncExitStack() as stack:
            peer: tuple[Call, Call] | None = None
            if bench.peer and shutil.which("etcd"):
                peer = await stack.enter_async_context(etcd(root))
            elif bench.peer:
                bench.note("etcd is not on PATH: no peer")
            await rows(bench, group, client, peer)
        widest = await stands_still(group, client)
        bench.add("writes stand still when the leader is killed", widest, "s", samples=1, goal=2.0)
    finally:
        await client.close()
        group.stop()


async def rows(bench: Bench, group: Group, client: StoreClient, peer: tuple[Call, Call] | None) -> None:
    calls: tuple[tuple[str, Call], ...] = (
        ("put", lambda i: client.put(key(i), VALUE)),
        ("linearizable get", lambda i: client.range(key(i))),
    )
    members = list(group.processes.values())
    for which, (name, call) in enumerate(calls):
        for callers in (1, 16) if bench.smoke else (1, 64, 256):
            count = 100 if bench.smoke else 1000 if callers == 1 else 20_000
            before = cpu_s(members)
            rate, took = await load(call, callers, count)
            used_us = (cpu_s(members) - before) / count * 1e6
            theirs = None
            if peer is not None:
                theirs = await load(peer[which], callers, max(100, count // 4))
            title = f"{name}, {callers} callers"
            goal = 10_000.0 if which == 0 and callers == 256 else None
            bench.add(title, rate, "txn/s", samples=count, peer=theirs[0] if theirs else None, goal=goal)
            for percent in (50, 99):
                other = percentile(theirs[1], percent) if theirs else None
                bench.add(f"{title} p{percent}", percentile(took, percent), "ms", samples=count, peer=other)
            bench.add(f"{title}, CPU of all members", used_us, "cpu_us", samples=count)
    worst = max(psutil.Process(process.pid).memory_full_info().pss for process in members)
    bench.add("memory of a member (PSS, largest of three)", worst / 2**20, "MiB", samples=3, goal=100.0)


def run(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(prefix="sk8-bench-store-") as directory:
        uvloop.run(measure(bench, Path(directory)))


if __name__ == "__main__":
    main(run, __doc__)
