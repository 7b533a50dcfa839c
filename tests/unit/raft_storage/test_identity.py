"""A State directory: created once, opened by one process, never a fresh member by accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raft.storage.errors import DirectoryEmpty, DirectoryError, DirectoryLocked, DirectoryNotEmpty, MemberRetired
from raft.storage.identity import StateDirectory
from raft.storage.wal import Wal, WalMetadata

MEMBERS = {1: "10.89.0.11:2380", 2: "10.89.0.12:2380"}


def test_created_then_opened(tmp_path: Path) -> None:
    with StateDirectory.create(tmp_path / "state", "c1", 2, MEMBERS) as made:
        assert made.identity.member_id == 2
    with StateDirectory.open(tmp_path / "state", cluster_id="c1") as opened:
        assert opened.identity == made.identity and opened.identity.members == MEMBERS


def test_an_empty_directory_never_bootstraps(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(DirectoryEmpty, match="never bootstraps"):
            StateDirectory.open(path)
    assert list(tmp_path.iterdir()) == []


def test_only_an_empty_directory_becomes_a_member(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(DirectoryNotEmpty):
        StateDirectory.create(tmp_path, "c1", 1, MEMBERS)
    StateDirectory.create(tmp_path / "a", "c1", 1, MEMBERS).close()
    with pytest.raises(DirectoryNotEmpty):
        StateDirectory.create(tmp_path / "a", "c1", 1, MEMBERS)


def test_another_cluster_is_refused(tmp_path: Path) -> None:
    StateDirectory.create(tmp_path, "c1", 1, MEMBERS).close()
    with pytest.raises(DirectoryError, match="belongs to cluster c1"):
        StateDirectory.open(tmp_path, cluster_id="c2")
    StateDirectory.open(tmp_path).close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second process is refused while we have it, and gets it when we are gone; and the other way round."""
    script = (
        "import sys, pathlib\n"
        "from raft.storage.identity import StateDirectory\n"
        "d = StateDirectory.open(pathlib.Path(sys.argv[1]))\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    root = Path(__file__).parents[3]
    ours = StateDirectory.create(tmp_path, "c1", 1, MEMBERS)
    refused = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert refused.returncode == 1 and "DirectoryLocked" in refused.stderr
    assert "in use by another process" in refused.stderr
    ours.close()
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        with pytest.raises(DirectoryLocked, match=f"process {other.pid}"):
            StateDirectory.open(tmp_path)
        other.kill()
    StateDirectory.open(tmp_path).close()


def test_a_creation_that_failed_half_way_is_done_again(tmp_path: Path) -> None:
    def populate(directory: StateDirectory) -> None:
        Wal.create(directory.wal, WalMetadata("c1", 1)).close()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        StateDirectory.create(tmp_path / "s", "c1", 1, MEMBERS, populate=populate)
    with pytest.raises(DirectoryEmpty):
        StateDirectory.open(tmp_path / "s")
    with StateDirectory.create(tmp_path / "s", "c1", 1, MEMBERS, founding=False) as made:
        assert not made.wal.exists() and not made.identity.founding
    StateDirectory.open(tmp_path / "s").close()


def test_members_are_remembered(tmp_path: Path) -> None:
    with StateDirectory.create(tmp_path, "c1", 1, MEMBERS) as directory:
        directory.save_members({**MEMBERS, 3: "10.89.0.13:2380"})
    with StateDirectory.open(tmp_path) as directory:
        assert sorted(directory.identity.members) == [1, 2, 3]


def test_a_retired_member_never_comes_back(tmp_path: Path) -> None:
    with StateDirectory.create(tmp_path, "c1", 1, MEMBERS) as directory:
        directory.retire()
    with pytest.raises(MemberRetired, match="cannot come back"):
        StateDirectory.open(tmp_path)
    with pytest.raises(DirectoryNotEmpty):
        StateDirectory.create(tmp_path, "c1", 1, MEMBERS)


@pytest.mark.parametrize("text", ["", "{}", '{"formatVersion": 99}', "[]"])
def test_an_unreadable_identity(tmp_path: Path, text: str) -> None:
    StateDirectory.create(tmp_path, "c1", 1, MEMBERS).close()
    (tmp_path / "identity.json").write_text(text)
    with pytest.raises(DirectoryError, match=r"identity\.json"):
        StateDirectory.open(tmp_path)
