"""What a member measures, under etcd's names, and the plain HTTP that shows it. IO (the responder).

What it knows without measuring is in member_metrics.py.

A registry of its own per member: several members may live in one process (tests).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_FSYNC_BUCKETS = tuple(0.0005 * 2**i for i in range(15))
_ROUND_TRIP_BUCKETS = tuple(0.0001 * 2**i for i in range(16))
_SNAPSHOT_BUCKETS = tuple(0.01 * 2**i for i in range(17))
_HASH_BUCKETS = tuple(0.01 * 2**i for i in range(15))
_LAG_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.beside: list[CollectorRegistry] = []
        """Shown too: what the process measures of itself."""

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, registry=registry, buckets=buckets)

        self.leader_changes = counter("etcd_server_leader_changes_seen", "Changes of leader seen")
        self.slow_applies = counter("etcd_server_slow_apply", "Requests whose apply took over 100 ms")
        self.wal_fsync = histogram("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log", _FSYNC_BUCKETS)
        self.backend_commit = histogram(
            "etcd_disk_backend_commit_duration_seconds", "Commits of the backend", _FSYNC_BUCKETS
        )
        self.peer_round_trip = Histogram(
            "etcd_network_peer_round_trip_time_seconds",
            "Round trips to a peer",
            ["To"],
            registry=registry,
            buckets=_ROUND_TRIP_BUCKETS,
        )
        self.snapshot_send_failures = counter("etcd_network_snapshot_send_failures", "States that did not arrive")
        self.backend_snapshots = histogram(
            "etcd_disk_backend_snapshot_duration_seconds", "Copies of the backend", _SNAPSHOT_BUCKETS
        )
        self.hash_duration = histogram("etcd_mvcc_hash_rev_duration_seconds", "Hashes of all records", _HASH_BUCKETS)
        self.leases_expired = counter("etcd_debugging_server_lease_expired", "Leases that were not renewed in time")
        self.refused = Counter(
            "sk8_store_refused", "Connections and frames refused", ["port", "reason"], registry=registry
        )
        self.loop_lag = histogram("sk8_store_loop_lag_seconds", "How late the tick came", _LAG_BUCKETS)
        self.gc_pause = histogram("sk8_store_gc_pause_seconds", "Pauses of the garbage collector", _LAG_BUCKETS)

    def render(self) -> bytes:
        return b"".join(generate_latest(registry) for registry in (self.registry, *self.beside))


class MetricsServer:
    """GET /metrics and /health, one request a connection."""

    def __init__(self, metrics: Metrics, health: Callable[[], dict[str, object]]) -> None:
        self._metrics = metrics
        self._health = health
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, host, port, limit=8192)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._answer(head.split(b"\r\n", 1)[0].split())
                header = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                writer.write(header.encode() + b"Connection: close\r\n\r\n" + body)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # whoever asked is gone, or spoke no HTTP
        finally:
            writer.close()

    def _answer(self, request: list[bytes]) -> tuple[str, str, bytes]:
        path = request[1].split(b"?")[0] if len(request) > 1 else b""
        if path == b"/metrics":
            return "200 OK", CONTENT_TYPE_LATEST, self._metrics.render()
        if path in (b"/health", b"/healthz", b"/readyz", b"/livez"):
            health = self._health()
            ok = path == b"/livez" or health["healthy"]
            status = "200 OK" if ok else "503 Service Unavailable"
            return status, "application/json", json.dumps(health).encode()
        return "404 Not Found", "text/plain", b"there are /metrics and /health here\n"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
