"""The mount table as text: what is shared, what lies below, in which order to unmount."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.cloud import mounts
from cluster.cloud.cleanup import Leftovers
from cluster.cloud.machines import Record, launch_command
from cluster.cloud.mounts import is_self_bind, mount_of, mounts_below, parse_mountinfo
from cluster.machine.config import ClusterConfig
from cluster.machine.processes import ProcessId

TABLE = r"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
44 27 254:0 /var/lib/sk8 /var/lib/sk8 rw,relatime shared:3 - ext4 /dev/vda rw
50 44 7:0 / /var/lib/sk8/machines/m1/kubelet/pods/a\040b/mount rw shared:9 master:2 - ext4 /dev/loop0 rw
51 44 0:50 / /var/lib/sk8/machines/m1/kubelet/pods/t rw shared:10 - tmpfs tmpfs rw
52 51 0:51 / /var/lib/sk8/machines/m1/kubelet/pods/t rw shared:11 - tmpfs tmpfs rw
60 27 254:16 / /var/lib/sk8other rw - ext4 /dev/vdb rw
"""


def test_fields_and_escapes() -> None:
    table = parse_mountinfo(TABLE)
    assert [m.shared for m in table] == [False, True, True, True, True, False]
    assert table[2].path == Path("/var/lib/sk8/machines/m1/kubelet/pods/a b/mount")
    assert (table[2].kind, table[2].source) == ("ext4", "/dev/loop0")


def test_the_mount_a_path_is_on_is_the_deepest_and_latest() -> None:
    table = parse_mountinfo(TABLE)
    found = mount_of(Path("/var/lib/sk8/machines/m1/kubelet/pods/t/x"), table)
    assert found is not None and found.id == 52
    found = mount_of(Path("/var/lib/sk8other"), table)
    assert found is not None and found.id == 60
    found = mount_of(Path("/var/lib/else"), table)
    assert found is not None and found.id == 27


def test_unmounting_goes_from_the_deepest_and_latest_and_never_beside() -> None:
    below = mounts_below(Path("/var/lib/sk8"), parse_mountinfo(TABLE))
    assert [m.id for m in below] == [50, 52, 51]


def test_a_directory_bound_onto_itself_is_told_from_a_disk_mounted_on_it() -> None:
    table = parse_mountinfo(TABLE)
    assert [m.id for m in table if is_self_bind(m, table)] == [44]
    disk = r"""27 1 254:0 / / rw - ext4 /dev/vda rw
40 27 254:16 / /var/lib/sk8 rw - ext4 /dev/vdb rw
41 40 254:16 / /var/lib/sk8 rw shared:1 - ext4 /dev/vdb rw
"""
    table = parse_mountinfo(disk)
    assert [m.id for m in table if is_self_bind(m, table)] == [41]


def test_machine_records_survive_their_file() -> None:
    record = Record(ProcessId(10, 111), ProcessId(11, 112))
    assert Record.from_json(record.to_json()) == record


def test_a_machine_is_the_first_process_of_its_own_namespaces() -> None:
    command = launch_command(ClusterConfig.local().machine("m2"))
    assert command[:3] == ["nsenter", "--net=/run/netns/sk8-m2", "unshare"]
    assert {"--pid", "--fork", "--mount-proc", "--kill-child"} <= set(command)
    assert command[-4:] == ["--machine", "m2", "--base", "/var/lib/sk8"]


def test_leftovers_are_told_in_words() -> None:
    assert Leftovers().summary() == "nothing" and not Leftovers().any
    found = Leftovers(namespaces=["sk8-m1"], loops=["/dev/loop0"])
    assert found.any and found.summary() == "1 network namespaces, 1 loop devices"


class Table:
    """Stands where the kernel's mount table would; `refuses`: the source that cannot be mounted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: str = "") -> None:
        self.on: list[mounts.Mount] = []
        self.refuses = refuses
        monkeypatch.setattr(mounts, "mounts", lambda: list(self.on))
        monkeypatch.setattr(mounts, "_mount", self.mount)
        monkeypatch.setattr(mounts, "_unmount", lambda target, flags: self.on.pop())

    def mount(self, source: str, target: str, flags: int) -> None:
        if source == self.refuses:
            raise OSError(1, "Operation not permitted")
        if source != "none":
            time.sleep(0.05)  # so that others look meanwhile
            kind = "proc" if source == "/proc" else "ext4"
            self.on.append(mounts.Mount(1, 0, "0:5", "/", Path(target), False, kind, source))


def test_machines_that_start_side_by_side_keep_one_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: they stacked several, and `sk8 down` took one away."""
    table, kept = Table(monkeypatch), tmp_path / "proc"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(mounts.keep_proc, [kept] * 4))
    assert [mount.kind for mount in table.on] == ["ext4", "proc"]
    table.on *= 2
    mounts.drop_proc(kept)
    assert table.on == [] and not kept.exists()


def test_a_proc_that_could_not_be_made_read_only_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(monkeypatch, refuses="none")
    with pytest.raises(OSError, match="not permitted"):
        mounts.keep_proc(tmp_path / "proc")
    assert table.on == []
