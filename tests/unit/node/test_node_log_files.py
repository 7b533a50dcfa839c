"""Log files: CRI's format, rotation, reading, and writing on after a crash. No engine: a list stands for its stream."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.machinery.pod_logs import remove_machine_logs
from cluster.node.cri_log import Renderer, entry, fixed_stamp, resume_after
from cluster.node.docker_logs import LogWriters
from cluster.node.docker_stream import Written
from cluster.node.log_files import LogFiles
from cluster.node.log_reader import log_tail, read_log
from cluster.node.log_rotation import LogRotation
from cluster.node.logs import LogQuery
from cluster.node.runtime import LogOptions, PodRef, RuntimeFailure

POD = PodRef("ns", "web", "1234-uid")
LOG = (
    b"2026-11-27T02:00:01.000000001Z stdout F one\n"
    b"2026-11-27T02:00:02.000000002Z stderr F two\n"
    b"2026-11-27T02:00:03.000000003Z stdout P thr\n"
    b"2026-11-27T02:00:03.000000003Z stdout F ee\n"
)


def files(root: Path, **limits: int) -> LogFiles:
    return LogFiles(root / "pods", root / "containers", **limits)


async def shown(path: Path, options: LogOptions = LogOptions(), limit: int | None = None) -> bytes:  # noqa: B008
    return b"".join([chunk async for chunk in read_log(str(path), options, limit_bytes=limit)])


def test_an_entry_says_whether_it_ends_a_line() -> None:
    assert entry(b"T", 1, b"x y\n") == b"T stdout F x y\n"
    assert entry(b"T", 2, b"half") == b"T stderr P half\n"
    assert entry(b"T", 1, b"\n") == b"T stdout F \n"


@pytest.mark.parametrize(
    ("written", "fixed"),
    [
        (b"2026-11-27T02:00:01Z", b"2026-11-27T02:00:01.000000000Z"),
        (b"2026-11-27T02:00:01.5Z", b"2026-11-27T02:00:01.500000000Z"),
        (b"2026-11-27T02:00:01.25+01:00", b"2026-11-27T02:00:01.250000000+01:00"),
    ],
)
def test_times_are_shown_with_nine_digits(written: bytes, fixed: bytes) -> None:
    assert fixed_stamp(written) == fixed


async def test_reading_by_every_option(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(LOG)
    assert await shown(path) == b"one\ntwo\nthree\n"
    assert await shown(path, LogOptions(stream="stderr")) == b"two\n"
    assert await shown(path, LogOptions(tail=3)) == b"two\nthree\n"
    assert await shown(path, LogOptions(tail=0)) == b""
    assert await shown(path, LogOptions(tail=100)) == b"one\ntwo\nthree\n"
    assert await shown(path, limit=5) == b"one\nt"
    stamped = (await shown(path, LogOptions(timestamps=True))).splitlines()
    assert stamped[0] == b"2026-11-27T02:00:01.000000001Z one" and stamped[2].endswith(b"Z three")
    since = LogQuery.parse({"sinceTime": "2026-11-27T02:00:02Z"}, 0).options
    assert await shown(path, since) == b"two\nthree\n"
    assert await log_tail(str(path), 80, 6) == "three\n"


def test_pieces_that_come_in_any_cut_show_the_same() -> None:
    whole = Renderer(LogOptions()).feed(LOG)
    for cut in range(len(LOG)):
        renderer = Renderer(LogOptions())
        assert renderer.feed(LOG[:cut]) + renderer.feed(LOG[cut:]) == whole


def test_rotation_keeps_so_many_files_and_packs_the_older_ones(tmp_path: Path) -> None:
    logs = files(tmp_path, max_bytes=10, max_files=4)
    path = logs.path(POD, "c", 0)
    logs.prepare(POD, "c")
    for turn in range(6):
        path.write_bytes(b"%d" % turn * 20)
        assert logs.needs_rotation(str(path))
        logs.rotate(str(path), 1_000_000_000 + turn)
    path.write_bytes(b"x")
    assert not logs.needs_rotation(str(path))
    names = sorted(p.name for p in path.parent.iterdir())
    assert len(names) == 4 and names[0] == "0.log" and [n.endswith(".gz") for n in names[1:]] == [True, True, False]
    assert gzip.decompress((path.parent / names[1]).read_bytes()) == b"3" * 20
    assert (path.parent / names[3]).read_bytes() == b"5" * 20


def test_two_rotations_within_one_second_keep_both_files(tmp_path: Path) -> None:
    logs = files(tmp_path, max_files=9)
    path = logs.path(POD, "c", 0)
    logs.prepare(POD, "c")
    for turn in range(4):
        path.write_bytes(b"%d" % turn)
        rotated = logs.rotate(str(path), 1_000_000_000)
        assert rotated.read_bytes() == b"%d" % turn
    packed = sorted(p for p in path.parent.iterdir() if p.suffix == ".gz")
    assert [gzip.decompress(p.read_bytes()) for p in packed] == [b"0", b"1", b"2"] and rotated.name > packed[-1].name


class Reopening:
    """A runtime that may not hear of a rotation, or whose answer may be lost."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hears, self.fails = False, True

    async def reopen_log(self, container_id: str) -> None:
        if self.hears:
            self.path.write_bytes(b"new")
        if self.fails:
            raise RuntimeFailure("the container runtime does not answer")


async def test_a_log_that_is_not_reopened_keeps_its_name_and_is_rotated_later(tmp_path: Path) -> None:
    logs = files(tmp_path, max_bytes=10)
    path = logs.path(POD, "c", 0)
    logs.prepare(POD, "c")
    path.write_bytes(b"x" * 20)
    runtime: Any = Reopening(path)
    rotation = LogRotation(logs, runtime, lambda: [("id", str(path))], period_s=10, clock=lambda: 1e9)
    await rotation.rotate_all()
    assert [(p.name, p.stat().st_size) for p in path.parent.iterdir()] == [("0.log", 20)]
    runtime.hears = True  # and its answer is lost
    await rotation.rotate_all()
    assert path.read_bytes() == b"new" and sorted(p.stat().st_size for p in path.parent.iterdir()) == [3, 20]
    path.write_bytes(b"y" * 30)
    runtime.fails = False
    await rotation.rotate_all()
    assert path.read_bytes() == b"new" and len(list(path.parent.iterdir())) == 3


def test_links_go_with_their_run_and_with_their_pod(tmp_path: Path) -> None:
    logs = files(tmp_path)
    logs.prepare(POD, "c")
    for attempt, name in enumerate(("aa", "bb")):
        path = logs.path(POD, "c", attempt)
        path.write_text("x")
        logs.link(str(path), POD, "c", name * 32)
    link = tmp_path / "containers" / f"web_ns_c-{'aa' * 32}.log"
    assert link.readlink() == tmp_path / "pods" / "ns_web_1234-uid" / "c" / "0.log"
    logs.remove_run(str(logs.path(POD, "c", 0)), POD, "c", "aa" * 32)
    assert [p.name for p in (tmp_path / "containers").iterdir()] == [f"web_ns_c-{'bb' * 32}.log"]
    logs.prepare(PodRef("ns", "other", "5678"), "c")
    (tmp_path / "kubelet" / "pods" / "1234-uid").mkdir(parents=True)
    remove_machine_logs(tmp_path / "kubelet", logs.pods, logs.containers)
    assert not list((tmp_path / "containers").iterdir()) and [p.name for p in (tmp_path / "pods").iterdir()] == [
        "ns_other_5678"
    ]


def test_a_link_that_goes_meanwhile_holds_up_no_other_pods_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: two pods removed at once, and one of them stayed Terminating for good."""
    logs = LogFiles(tmp_path / "pods", tmp_path / "containers", max_bytes=0, max_files=1)
    logs.prepare(POD, "app")
    logs.link(str(logs.path(POD, "app", 0)), POD, "app", "id-of-ours")
    (tmp_path / "containers" / "another.log").symlink_to(tmp_path / "pods" / "another")
    readlink = os.readlink

    def vanishing(path: Path) -> str:
        if Path(path).name == "another.log":
            Path(path).unlink()
        return readlink(path)

    monkeypatch.setattr(os, "readlink", vanishing)
    logs.remove_pod(POD.uid)
    assert not list((tmp_path / "containers").iterdir()) and not list((tmp_path / "pods").iterdir())


async def test_a_followed_log_goes_on_in_the_file_after_rotation(tmp_path: Path) -> None:
    logs = files(tmp_path)
    logs.prepare(POD, "c")
    path = logs.path(POD, "c", 0)
    path.write_bytes(LOG)
    over = False

    async def complete() -> bool:
        return over

    got: list[bytes] = []

    async def follow() -> None:
        async for chunk in read_log(str(path), LogOptions(follow=True), complete=complete):
            got.append(chunk)

    async with asyncio.timeout(60):
        task = asyncio.create_task(follow())
        while b"".join(got) != b"one\ntwo\nthree\n":
            await asyncio.sleep(0.01)
        logs.rotate(str(path), 1_000_000_000)
        path.write_bytes(b"2026-11-27T02:00:04.0Z stdout F four\n")
        while not b"".join(got).endswith(b"four\n"):
            await asyncio.sleep(0.01)
        over = True
        await task
    assert b"".join(got) == b"one\ntwo\nthree\nfour\n"


class Engine:
    """Keeps what was written, and answers from a time on; breaks off once after `breaks_after` items."""

    def __init__(self, items: Written, breaks_after: int) -> None:
        self.items = items
        self.breaks_after = breaks_after
        self.asked: list[str] = []

    async def source(self, container_id: str, since: str) -> AsyncIterator[Written]:
        self.asked.append(since)
        first = len(self.asked) == 1
        for item in [i for i in self.items if _nanos(i[1]) >= since][: self.breaks_after if first else None]:
            yield [item]

    async def running(self, container_id: str) -> bool:
        return len(self.asked) == 1


def _nanos(item: bytes) -> str:
    """The seconds of an item's time as the engine's `since` counts them (all items here are of one minute)."""
    return f"{1795744800 + int(item[17:19])}.{item[20:29].decode()}"


@pytest.mark.parametrize("breaks_after", [0, 1, 2, 3, 4, 5])
async def test_a_stream_that_breaks_off_anywhere_is_written_once(tmp_path: Path, breaks_after: int) -> None:
    """Two pieces of one line have one time, and stderr's time is a moment before what was written earlier."""
    items: Written = [
        (1, b"2026-11-27T02:00:01.000000001Z one\n"),
        (1, b"2026-11-27T02:00:02.000000005Z piece "),
        (1, b"2026-11-27T02:00:02.000000005Z end\n"),
        (2, b"2026-11-27T02:00:02.000000002Z late\n"),
        (1, b"2026-11-27T02:00:03.000000000Z last\n"),
    ]
    engine = Engine(items, breaks_after)
    writers = LogWriters(engine.source, engine.running)
    path = tmp_path / "0.log"
    writers.start("id", str(path))
    async with asyncio.timeout(60):
        await writers.written("id")
    assert await shown(path) == b"one\npiece end\nlate\nlast\n"
    assert writers.complete("id") and len(engine.asked) == 3
    await writers.close()


async def test_last_words_that_a_followed_stream_lacks_are_written(tmp_path: Path) -> None:
    """Regression: the engine ended the stream with the container, before its last line; a termination message that fell
    back to the log was empty."""

    async def ended(container_id: str) -> bool:
        return False

    engine = Engine([(1, b"2026-11-27T02:00:01.000000001Z DONE")], 0)
    writers = LogWriters(engine.source, ended)
    writers.start("id", str(tmp_path / "0.log"))
    async with asyncio.timeout(60):
        await writers.written("id")
    assert await log_tail(str(tmp_path / "0.log"), 80, 2048) == "DONE"
    await writers.close()


async def test_a_torn_last_line_is_cut_off_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"2026-11-27T02:00:01.000000001Z stdout F one\n2026-11-27T02:00:02.0000")
    items: Written = [(1, b"2026-11-27T02:00:01.000000001Z one\n"), (1, b"2026-11-27T02:00:02.000000002Z two\n")]
    engine = Engine(items, 9)
    writers = LogWriters(engine.source, engine.running)
    writers.start("id", str(path))
    async with asyncio.timeout(60):
        await writers.written("id")
    assert await shown(path) == b"one\ntwo\n"
    await writers.close()


def test_where_a_writer_goes_on_is_exact_to_the_nanosecond() -> None:
    resume = resume_after(b"2026-11-27T02:00:02.015000002Z stdout F two\n")
    assert resume.since == "1795744802.005000002" and sum(resume.known.values()) == 1
    assert resume_after(b"").since == ""


async def test_a_pod_that_is_gone_gets_no_new_directory(tmp_path: Path) -> None:
    engine = Engine([(1, b"2026-11-27T02:00:01.000000001Z one\n")], 9)
    writers = LogWriters(engine.source, engine.running)
    writers.start("id", str(tmp_path / "gone" / "c" / "0.log"))
    async with asyncio.timeout(60):
        await writers.written("id")
    assert not (tmp_path / "gone").exists()
    await writers.close()
