"""Snapshots on schedule: when, under which name, which go, and how they are kept, and the drill."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3transfer.exceptions import TransferNotDoneError

from raft.backup import schedule
from raft.backup.drill import drill
from raft.backup.file import describe
from raft.backup.keeper import FAILURES, NEWEST, KeeperConfig, SnapshotKeeper
from raft.backup.schedule import Taken
from raft.backup.targets import Directory, Target, TargetError, _clear, open_target
from raft.client_backup import save_from_any
from raft.errors import Corrupt, Invalid, Unavailable
from tests.unit.raft_backup.raft_backup_store import one, saved

HOUR = 3600.0
BORN = 1_800_000_000.0


def test_names_hold_time_and_revision() -> None:
    name = schedule.name_of("sk8-b", BORN, 4711)
    assert name == "sk8-b-20270115T080000Z-r4711.db"
    assert schedule.parse_name("sk8-b", name) == Taken(BORN, 4711, name)
    for other in ("sk8", "sk8-c", ""):
        assert schedule.parse_name(other, name) is None
    for name in ("sk8-20270115T080000Z-r1.db.part", "sk8-20271315T080000Z-r1.db", "notes.txt"):
        assert schedule.parse_name("sk8", name) is None


@given(st.lists(st.integers(0, 2000), max_size=60), st.integers(0, 2000), st.integers(1, 100), st.integers(0, 800))
def test_old_ones_go_and_the_newest_never_does(hours: list[int], now: int, interval: int, retention: int) -> None:
    taken = [Taken(h * HOUR, 1, f"{h}-{i}") for i, h in enumerate(hours)]
    gone = schedule.outdated(taken, now * HOUR, retention * HOUR)
    assert not taken or max(taken) not in gone
    for one_of in taken:
        old = retention and one_of.at_s < (now - retention) * HOUR and one_of != max(taken)
        assert (one_of in gone) == bool(old)
    due_s = schedule.due_in_s(taken, now * HOUR, interval * HOUR)
    assert 0 <= due_s <= interval * HOUR
    recent = any((now - interval) * HOUR < t.at_s <= now * HOUR for t in taken)
    assert (due_s > 0) == recent


async def test_ten_days_of_snapshots(tmp_path: Path) -> None:
    """Every six hours, three days kept, in ten days of which the keeper was replaced all the time."""
    target = Directory(tmp_path / "kept")
    config = KeeperConfig("sk8", 6 * HOUR, 72 * HOUR, tmp_path / "scratch")
    async with one(tmp_path / "store") as store:

        async def save(path: Path) -> None:
            await save_from_any(store.endpoints, path)

        for hour in range(0, 10 * 24, 3):
            clock = BORN + hour * HOUR
            keeper = SnapshotKeeper(config, lambda: target, save, lambda now_s=clock: now_s)  # type: ignore[misc]
            if hour % 48 == 0:
                await store.put(b"day", str(hour).encode())
            pause_s = await keeper.step()
            assert 0 < pause_s <= 600
    names = target.names()
    taken = schedule.of_cluster("sk8", names)
    assert len(taken) == len(names) == 13
    assert {b.at_s - a.at_s for a, b in itertools.pairwise(taken)} == {6 * HOUR}
    assert list((tmp_path / "scratch").iterdir()) == []
    newest = tmp_path / "newest.db"
    target.get(taken[-1].name, newest)
    assert describe(newest).revision == taken[-1].revision > taken[0].revision


async def test_a_keeper_that_fails_says_so_and_tries_again(tmp_path: Path) -> None:
    target, saves = Directory(tmp_path / "kept"), []
    path, _ = await saved(tmp_path)

    async def save(to: Path) -> None:
        saves.append(to)
        if len(saves) == 1:
            raise Unavailable("nobody answers")
        to.write_bytes(path.read_bytes() if len(saves) > 2 else path.read_bytes()[:-7])

    keeper = SnapshotKeeper(KeeperConfig("sk8", HOUR, 0, tmp_path / "scratch"), lambda: target, save, lambda: BORN)
    for error in (Unavailable, Invalid):
        with pytest.raises(error):
            await keeper.step()
        assert target.names() == [], "what is not whole is not kept"
    assert NEWEST._value.get() == 0
    await keeper.step()
    assert len(target.names()) == 1 and keeper.health()["newest"] == target.names()[0]
    assert NEWEST._value.get() == BORN


async def test_failures_on_schedule_are_counted(tmp_path: Path) -> None:
    def nowhere() -> Target:
        raise TargetError("no such bucket")

    async def save(_: Path) -> None:
        pytest.fail("there is nowhere to keep it")

    keeper = SnapshotKeeper(KeeperConfig("sk8", HOUR, 0, tmp_path), nowhere, save)
    before = FAILURES._value.get()
    task = asyncio.create_task(keeper.run())
    async with asyncio.timeout(30):
        while not keeper.error:
            await asyncio.sleep(0.01)
    task.cancel()
    assert FAILURES._value.get() == before + 1 and keeper.health()["error"] == "no such bucket"


async def test_a_drill_restores_the_snapshot_and_compares(tmp_path: Path) -> None:
    path, status = await saved(tmp_path)
    said: list[str] = []
    result = await drill(path, tmp_path / "scratch", say=said.append)
    assert result.hashes == dict.fromkeys((2, 3, 4), status.hash) and result.snapshot == status
    assert said[-1] == "comparing hashes"


async def test_a_drill_of_a_damaged_snapshot_fails(tmp_path: Path) -> None:
    path, _ = await saved(tmp_path)
    whole = path.read_bytes()
    at = whole.index(b"v33")
    path.write_bytes(whole[:at] + b"v34" + whole[at + 3 :])
    with pytest.raises(Corrupt):
        await drill(path, tmp_path / "scratch")


def test_targets_that_do_not_work_say_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="file/below"):
        open_target(str(tmp_path / "file" / "below")).put(tmp_path / "file", "name")
    for url, match in (("ftp://x/y", "must be a directory, s3"), ("s3:///x", "bucket is missing"), ("x", "absolute")):
        with pytest.raises(Invalid, match=match):
            open_target(url)


def test_an_upload_that_fails_is_an_error_of_the_target() -> None:
    failed = TransferNotDoneError("the upload was broken off")
    with pytest.raises(TargetError, match="s3://b: the upload was broken off"), _clear("s3://b"):
        raise failed
