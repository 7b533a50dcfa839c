"""The Node's status: when the engine counts as down, what a stepped wall clock changes (nothing), resources by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from cluster.node.config import KubeletConfig
from cluster.node.node_agent import RUNTIME_SYNC_THRESHOLD_S, NodeAgent, RuntimeSync
from cluster.node.node_status import MachineFacts
from cluster.node.runtime import ImageEntry, RuntimeFailure
from tests.support.eventually import until
from tests.support.fake_clock import FakeClock

FACTS = MachineFacts(4, 8 << 30, 100 << 30, "mid", "uuid", "boot", "6.1", "Debian", "amd64")
CONFIG = KubeletConfig("m1", "10.0.0.1", "/var/lib/k", "c", "k", "a", node_status_update_frequency_s=3600)


class Engine:
    def __init__(self) -> None:
        self.up = True
        self.asked = 0

    async def version(self) -> str:
        self.asked += 1
        if not self.up:
            raise RuntimeFailure("connection refused")
        return "docker://1"

    async def images(self) -> list[ImageEntry]:
        return []


class Api:
    """Merges `capacity` and `allocatable` as a strategic patch does; the rest of the status is replaced."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.amounts: dict[str, dict[str, Any]] = {"capacity": {}, "allocatable": {}}

    async def patch(self, resource: str, name: str, patch: Any, **_: Any) -> dict[str, Any]:
        self.written.append(patch["status"])
        for field, amounts in self.amounts.items():
            merged = amounts | patch["status"][field]
            self.amounts[field] = {k: v for k, v in merged.items() if v is not None}
        return self.node(name)

    def node(self, name: str = "m1") -> dict[str, Any]:
        return {"metadata": {"name": name}, "status": {**self.written[-1], **self.amounts}}

    def ready(self) -> dict[str, Any]:
        return next(c for c in self.written[-1]["conditions"] if c["type"] == "Ready")


@contextlib.asynccontextmanager
async def reporting(api: Api, engine: Engine, wall: FakeClock, steady: FakeClock) -> AsyncIterator[NodeAgent]:
    agent = NodeAgent(
        CONFIG,
        FACTS,
        api,  # type: ignore[arg-type]
        engine,  # type: ignore[arg-type]
        network_problem=lambda: "",
        clock=wall,
        monotonic=steady,
    )
    task = asyncio.create_task(agent.run_status())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_an_engine_is_down_after_thirty_seconds_without_an_answer() -> None:
    sync = RuntimeSync()
    assert sync.problem(0.0) == "container runtime is down: it was not asked yet"
    sync.answered(100.0)
    sync.failed("refused")
    assert sync.problem(100.0 + RUNTIME_SYNC_THRESHOLD_S - 0.1) == ""
    assert sync.problem(100.0 + RUNTIME_SYNC_THRESHOLD_S) == "container runtime is down: refused"
    sync.answered(140.0)
    assert sync.problem(140.0) == "" and not sync.failing


async def test_a_short_outage_of_the_engine_is_not_reported() -> None:
    api, engine, steady = Api(), Engine(), FakeClock(50.0)
    async with reporting(api, engine, FakeClock(), steady) as agent:
        await until(lambda: bool(api.written))
        engine.up = False
        steady.advance(29.0)
        asked = engine.asked
        agent.changed()
        await until(lambda: engine.asked >= asked + 2)  # it looks again without being told to
        assert api.ready()["status"] == "True" and agent.ready


async def test_a_long_outage_is_reported_and_so_is_its_end() -> None:
    api, engine, steady = Api(), Engine(), FakeClock(50.0)
    async with reporting(api, engine, FakeClock(), steady) as agent:
        await until(lambda: bool(api.written))
        engine.up = False
        steady.advance(31.0)
        agent.changed()
        await until(lambda: api.ready()["status"] == "False")
        assert api.ready()["message"] == "container runtime is down: connection refused"
        engine.up = True
        await until(lambda: api.ready()["status"] == "True")


async def test_a_wall_clock_set_back_does_not_delay_the_regular_report() -> None:
    api, engine, wall, steady = Api(), Engine(), FakeClock(), FakeClock(50.0)
    async with reporting(api, engine, wall, steady) as agent:
        await until(lambda: bool(api.written))
        wall.advance(-600.0)
        steady.advance(CONFIG.node_status_report_frequency_s + 1)
        agent.changed()
        await until(lambda: len(api.written) == 2)


async def test_a_wall_clock_set_ahead_changes_nothing() -> None:
    api, engine, wall, steady = Api(), Engine(), FakeClock(), FakeClock(50.0)
    async with reporting(api, engine, wall, steady) as agent:
        await until(lambda: bool(api.written))
        asked = engine.asked
        wall.advance(600.0)
        agent.changed()
        await until(lambda: engine.asked > asked)
        await asyncio.sleep(0.05)
        assert len(api.written) == 1 and api.ready()["status"] == "True"


async def test_an_extended_resource_written_into_capacity_becomes_allocatable_and_goes_with_it() -> None:
    """Kubernetes: "Advertise Extended Resources for a Node"."""
    dongle = "example.com/dongle"
    api = Api()
    async with reporting(api, Engine(), FakeClock(), FakeClock(50.0)) as agent:
        await until(lambda: bool(api.written))
        api.amounts["capacity"][dongle] = "4"
        agent.seen(api.node())
        await until(lambda: api.amounts["allocatable"].get(dongle) == "4")
        del api.amounts["capacity"][dongle]
        agent.seen(api.node())
        await until(lambda: dongle not in api.amounts["allocatable"])
        assert dongle not in api.amounts["capacity"]


async def test_a_resource_whose_device_plugin_went_before_this_kubelet_began_stays_at_nothing() -> None:
    api = Api()
    api.amounts = {"capacity": {"example.com/gpu": "2"}, "allocatable": {"example.com/gpu": "0"}}
    steady = FakeClock(50.0)
    async with reporting(api, Engine(), FakeClock(), steady) as agent:
        await until(lambda: bool(api.written))
        agent.seen(api.node())
        steady.advance(CONFIG.node_status_report_frequency_s + 1)
        agent.changed()
        await until(lambda: len(api.written) == 2)
        assert api.amounts["allocatable"]["example.com/gpu"] == "0"
