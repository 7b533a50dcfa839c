"""Disks: the table's rules, against a dumb oracle and across restarts of its owner."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cloud.disks import Disk, DiskError, Disks, DiskTable

MIB = 1 << 20


def test_a_disk_is_attached_to_one_machine_at_a_time() -> None:
    table = DiskTable().created("pg", 8 * MIB).attached("pg", "m1")
    with pytest.raises(DiskError, match="attached to machine m1; it can be attached to m2 once it is detached") as e:
        table.attached("pg", "m2")
    assert e.value.retriable
    assert table.attached("pg", "m1") is table
    assert table.detached("pg", "m1").attached("pg", "m2").get("pg") == Disk("pg", 8 * MIB, "m2")


def test_detaching_never_takes_from_another_machine() -> None:
    table = DiskTable().created("pg", 8 * MIB).attached("pg", "m1")
    assert table.detached("pg", "m2") is table
    assert table.detached("nothing", "m2") is table


def test_creating_is_idempotent_for_the_same_size_only() -> None:
    table = DiskTable().created("pg", 8 * MIB)
    assert table.created("pg", 8 * MIB) is table
    with pytest.raises(DiskError, match="exists with 8388608 bytes"):
        table.created("pg", 9 * MIB)


@pytest.mark.parametrize(("name", "size"), [("../x", MIB), ("A", MIB), ("", MIB), ("a", 0)])
def test_names_and_sizes_are_checked(name: str, size: int) -> None:
    with pytest.raises(DiskError, match="must be"):
        DiskTable().created(name, size)


def test_an_attached_disk_is_not_deleted() -> None:
    table = DiskTable().created("pg", MIB).attached("pg", "m1")
    with pytest.raises(DiskError, match="detach it first"):
        table.deleted("pg")
    assert table.detached("pg", "m1").deleted("pg").disks == {}
    assert table.deleted("other") is table


NAMES, MACHINES = st.sampled_from("ab"), st.sampled_from(["m1", "m2"])
OPERATION = st.one_of(
    st.tuples(st.just("created"), NAMES, st.sampled_from([MIB, 2 * MIB])),
    st.tuples(st.just("deleted"), NAMES),
    st.tuples(st.just("attached"), NAMES, MACHINES),
    st.tuples(st.just("detached"), NAMES, MACHINES),
)


@given(st.lists(OPERATION, max_size=30))
def test_the_table_agrees_with_an_oracle_and_survives_its_file(operations: list[tuple[str, ...]]) -> None:
    table, oracle = DiskTable(), dict[str, str]()
    for name, *arguments in operations:
        disk = str(arguments[0])
        try:
            table = DiskTable.from_json(getattr(table, name)(*arguments).to_json())
        except DiskError:
            continue
        match name:
            case "created":
                oracle.setdefault(disk, "")
            case "deleted":
                oracle.pop(disk, None)
            case "attached":
                assert oracle[disk] in ("", str(arguments[1]))
                oracle[disk] = str(arguments[1])
            case "detached" if oracle.get(disk) == arguments[1]:
                oracle[disk] = ""
        assert {n: d.attached_to for n, d in table.disks.items()} == oracle


def test_images_are_sparse_private_and_found_again(tmp_path: Path) -> None:
    disks = Disks(tmp_path / "disks")
    disks.create("pg", 64 * MIB)
    image = tmp_path / "disks" / "pg.img"
    assert image.stat().st_size == 64 * MIB and image.stat().st_blocks == 0
    assert image.stat().st_mode & 0o777 == 0o600
    again = Disks(tmp_path / "disks")
    assert again.table == disks.table
    again.delete("pg")
    assert not image.exists() and not Disks(tmp_path / "disks").table.disks


def test_a_size_that_no_file_can_have_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(fd: int, length: int) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    disks = Disks(tmp_path / "disks")
    monkeypatch.setattr(os, "ftruncate", too_large)
    with pytest.raises(DiskError, match=f"{1 << 60} bytes are more than a file in .*/disks can have"):
        disks.create("huge", 1 << 60)
    assert not disks.table.disks and not disks.image("huge").exists()
