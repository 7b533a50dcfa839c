"""`sk8 snapshot` and `sk8 store` on files: what is restored where, what is refused, and what is printed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli.keyfile import save_keys
from cluster.cli.main import main
from cluster.machine.config import ClusterConfig, load_cluster, save_cluster
from cluster.machine.identity import Authority
from cluster.machine.machine_config import load_machine
from cluster.registry.keys import MEMBER_REQUESTS, RAY_HEAD
from raft.applier import Applier, found_state
from raft.backup.file import describe
from raft.core.memory import bootstrap_meta
from raft.core.types import ConfState
from raft.membership import Members
from raft.mvcc.store import Mvcc
from raft.server import create_member
from raft.storage.backend_lmdb import LmdbBackend
from raft.storage.identity import StateDirectory


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """Of a group whose members are 3, 4 and 7."""
    backend = LmdbBackend(tmp_path / "source", map_bytes=1 << 24, create=True)
    found_state(backend, "old", bootstrap_meta(ConfState(voters=(3, 4, 7))))
    members, store = Members(backend), Mvcc(backend)
    for member in (3, 4, 7):
        members.set(member, ("10.0.0.1", member, member + 1))
    for i in range(20):
        store.txn((), (("put", b"/registry/%d" % i, b"value", 0),))
    store.txn((), (("put", MEMBER_REQUESTS + b"10.89.0.12", b'{"nonce": "old"}', 0),))
    store.txn((), (("put", RAY_HEAD, b'{"machine": "m1", "generation": 0}', 0),))
    store.save_state()
    backend.flush()
    backend.close()
    data = (tmp_path / "source" / "data.mdb").read_bytes()
    path = tmp_path / "saved.db"
    path.write_bytes(data + hashlib.sha256(data).digest())
    return path


@pytest.fixture
def config(tmp_path: Path) -> ClusterConfig:
    return ClusterConfig.local(
        4, 3, base_dir=str(tmp_path / "sk8"), run_dir=str(tmp_path / "run"), cluster_id="old"
    ).validate()


def make(config: ClusterConfig) -> None:
    """A cluster that is off, whose store is members 1 to 3."""
    config.base.mkdir()
    authority = Authority(config)
    authority.create()
    for spec in config.machines:
        machine = config.first_machine(spec.name)
        authority.provision(machine)
        if spec.control_plane:
            founders = {m.id: (m.ip, 2380, 2379) for m in machine.state_members}
            create_member(machine.state_dir / "member", "old", machine.state_member_id, founders)
    save_cluster(config)


def check_restored(config: ClusterConfig, jump: int) -> str:
    """The store of every control plane is the snapshot's, in one new group; its cluster id."""
    found = load_cluster(config.base_dir)
    assert found.cluster_id not in ("", "old")
    for i, spec in enumerate(found.machines):
        machine = load_machine(config.base_dir, spec.name)
        assert (machine.cluster_id, machine.state_bootstrap) == (found.cluster_id, False)
        assert [m.id for m in machine.state_members] == [8, 9, 10]
        if not spec.control_plane:
            assert not (machine.state_dir / "member").exists()
            continue
        with StateDirectory.open(machine.state_dir / "member", cluster_id=found.cluster_id) as directory:
            assert directory.identity.member_id == machine.state_member_id == 8 + i
            assert directory.identity.members == {8 + n: f"10.89.0.{11 + n}:2380" for n in range(3)}
            backend = LmdbBackend(directory.backend)
            applier = Applier(backend, lambda: 0.0, lambda r, e: None, lambda o, s, r: None)
            assert (applier.cluster_id, applier.applied.conf.voters) == (found.cluster_id, (8, 9, 10))
            assert applier.applied.index == 1 and len(applier.store) == 20
            # 22 puts, the deletes of the request that was open and of who was Ray's head, the jump.
            assert applier.store.revision == 25 + jump
            assert sorted(applier.members.removed) == [3, 4, 7]
            backend.close()
    return found.cluster_id


def test_a_stopped_clusters_store_is_replaced(snapshot: Path, config: ClusterConfig) -> None:
    make(config)
    base = ["--base", config.base_dir]
    assert main(["snapshot", "restore", str(snapshot), *base]) == 0
    first = check_restored(config, 1_000_000_000)
    kept = sorted((config.machine("m1").state_dir).glob("before-restore-*"))
    assert len(kept) == 1 and (kept[0] / "identity.json").exists(), "the store as it was is kept"
    assert main(["snapshot", "restore", str(snapshot), "--bump-revision", "0", *base]) == 0
    assert check_restored(config, 0) != first, "each restore makes a new group"


def test_a_cluster_that_is_gone_comes_back_with_its_keys(
    snapshot: Path, config: ClusterConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Authority(config).create()
    save_keys(config, tmp_path / "keys")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    kept = {name: (config.pki / name).read_bytes() for name in ("ca.key", "encryption.key", "sa.key")}
    moved = replace(config, base_dir=str(tmp_path / "other"))
    base = ["--base", moved.base_dir]
    assert main(["snapshot", "restore", str(snapshot), *base]) == 1
    assert "there is no cluster" in capsys.readouterr().err and not moved.base.exists()
    arguments = ["snapshot", "restore", str(snapshot), "--keys", str(tmp_path / "keys"), "-o", "json", *base]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cluster_id"] == check_restored(moved, 1_000_000_000) and document["kept"] == []
    assert {name: (moved.pki / name).read_bytes() for name in kept} == kept
    for spec in moved.machines:
        assert (moved.machine(spec.name).disk / "join.token").exists(), "its new disk may join"
    assert main(arguments) == 1, "there is a cluster now"
    assert "has keys of its own" in capsys.readouterr().err


def test_nothing_is_restored_from_what_is_damaged(
    snapshot: Path, config: ClusterConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(config)
    data = bytearray(snapshot.read_bytes())
    data[9000] ^= 1
    snapshot.write_bytes(data)
    before = sorted(str(path) for path in config.base.rglob("*"))
    for arguments, message in (
        ([str(snapshot)], "SHA-256"),
        ([str(tmp_path / "nothing")], "does not exist"),
        (["newest"], "no snapshot of sk8"),
        ([str(snapshot), "--keys", str(tmp_path / "nothing")], "has keys of its own"),
        (["ftp://x/y"], "must be a directory"),
    ):
        assert main(["snapshot", "restore", *arguments, "--base", config.base_dir]) == 1
        assert message in capsys.readouterr().err
    assert sorted(str(path) for path in config.base.rglob("*")) == before


def test_status_and_list(
    snapshot: Path, config: ClusterConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["snapshot", "status", str(snapshot), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["revision"] == 23 and document["members"] == [3, 4, 7]
    assert document["hash"] == f"{describe(snapshot).hash:016x}"
    assert main(["snapshot", "status", str(snapshot)]) == 0
    assert "TOTAL KEYS" in capsys.readouterr().out
    make(config)
    kept = tmp_path / "sk8" / "snapshots"
    kept.mkdir()
    for name in ("sk8-20270115T080000Z-r22.db", "sk8-20270114T080000Z-r7.db", "other-20270115T080000Z-r9.db"):
        (kept / name).write_bytes(snapshot.read_bytes())
    assert main(["snapshot", "list", "--base", config.base_dir, "-o", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["revision"] for one in listed] == [7, 22] and listed[1]["taken"] == "2027-01-15T08:00:00Z"
    assert main(["snapshot", "status", "newest", "--base", config.base_dir, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["revision"] == 23


def test_keys_that_cannot_be_used(snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    for content, message in ((b"", "cannot be used"), (b'{"format": 2}', "format 2"), (b'{"format": 1}', "damaged")):
        keys.write_bytes(content)
        base = ["--base", str(tmp_path / "none")]
        assert main(["snapshot", "restore", str(snapshot), "--keys", str(keys), *base]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["member", "list"],
        ["store", "status"],
        ["store", "hash"],
        ["store", "alarms"],
        ["snapshot", "save", "/tmp/x.db"],
    ],
)
def test_without_an_identity_nobody_speaks_to_the_store(
    command: list[str], config: ClusterConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    make(config)
    assert main([*command, "--base", config.base_dir]) == 1
    assert "no identity to speak to the store" in capsys.readouterr().err
