"""A group of one, on loopback without TLS, in this process: limits, watches under back-pressure, space, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from raft import upkeep
from raft.client import StoreClient
from raft.client_backup import save_snapshot
from raft.errors import Corrupt, Invalid, StoreError
from raft.mvcc.store import Mvcc
from raft.server import StateConfig, StateServer, create_member
from raft.storage.backend_lmdb import LmdbBackend
from raft.storage.errors import DirectoryEmpty, DirectoryLocked, DirectoryNotEmpty
from raft.storage.wal import Wal
from raft.wal_writer import WalWriter
from tests.support.ports import free_ports


class One:
    def __init__(self, directory: Path, **settings: Any) -> None:
        self.address = ("127.0.0.1", *free_ports(2))
        self.directory = directory
        self.settings = {"metrics": None, "tick_ms": 10, **settings}
        if not directory.exists():
            create_member(directory, "one", 1, {1: self.address})
        self.clients: list[StoreClient] = []

    def config(self) -> StateConfig:
        host, peer_port, client_port = self.address
        return StateConfig(dir=self.directory, host=host, peer_port=peer_port, client_port=client_port, **self.settings)

    def client(self, **options: Any) -> StoreClient:
        client = StoreClient([("127.0.0.1", self.address[2])], **{"timeout_s": 60.0, **options})
        self.clients.append(client)
        return client


@contextlib.asynccontextmanager
async def serving(one: One) -> AsyncIterator[StateServer]:
    server = StateServer(one.config())
    task = asyncio.create_task(server.run())
    try:
        yield server
    finally:
        for client in one.clients:
            await client.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_state_survives_restarts_with_and_without_a_flush(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    revisions = []
    for round_ in range(4):
        # The first two flush only at the end, or (odd rounds) never: the log has it.
        one.settings["flush_interval_s"] = 3600 if round_ % 2 else 0.05
        server = StateServer(one.config())
        task = asyncio.create_task(server.run())
        client = one.client()
        assert len((await client.range(b"k", b"l")).kvs) == 10 * round_
        for i in range(10):
            revisions.append(await client.put(b"k/%d/%d" % (round_, i), b""))
        digest = await client.hash(client.endpoints[0])
        await client.close()
        if round_ % 2 and server.member is not None:
            server.member.backend.close()  # as a crash would leave it
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert revisions == list(range(2, 42))
    async with serving(one):
        client = one.client()
        await client.read_index()
        assert (await client.hash(client.endpoints[0]))[:2] == digest[:2]


async def test_directories_are_made_once_and_locked(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    with pytest.raises(DirectoryNotEmpty):
        create_member(one.directory, "one", 1, {1: one.address})
    with pytest.raises(DirectoryEmpty, match="never bootstraps"):
        await StateServer(StateConfig(dir=tmp_path / "empty", host="127.0.0.1")).run()
    async with serving(one):
        await one.client().put(b"k", b"")
        with pytest.raises(DirectoryLocked):
            await StateServer(one.config()).run()
        assert await one.client().put(b"k", b"") == 3


async def test_state_that_is_not_what_was_stored_is_refused(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    async with serving(one):
        await one.client().put(b"k", b"value")
    backend = LmdbBackend(one.directory / "db")
    [(pos, record)] = backend.scan(0, 1 << 62, 10)
    backend.put(pos, record[:-1] + b"X")
    backend.flush()
    backend.close()
    with pytest.raises(Corrupt, match="records hash to"):
        await StateServer(one.config()).run()


async def test_space_quota(tmp_path: Path) -> None:
    one = One(tmp_path / "m", quota_backend_bytes=200_000, auto_compaction_retention_s=0)
    async with serving(one) as server:
        client = one.client()
        with pytest.raises(StoreError, match="database space exceeded") as full:
            for i in range(100):
                await client.put(b"k/%d" % i, b"v" * 10_000)
        assert full.value.code == "no_space"
        for _ in range(100):
            if await client.alarm_list():
                break
        assert await client.alarm_list() == [(1, "NOSPACE")]
        assert server.health()["reason"] == "ALARM NOSPACE"
        with pytest.raises(StoreError) as small:
            await client.put(b"small", b"")
        assert small.value.code == "no_space"
        # Deletes and compaction still go, and make room.
        assert await client.delete(b"k/", b"k0") > 10
        await client.compact(await client.read_index())
        assert server.member is not None
        while not server.member.store.scrub(1000):
            continue
        assert server.member.store.bytes_in_use < 1000
        assert await client.alarm_disarm() == []
        await client.put(b"small", b"")


async def test_the_log_to_replay_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    one = One(tmp_path / "m", snapshot_bytes=200_000, flush_interval_s=0.01)
    async with serving(one) as server:
        client = one.client()
        await client.put(b"serves", b"")
        assert server.member is not None
        engine, written = cast(Any, server.member.consensus), 1
        async with asyncio.timeout(60):
            while engine._marker == 1:
                await client.put(b"%d" % written, b"x" * 50_000)
                written += 1
    wal, replay = Wal.open(tmp_path / "m" / "wal")
    wal.close()
    assert replay.snapshot_marker.index > 1
    assert len(replay.entries) < written


async def test_slow_watchers_catch_up_from_history(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    async with serving(one) as server:
        client, watching = one.client(), one.client()
        slow = watching.watch(b"w/", b"w0", start_revision=1)
        await client.put(b"w/0", b"")
        seen = [event.kv.mod_revision for event in (await anext(slow)).events]
        await asyncio.gather(*(client.put(b"w/%d" % i, b"x" * 20_000) for i in range(1, 1200)))
        last = await client.put(b"w/last", b"")
        assert server.member is not None
        while not seen or seen[-1] < last:
            seen += [event.kv.mod_revision for event in (await anext(slow)).events]
        assert seen == list(range(2, last + 1))
        await slow.aclose()  # type: ignore[attr-defined]


async def test_watchers_that_catch_up_together_get_their_own_events(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    async with serving(one):
        client = one.client()
        for i in range(300):
            await client.put(b"%d/%d" % (i % 3, i), b"%d" % i)

        async def follow(prefix: bytes) -> list[int]:
            seen: list[int] = []
            async for batch in client.watch(prefix, prefix + b"z", start_revision=1):
                seen += [int(event.kv.value) for event in batch.events]
                if len(seen) == 100:
                    return seen
            return seen

        found = await asyncio.gather(*(follow(b"%d/" % i) for i in range(3)))
        assert found == [list(range(i, 300, 3)) for i in range(3)]


async def test_progress_comes_with_a_linearizable_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "PROGRESS_S", 3600.0)  # otherwise it comes by itself, too
    one = One(tmp_path / "m")
    async with serving(one):
        client = one.client()
        first = await client.put(b"w/0", b"")
        async with contextlib.aclosing(client.watch(b"w/", b"w0", start_revision=first)) as watch:  # type: ignore[type-var]
            assert (await anext(watch)).revision == first
            await client.put(b"other", b"")
            revision = await client.read_index()
            batch = await anext(watch)
            assert (batch.revision, batch.events) == (revision, [])


async def test_malformed_requests_get_clear_errors(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    async with serving(one):
        client = one.client()
        assert await client.read_index() == 1
        connection = await client.connection(client.endpoints[0])
        for arguments, match in (
            (("nothing",), "operation 'nothing' is not known"),
            (("txn", [], []), "malformed 'txn'"),
            (("txn", [[b"k", "mod", "~", 1]], [], []), "unknown operator"),
            (("txn", [], [["put", b"", b"", 0]], []), "key is not provided"),
            (("txn", [], [["put", b"k", b"", 0], ["put", b"k", b"", 0]], []), "duplicate key"),
            (("txn", [], [["put", b"k", b"", 0], ["delete", b"a", b"z"]], []), "duplicate key"),
            (("txn", [], [["put", b"k", b"", 0]] * 5000, []), "too many operations"),
            (("range", b"", None, 0, 0, False, False, False), "key is not provided"),
            (("lease_grant", 0, 0), "ttl_s > 0"),
            (("lease_grant", "x", 0), "ttl_s is .x.: must be a number"),
            (("watch", 0, b"k", None, 0, False), None),
        ):
            if match is None:
                continue
            with pytest.raises(Invalid, match=match):
                await connection.call(*arguments)
        assert await client.read_index() == 1


async def test_unknown_operations_are_counted_as_one(tmp_path: Path) -> None:
    """What a client makes up must not fill the member's memory."""
    one = One(tmp_path / "m")
    async with serving(one) as server:
        client = one.client()
        await client.read_index()
        connection = await client.connection(client.endpoints[0])
        for i in range(20):
            with pytest.raises(Invalid, match=f"operation 'made up {i}' is not known here"):
                await connection.call(f"made up {i}")
        assert server._shown is not None
        assert server._shown._service.failed == {("unknown", "invalid"): 20}


async def test_a_transaction_deletes_no_more_than_others_can_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raft.client.DELETE_KEYS", 7)
    one = One(tmp_path / "m", max_delete_keys=10)
    async with serving(one):
        client = one.client()
        for i in range(25):
            await client.put(b"k/%02d" % i, b"")
        whole = (("delete", b"k/", b"k0"),)
        for then, otherwise in ((whole, ()), ((), whole)):
            with pytest.raises(Invalid, match=r"too many keys in one transaction \(25 to delete, limit 10\)"):
                await client.txn((), then, otherwise)
        parts = (("delete", b"k/00", b"k/09"), ("delete", b"k/10", None), ("delete", b"k/11", b"k/12"))
        with pytest.raises(Invalid, match=r"\(11 to delete, limit 10\)"):
            await client.txn((), parts, ())
        assert (await client.range(b"k/", b"k0")).count == 25
        await client.txn(((b"k/00", "version", "=", 0),), parts[:2], parts[2:])  # 10 and 1: one branch alone is run
        assert await client.delete(b"k/00", b"k/10") == 10
        assert await client.delete(b"k/", b"k0") == 14, "the client deletes large ranges in parts"
        assert (await client.range(b"k/", b"k0")).count == 0


async def test_a_saved_snapshot_opens_with_everything_in_it(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    async with serving(one):
        client = one.client()
        for i in range(50):
            await client.put(b"k/%d" % i, b"x" * 1000)
        digest, revision, _, applied = await client.hash(client.endpoints[0])
        (tmp_path / "copy").mkdir()
        saved = await save_snapshot(client.endpoints[0], tmp_path / "copy" / "data.mdb")
    assert (saved.cluster_id, saved.index) == ("one", applied)
    backend = LmdbBackend(tmp_path / "copy")
    store = Mvcc(backend)
    assert (store.hash, store.revision, len(store)) == (digest, revision, 50)
    backend.close()


ETCD_NAMES = """
etcd_server_has_leader etcd_server_is_leader etcd_server_is_learner etcd_server_leader_changes_seen_total
etcd_server_proposals_committed_total etcd_server_proposals_applied_total etcd_server_proposals_pending
etcd_server_proposals_failed_total etcd_server_quota_backend_bytes etcd_server_slow_apply_total etcd_server_id
etcd_server_version etcd_server_snapshot_apply_in_progress_total etcd_debugging_server_lease_expired_total
etcd_disk_wal_fsync_duration_seconds_bucket etcd_disk_wal_fsync_duration_seconds_count
etcd_disk_backend_commit_duration_seconds_sum etcd_disk_backend_snapshot_duration_seconds_count
etcd_mvcc_db_total_size_in_bytes etcd_mvcc_db_total_size_in_use_in_bytes etcd_mvcc_put_total etcd_mvcc_delete_total
etcd_mvcc_txn_total etcd_mvcc_range_total etcd_mvcc_hash_rev_duration_seconds_count
etcd_debugging_mvcc_keys_total etcd_debugging_mvcc_current_revision etcd_debugging_mvcc_compact_revision
etcd_debugging_mvcc_watcher_total etcd_debugging_mvcc_watch_stream_total etcd_debugging_mvcc_slow_watcher_total
etcd_debugging_mvcc_events_total etcd_debugging_lease_granted_total etcd_debugging_lease_revoked_total
etcd_debugging_lease_renewed_total etcd_network_client_grpc_received_bytes_total
etcd_network_client_grpc_sent_bytes_total etcd_network_peer_received_bytes_total grpc_server_started_total
grpc_server_handled_total
""".split()  # noqa: SIM905 - forty names are easier to read so


def parsed(text: str) -> dict[str, float]:
    """Value by name and labels."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def request(name: str, service: str, method: str, code: str = "") -> str:
    """A counter of requests with its labels, as it is shown."""
    kind = "bidi_stream" if service == "Watch" else "unary"
    labels = {"grpc_type": kind, "grpc_service": f"etcdserverpb.{service}", "grpc_method": method}
    labels |= {"grpc_code": code} if code else {}
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"


async def test_metrics_have_etcds_names_and_say_what_happened(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    one = One(tmp_path / "m", metrics=("127.0.0.1", port))
    async with serving(one) as server:
        client = one.client()
        lease = await client.lease_grant(60)
        await client.put(b"k", b"", lease)
        await client.txn([], [("put", b"a", b"", 0), ("put", b"b", b"", 0)])
        await client.delete(b"a", b"c")
        await client.range(b"k")
        with pytest.raises(StoreError, match="lease not found"):
            await client.put(b"k", b"", 7)
        watch = client.watch(b"k", start_revision=1)
        assert (await anext(watch)).events
        found = parsed(await asyncio.to_thread(fetch, port, "/metrics"))
        bare = {name.partition("{")[0] for name in found}
        assert [name for name in ETCD_NAMES if name not in bare] == []
        expected = {
            "etcd_server_has_leader": 1,
            "etcd_server_is_leader": 1,
            "etcd_server_leader_changes_seen_total": 1,
            "etcd_server_proposals_pending": 0,
            "etcd_server_quota_backend_bytes": 2 << 30,
            'etcd_server_id{server_id="1"}': 1,
            "etcd_mvcc_put_total": 3,
            "etcd_mvcc_delete_total": 2,
            "etcd_mvcc_txn_total": 3,
            "etcd_mvcc_range_total": 1,
            "etcd_debugging_mvcc_keys_total": 1,
            "etcd_debugging_mvcc_current_revision": 4,
            "etcd_debugging_mvcc_watcher_total": 1,
            "etcd_debugging_mvcc_watch_stream_total": 1,
            "etcd_debugging_mvcc_events_total": 1,
            "etcd_debugging_lease_granted_total": 1,
            "etcd_debugging_lease_revoked_total": 0,
            request("grpc_server_started_total", "KV", "Txn"): 4,
            request("grpc_server_handled_total", "KV", "Txn", code="OK"): 3,
            request("grpc_server_handled_total", "KV", "Txn", code="NotFound"): 1,
            request("grpc_server_handled_total", "KV", "Range", code="OK"): 1,
            request("grpc_server_started_total", "Watch", "Watch"): 1,
            request("grpc_server_handled_total", "Watch", "Watch", code="OK"): 0,
        }
        assert {name: found[name] for name in expected} == expected
        assert '"healthy": true' in await asyncio.to_thread(fetch, port, "/health")
        assert server.health()["healthy"] is True
        await watch.aclose()  # type: ignore[attr-defined]


async def test_a_failing_disk_stops_the_member(tmp_path: Path) -> None:
    one = One(tmp_path / "m")
    server = StateServer(one.config())
    task = asyncio.create_task(server.run())
    client = one.client(timeout_s=20)
    await client.put(b"k", b"1")
    server.config.faults.add("fail", "wal.fsync")
    with pytest.raises(StoreError) as unknown:
        await client.put(b"k", b"2")
    assert unknown.value.code == "outcome_unknown"
    with pytest.raises(Exception, match="wal"):
        await asyncio.wait_for(task, 60)
    await client.close()
    assert server.health()["healthy"] is False


def test_settings_say_what_is_wrong_and_right(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"tick_ms is 5: must be from 10 to 1000.*without TLS a member may listen"):
        StateServer(StateConfig(dir=tmp_path, host="10.0.0.1", tick_ms=5))


def test_writer_syncs_once_for_all_that_gathered() -> None:
    class Log:
        syncs = 0

        def save(self, hard_state: Any, entries: Any) -> None: ...
        def save_snapshot_marker(self, meta: Any) -> None: ...
        def release_to(self, index: int) -> int:
            return 0

        def sync(self) -> None:
            self.syncs += 1

        def close(self) -> None: ...

    from raft.wal_writer import Write

    log, done = Log(), []
    writer = WalWriter(log, done.append, done.append, lambda s: None)
    for number in range(1, 6):
        writer.submit(Write(number, None, []))
    writer.start()
    writer.stop()
    assert (log.syncs, done) == (1, [5])
