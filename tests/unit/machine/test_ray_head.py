"""Who is Ray's head: the decision, the record on each machine, what machines tell each other, the watching part."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from actors.ray_head import STUCK_S, RayHeadWatch
from cluster.machine import head as heads
from cluster.machine import rejoin
from cluster.machine.config import ClusterConfig
from cluster.machine.config_json import ConfigError
from cluster.machine.head import Head, HeadRecord, successor
from cluster.machine.rejoin import HeadStatus, Unreachable
from cluster.registry.keys import RAY_HEAD as KEY
from cluster.registry.store import put
from tests.support.memory_store import MemoryStore
from tests.unit.machine.test_machine_parts import machine_in

CONFIG = ClusterConfig.local(3)
PLANES = ["m1", "m2", "m3"]


class TestWhoFollows:
    def test_nobody_while_the_head_answers(self) -> None:
        heard = {"m1": 100.0, "m2": 100.0, "m3": 100.0}
        assert successor(Head("m1"), PLANES, heard, 219.9, 120) is None
        assert successor(Head("m1"), PLANES, heard, 1e9, 0) is None, "switched off"

    def test_the_next_in_the_order_that_answers(self) -> None:
        heard = {"m1": 100.0, "m2": 219.0, "m3": 219.0}
        assert successor(Head("m1"), PLANES, heard, 220, 120) == Head("m2", 1)
        heard["m2"] = 190.0
        assert successor(Head("m1"), PLANES, heard, 220, 120) == Head("m3", 1)
        heard["m3"] = 190.0
        assert successor(Head("m1"), PLANES, heard, 220, 120) is None

    def test_it_goes_round(self) -> None:
        heard = {"m1": 219.0, "m2": 219.0, "m3": 100.0}
        assert successor(Head("m3", 4), PLANES, heard, 220, 120) == Head("m1", 5)


class TestTheRecord:
    def record(self, tmp_path: Path, name: str = "m2") -> HeadRecord:
        config = replace(CONFIG, base_dir=str(tmp_path))
        machine = config.machine(name)
        machine.disk.mkdir(parents=True, exist_ok=True)
        return HeadRecord(config, machine)

    def test_it_begins_with_the_configured_head_and_survives(self, tmp_path: Path) -> None:
        record = self.record(tmp_path)
        assert record.head == Head("m1", 0)
        record.learn({"machine": "m2", "generation": 1})
        assert record.changed.is_set()
        again = self.record(tmp_path)
        assert again.head == Head("m2", 1)
        assert again.config.gcs_address == "10.89.0.12:6379"
        config = replace(CONFIG, base_dir=str(tmp_path))
        assert heads.current(config, config.machine("m2")).ray_head == "m2"
        assert heads.current(config, config.machine("m3")).ray_head == "m1", "nobody has told that machine"
        assert heads.newest(config) == Head("m2", 1)

    @pytest.mark.parametrize(
        "raw",
        [
            {"machine": "m3", "generation": 1},  # not newer: there is one head a generation
            {"machine": "m3", "generation": 0},
            {"machine": "m9", "generation": 2},
            {"machine": "m3", "generation": "x"},
            {"machine": "m3"},
            None,
            [],
        ],
    )
    def test_only_a_newer_generation_is_news(self, tmp_path: Path, raw: Any) -> None:
        record = self.record(tmp_path)
        record.learn({"machine": "m2", "generation": 1})
        record.changed.clear()
        record.learn(raw)
        assert record.head == Head("m2", 1) and not record.changed.is_set()

    def test_a_record_that_cannot_be_read_counts_for_nothing(self, tmp_path: Path) -> None:
        record = self.record(tmp_path)
        (replace(CONFIG, base_dir=str(tmp_path)).machine("m2").disk / "ray-head.json").write_text("{")
        assert self.record(tmp_path).head == record.head == Head("m1", 0)


def test_metadata_of_another_time_as_head_is_not_used_again(tmp_path: Path) -> None:
    machine = replace(CONFIG.machine("m1"), base_dir=str(tmp_path))
    first = rejoin.current_epoch(machine)
    (machine.ray_dir / "gcs" / "CURRENT").write_text("x")
    third = rejoin.current_epoch(machine, 3)
    assert third.startswith("3-") and third != first
    assert not (machine.ray_dir / "gcs" / "CURRENT").exists()
    (machine.ray_dir / "gcs" / "CURRENT").write_text("x")
    assert rejoin.current_epoch(machine, 3) == third


def test_a_takeover_sooner_than_a_restart_is_refused() -> None:
    with pytest.raises(ConfigError, match="ray_head_takeover_s: 5: must be at least 20 s"):
        replace(CONFIG, ray_head_takeover_s=5).validate()
    replace(CONFIG, ray_head_takeover_s=0).validate()


@pytest.mark.parametrize(("planes", "believed"), [(["m1"], True), (["m2"], False)])
async def test_who_is_head_is_believed_of_control_planes_alone(
    tmp_path: Path, planes: list[str], believed: bool
) -> None:
    """The caller shows m1's certificate."""
    server_context, client_context = rejoin.contexts(machine_in(tmp_path))
    client_context.check_hostname = False
    probe = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    listen = ("127.0.0.1", int(probe.sockets[0].getsockname()[1]))
    probe.close()
    learnt: list[Any] = []
    status = {"epoch": "e1", "ensured": True, "head": {"machine": "m1", "generation": 0}}
    server = rejoin.HeadServer(listen, server_context, lambda: status, turn_s=60, learn=learnt.append, planes=planes)
    task = asyncio.create_task(server.run())
    client = rejoin.HeadClient(listen, client_context)
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    told = await client.status(tell={"machine": "m2", "generation": 1})
                    break
                except Unreachable:
                    await asyncio.sleep(0.01)
        assert told.head == {"machine": "m1", "generation": 0}
        assert learnt == ([{"machine": "m2", "generation": 1}] if believed else [])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class FakeMachine:
    def __init__(self) -> None:
        self.on = True
        self.head = Head("m1")
        self.ray: str = rejoin.RUNNING

    async def status(self, timeout_s: float = 2.0, *, tell: Any = None) -> HeadStatus:
        if not self.on:
            raise Unreachable("off")
        if tell is not None:
            self.head = Head(tell["machine"], tell["generation"])
        return HeadStatus("e", True, self.head.to_json(), self.ray)


class Group:
    """Three machines and a Supervisor with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore(lambda: self.now)
        self.machines = {name: FakeMachine() for name in PLANES}

    async def watch(self, fence: tuple[Any, ...] = ()) -> RayHeadWatch:
        watch = RayHeadWatch(self.store, lambda: fence, self.machines, PLANES, "m1", 120, clock=lambda: self.now)
        watch._heard = dict.fromkeys(self.machines, self.now)
        return watch

    async def stored(self) -> Any:
        found = await self.store.range(KEY)
        return orjson.loads(found.kvs[0].value) if found.kvs else None


async def test_a_silent_head_is_followed_and_everybody_is_told() -> None:
    group = Group()
    watch = await group.watch()
    assert await watch.look() == Head("m1", 0)
    group.machines["m1"].on = False
    group.now += 119
    assert await watch.look() == Head("m1", 0)
    group.now += 2
    assert await watch.look() == Head("m2", 1)
    assert await group.stored() == {"machine": "m2", "generation": 1}
    assert group.machines["m2"].head == group.machines["m3"].head == Head("m2", 1)
    group.machines["m1"].on = True
    assert await watch.look() == Head("m2", 1)
    assert group.machines["m1"].head == Head("m2", 1), "the old head is told when it is back"


async def test_who_does_not_lead_gives_the_role_to_nobody() -> None:
    group = Group()
    await group.store.txn([], [put(b"/sk8/leader/sk8-supervisor", b"another")])
    watch = await group.watch(fence=((b"/sk8/leader/sk8-supervisor", "create", "=", 1),))
    group.machines["m1"].on = False
    await watch.look()
    group.now += 121
    assert await watch.look() == Head("m1", 0)
    assert await group.stored() is None
    assert group.machines["m2"].head == Head("m1", 0)


async def test_of_two_decisions_from_one_sight_one_is_made() -> None:
    group = Group()
    one, two = await group.watch(), await group.watch()
    group.machines["m1"].on = False
    group.now += 121
    await asyncio.gather(one.look(), two.look())
    assert await group.stored() == {"machine": "m2", "generation": 1}


async def test_a_new_leader_waits_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    group.machines["m1"].on = False
    watch = await group.watch()
    group.now += 121  # enough for who was the leader until now
    looked, look = asyncio.Event(), watch.look

    async def one_look() -> Head:
        head = await look()
        looked.set()
        return head

    monkeypatch.setattr(watch, "look", one_look)
    task = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(30):
            await looked.wait()
        assert await group.stored() is None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_restored_store_learns_from_the_machines_who_is_head() -> None:
    """What it says is older than what they have on their disks, and they would not believe it."""
    group = Group()
    await group.store.txn([], [put(KEY, b'{"machine":"m3","generation":1}')])
    for name in ("m1", "m2"):
        group.machines[name].head = Head("m2", 4)
    watch = await group.watch()
    assert await watch.look() == Head("m2", 4)
    assert await group.stored() == {"machine": "m2", "generation": 4}
    assert await watch.look() == Head("m2", 4)
    assert group.machines["m3"].head == Head("m2", 4)
    group.machines["m2"].on = False
    group.now += 110
    assert await watch.look() == Head("m2", 4)
    group.now += 11
    assert await watch.look() == Head("m3", 5)


async def test_what_machines_know_is_written_by_the_leader_alone() -> None:
    group = Group()
    group.machines["m2"].head = Head("m2", 4)
    watch = await group.watch(fence=((b"/sk8/leader/sk8-supervisor", "create", "=", 1),))
    assert await watch.look() == Head("m1", 0)
    assert await group.stored() is None


async def test_a_head_without_ray_is_followed_in_the_end() -> None:
    group = Group()
    watch = await group.watch()
    assert await watch.look() == Head("m1", 0)
    group.machines["m1"].ray = "starting"
    for _ in range(int(STUCK_S / 10) - 1):  # it is given time
        group.now += 10
        assert await watch.look() == Head("m1", 0)
    for _ in range(12):
        group.now += 10
        await watch.look()
    group.now += 10
    assert await watch.look() == Head("m2", 1)
    assert group.machines["m1"].head == Head("m2", 1), "it answers, so it is told"


async def test_a_key_that_cannot_be_read_counts_for_nothing() -> None:
    group = Group()
    await group.store.txn([], [put(KEY, b"{")])
    assert await (await group.watch()).look() == Head("m1", 0)
