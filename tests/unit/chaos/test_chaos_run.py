"""One fault after another, judged at the end; a cluster, a watch or a mend that fails is in the report."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from cluster.chaos import run
from cluster.chaos.faults import FaultError, _listener
from cluster.chaos.plan import KINDS, Fault, Place
from cluster.chaos.run import Chaos, Options

PLACE = Place(("m1", "m2", "m3"), ("m1", "m2", "m3"), {})
ACTORS = frozenset({("proxy", "m1"), ("state", "m1")})


class Breaker:
    def __init__(self, **refuses: str) -> None:
        self.did: list[str] = []
        self.refuses = refuses
        self.running = ACTORS

    async def aim(self, fault: Fault) -> Fault:
        return fault

    def cut_off(self, fault: Fault) -> frozenset[str]:
        return frozenset()

    async def begin(self, fault: Fault) -> None:
        self.did.append(f"begin {fault.kind}")
        if "begin" in self.refuses:
            raise FaultError(self.refuses["begin"])

    async def end(self, fault: Fault) -> None:
        self.did.append(f"end {fault.kind}")
        if "end" in self.refuses:
            raise FaultError(self.refuses["end"])

    async def mend(self) -> list[str]:
        self.did.append("mend")
        return [self.refuses["mend"]] if "mend" in self.refuses else []

    def actors(self) -> frozenset[tuple[str, str]]:
        return self.running


class Watcher:
    def __init__(self, missing: str = "", pods: list[dict[str, Any]] | None = None) -> None:
        self.lacks, self.pods = missing, pods or []
        self.blind = False

    async def missing(self) -> str:
        return self.lacks

    async def leaders(self) -> list[tuple[str, int]]:
        if self.blind:
            raise OSError("nobody answers")
        return [("m1", 7)]

    async def objects(self, path: str) -> list[dict[str, Any]]:
        return self.pods if path == "/api/v1/pods" else []

    async def containers(self) -> list[tuple[str, str]]:
        return []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_LOOK_S", 0.01)


async def carried_out(breaker: Breaker, watcher: Watcher, scenario: str = "kill-proxy", **options: Any) -> Any:
    rates = {"writes_per_s": 0, "requests_per_s": 0, "transfers_per_s": 0}
    chaos = Chaos(Options(scenario, 1, **rates, **options), PLACE, {}, breaker, watcher, lambda _: None)  # type: ignore[arg-type]
    return await chaos.run("https://127.0.0.1:1", ssl.create_default_context())


async def test_a_run_breaks_waits_mends_and_holds() -> None:
    breaker = Breaker()
    report = await carried_out(breaker, Watcher())
    assert breaker.did == ["begin kill-proxy", "end kill-proxy", "mend"]
    assert report.held and report.faults[0].recovery_s is not None


async def test_a_group_has_a_fault_of_each_kind() -> None:
    report = await carried_out(Breaker(), Watcher(), "kill-actor")
    assert len(report.faults) == 7 and report.held


async def test_a_soup_goes_on_until_each_kind_came_so_often() -> None:
    without = tuple(set(KINDS) - {"kill-proxy", "kill-state"})
    report = await carried_out(Breaker(), Watcher(), "soup", faults=3, each=2, without=without)
    assert report.made == {"kill-proxy": 2, "kill-state": 2} and report.held


async def test_what_could_not_be_made_counts_for_none_and_time_that_is_over_is_said() -> None:
    without = tuple(set(KINDS) - {"kill-proxy"})
    refusing = Breaker(begin="no proxy runs on m1")
    report = await carried_out(refusing, Watcher(), "soup", faults=1, each=2, minutes=0.05, without=without)
    assert len(report.faults) > 1 and not report.made
    assert report.problems == ["fewer than 2 faults of each kind: 0 of kill-proxy"]


async def test_nothing_is_broken_of_a_cluster_that_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    breaker, watcher = Breaker(), Watcher("node m1 is not Ready")

    async def missing(self: Chaos, within_s: float) -> str:
        return await watcher.missing()

    monkeypatch.setattr(Chaos, "_whole", missing)
    with pytest.raises(RuntimeError, match="not whole to begin with: node m1"):
        await carried_out(breaker, watcher)
    assert breaker.did == []


async def test_an_actor_that_does_not_come_back_is_a_broken_promise_and_ends_the_run() -> None:
    class Losing(Breaker):
        async def begin(self, fault: Fault) -> None:
            await super().begin(fault)
            self.running = ACTORS - {("proxy", "m1")}

    report = await carried_out(Losing(), Watcher(), "kill-actor", whole_within_s=0.1)
    assert len(report.faults) == 1 and report.faults[0].whole_s is None
    assert "no proxy on m1" in report.problems[0]


async def test_a_fault_that_cannot_be_made_is_said() -> None:
    report = await carried_out(Breaker(begin="no proxy runs on m1"), Watcher())
    assert report.faults[0].note == "not made: no proxy runs on m1"


async def test_a_fault_that_was_not_made_counts_for_none_though_its_end_fails_too() -> None:
    """Regression: what its end said took the place of what its beginning had, and it counted as made."""
    report = await carried_out(Breaker(begin="no proxy runs on m1", end="m1 is silent"), Watcher())
    assert report.faults[0].note == "not made: no proxy runs on m1; not ended: m1 is silent"
    assert not report.made and report.faults[0].web_error_s is None


async def test_what_could_not_be_mended_and_a_blind_watch_are_problems() -> None:
    watcher = Watcher()
    watcher.blind = True
    report = await carried_out(Breaker(mend="m2: nft failed"), watcher)
    assert report.problems == ["not mended: m2: nft failed", "no leader of the store was ever seen"]


def test_who_listens_on_a_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    assert _listener(path) == 0
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert _listener(path) == os.getpid()
