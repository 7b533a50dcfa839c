"""Where snapshots are kept: a directory and a bucket behave the same. S3 is moto's server, on a port of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raft.backup.file import describe
from raft.backup.keeper import KeeperConfig, SnapshotKeeper
from raft.backup.targets import Access, Bucket, TargetError, open_target
from raft.client_backup import save_snapshot
from raft.config import StateConfig
from raft.server import StateServer, create_member
from tests.support.cloud_aws import moto
from tests.support.ports import free_ports

HOUR, BORN = 3600.0, 1_800_000_000.0


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with moto() as url:
        yield url


@pytest.fixture
def access(s3: str, tmp_path: Path) -> Access:
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    return Access(s3, str(credentials), "us-east-1")


def bucket_of(access: Access, name: str, scheme: str = "s3") -> Any:
    target = open_target(f"{scheme}://{name}/some/prefix", access)
    assert isinstance(target, Bucket)
    target._client.create_bucket(Bucket=name)
    return target


@pytest.mark.parametrize("kind", ["directory", "s3", "gs"])
def test_a_target_keeps_what_it_is_given(kind: str, access: Access, tmp_path: Path) -> None:
    directory = f"file://{tmp_path / 'kept'}"
    target = open_target(directory) if kind == "directory" else bucket_of(access, f"keeps-{kind}", kind)
    assert target.names() == []
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(bytes(range(256)) * 50_000)  # more than one part of an upload
    moved: list[int] = []
    lock = threading.Lock()

    def progress(n: int) -> None:
        with lock:
            moved.append(n)

    target.put(source, "b.db", progress)
    target.put(source, "a.db")
    assert sum(moved) == source.stat().st_size
    assert sorted(target.names()) == ["a.db", "b.db"]
    target.get("b.db", back)
    assert back.read_bytes() == source.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"c\.db does not exist"):
        target.get("c.db", back)
    target.delete("a.db")
    target.delete("a.db")
    assert target.names() == ["b.db"]


async def test_a_keeper_keeps_in_a_bucket(access: Access, tmp_path: Path) -> None:
    target = await asyncio.to_thread(bucket_of, access, "backups")
    peer, client = free_ports(2)
    create_member(tmp_path / "member", "one", 1, {1: ("127.0.0.1", peer, client)})
    server = StateServer(
        StateConfig(dir=tmp_path / "member", host="127.0.0.1", peer_port=peer, client_port=client, metrics=None)
    )
    running = asyncio.create_task(server.run())

    async def save(to: Path) -> None:
        await save_snapshot(("127.0.0.1", client), to)

    while not server.health()["healthy"]:
        await asyncio.sleep(0.05)
    config = KeeperConfig("sk8", HOUR, 2 * HOUR, tmp_path / "scratch")
    for hour in range(4):
        now_s = BORN + hour * HOUR
        await SnapshotKeeper(config, lambda: target, save, lambda now_s=now_s: now_s).step()  # type: ignore[misc]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    names = await asyncio.to_thread(target.names)
    assert len(names) == 3
    await asyncio.to_thread(target.get, names[-1], tmp_path / "back.db")
    assert describe(tmp_path / "back.db").cluster_id == "one"


def test_a_bucket_that_does_not_exist_says_so(access: Access) -> None:
    with pytest.raises(TargetError, match=r"s3://nowhere: .*NoSuchBucket"):
        open_target("s3://nowhere", access).names()


def test_amazons_buckets_are_reached_where_they_are(access: Access) -> None:
    amazon = open_target("s3://bucket/prefix", Access(credentials=access.credentials, region="eu-central-1"))
    assert isinstance(amazon, Bucket)
    assert amazon._client.meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"


def test_googles_buckets_are_reached_by_their_s3_interface(access: Access) -> None:
    google = open_target("gs://bucket/prefix", Access(credentials=access.credentials))
    assert isinstance(google, Bucket)
    assert google._client.meta.endpoint_url == "https://storage.googleapis.com"
