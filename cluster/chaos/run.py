"""One chaos run: load on, a fault, whole again, the next; load off, the verdict. IO through what it is given.

run.Chaos.run
  load.ApiLoad, WebLoad, BankLoad        record every answer, all the time
  plan.faults -> faults.Breaker          one fault at a time
  Watcher.missing                        what is not as before yet: awaited between faults
  judge                                  afterwards
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.chaos import judge
from cluster.chaos.faults import Breaker, FaultError
from cluster.chaos.load import ApiLoad, BankLoad, Load, WebLoad
from cluster.chaos.plan import Fault, Place, excluded, faults, kinds_of
from cluster.chaos.report import Happened, Report
from cluster.machinery.provider import ProviderError

_LOOK_S = 0.5
_SILENT = (OSError, RuntimeError, TimeoutError)


class Watcher(Protocol):
    """How the cluster looks from outside. Every method raises OSError-like errors only when nobody answers."""

    async def missing(self) -> str:
        """What is not as it should be at rest, in a few words; "" when all is."""

    async def leaders(self) -> list[tuple[str, int]]:
        """(member, term) of every member that calls itself the store's leader."""

    async def objects(self, path: str) -> list[dict[str, Any]]:
        """The items of a list."""

    async def containers(self) -> list[tuple[str, str]]:
        """(namespace/pod/container, machine) of what the engine runs."""


@dataclass(frozen=True, slots=True)
class Options:
    """A soup ends after `faults`, once each kind came `each` times, or after `minutes` in any case. Rates are
    requests/s, 0 for none of that client."""

    scenario: str
    seed: int
    faults: int = 20
    each: int = 0
    minutes: float = 60.0
    without: tuple[str, ...] = ()
    writes_per_s: float = 50.0
    requests_per_s: float = 50.0
    transfers_per_s: float = 5.0
    whole_within_s: float = 180.0


class Chaos:
    """Use once. `say` tells of progress."""

    def __init__(
        self, options: Options, place: Place, addresses: dict[str, str], breaker: Breaker, watcher: Watcher,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._options, self._place, self._addresses = options, place, addresses
        self._breaker, self._watcher, self._say = breaker, watcher, say
        self._cut_off: frozenset[str] = frozenset()
        self._leaders: set[tuple[str, int]] = set()
        self._actors = frozenset[tuple[str, str]]()
        self._began = time.monotonic()
        kinds = kinds_of(options.scenario)
        self._report = Report(options.scenario, options.seed, len(place.machines))
        self._report.left_out = excluded(kinds, place, options.without)

    async def run(self, server: str, tls: ssl.SSLContext) -> Report:
        """Raises UnknownScenario, ValueError (nothing can be tried), RuntimeError (not whole to begin with)."""
        sequence = faults(self._options.scenario, self._options.seed, self._place, self._options.without)
        if missing := await self._whole(60):
            raise RuntimeError(f"the cluster is not whole to begin with: {missing}")
        self._actors = self._breaker.actors()
        self._began = time.monotonic()
        loads, tasks, stop = self._start_load(server, tls)
        watch = asyncio.create_task(self._watch_leaders())
        try:
            await self._settle(tasks, 3)
            await self._break(sequence, loads, tasks)
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 180)
        finally:
            for task in (*tasks, watch):
                task.cancel()
            await asyncio.gather(*tasks, watch, return_exceptions=True)
            self._report.problems += [f"not mended: {text}" for text in await self._breaker.mend()]
        self._report.seconds = time.monotonic() - self._began
        await self._judge(loads)
        return self._report

    def _start_load(
        self, server: str, tls: ssl.SSLContext
    ) -> tuple[list[Load], list[asyncio.Task[None]], asyncio.Event]:
        stop, o, cut_off = asyncio.Event(), self._options, lambda: self._cut_off
        api, web = ApiLoad(server, tls, self._began, o.writes_per_s), WebLoad(self._addresses, cut_off, self._began)
        bank = BankLoad(self._addresses, cut_off, self._began, o.seed)
        offered = ((api, o.writes_per_s), (web, o.requests_per_s), (bank, o.transfers_per_s))
        loads: list[Load] = [load for load, rate in offered if rate]
        return loads, [asyncio.create_task(load.run(rate, stop)) for load, rate in offered if rate], stop

    @staticmethod
    async def _settle(tasks: list[asyncio.Task[None]], seconds: float) -> None:
        """Wait; a client that has ended by itself ends the run with its error."""
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED) if tasks else ((), ())
        for task in done:
            task.result()

    async def _break(self, sequence: Iterator[Fault], loads: list[Load], tasks: list[asyncio.Task[None]]) -> None:
        until = self._began + self._options.minutes * 60
        for drawn in sequence:
            if self._enough() or time.monotonic() > until:
                return
            for load in loads:
                load.forget()
            happened = await self._one(await self._breaker.aim(drawn))
            await self._settle(tasks, 1)
            self._measure(happened, loads)
            self._report.faults.append(happened)
            after = "never" if happened.recovery_s is None else f"{happened.recovery_s:.1f} s"
            self._say(f"{happened.began_s:7.1f} s  {happened.kind} {'+'.join(happened.targets)}: whole after {after}"
                      f"{' (' + happened.note + ')' if happened.note else ''}")  # fmt: skip
            if happened.whole_s is None:
                self._report.problems.append(f"{happened.kind} {'+'.join(happened.targets)}: {happened.note}")
                return

    def _enough(self) -> bool:
        """A fault that could not be made is none of its kind."""
        made = self._report.made
        kinds = set(kinds_of(self._options.scenario)) - set(self._report.left_out)
        return len(self._report.faults) >= self._options.faults and all(made[k] >= self._options.each for k in kinds)

    async def _one(self, fault: Fault) -> Happened:
        happened, notes = Happened(fault.kind, fault.targets, self._now()), list[str]()
        self._cut_off = self._breaker.cut_off(fault)
        try:
            await self._breaker.begin(fault)
            await asyncio.sleep(fault.lasts_s)
        except (FaultError, ProviderError) as e:
            happened.made = False
            notes.append(f"not made: {e}")
        happened.ended_s = self._now()
        try:
            await self._breaker.end(fault)
        except (FaultError, ProviderError) as e:
            notes.append(f"not ended: {e}")
        missing = await self._whole(self._options.whole_within_s)
        self._cut_off = frozenset()
        if missing:
            notes.append(f"after {self._options.whole_within_s:.0f} s: {missing}")
        else:
            happened.whole_s = self._now()
        happened.note = "; ".join(notes)
        return happened

    def _measure(self, happened: Happened, loads: list[Load]) -> None:
        until = self._now()
        for load in loads:
            spans = judge.failing_spans(load.calls, happened.began_s, until)
            if load.name == "web":
                happened.web_error_s, happened.web_spans = judge.error_time(spans), spans
            elif load.name == "api":
                happened.api_error_s = judge.error_time(spans)
                happened.api_pause_s = judge.longest_pause(load.calls, happened.began_s, until)

    async def _whole(self, within_s: float) -> str:
        """What is missing still when the time is over; "" as soon as nothing is, seen twice."""
        until, seen, missing = time.monotonic() + within_s, 0, "it did not answer"
        while time.monotonic() < until:
            missing = await self._watcher.missing() or self._missing_actors()
            seen = 0 if missing else seen + 1
            if seen == 2:
                return ""
            await asyncio.sleep(_LOOK_S)
        return missing

    def _missing_actors(self) -> str:
        """Standbys count: without them the next fault would find what this one left."""
        return ", ".join(f"no {actor} on {machine}" for actor, machine in sorted(self._actors - self._breaker.actors()))

    async def _watch_leaders(self) -> None:
        """Nobody may answer for a while; a watch that saw nothing at all has judged nothing."""
        while True:
            with contextlib.suppress(*_SILENT):
                self._leaders.update(await self._watcher.leaders())
            await asyncio.sleep(_LOOK_S)

    def _now(self) -> float:
        return time.monotonic() - self._began

    # -- verdict -------------------------------------------------------------------------------------------------
    async def _judge(self, loads: list[Load]) -> None:
        found, problems = self._report, self._report.problems
        if short := self._too_rare():
            problems.append(short)
        for load in loads:
            found.series[load.name] = load.series
            answered, failed = sum(good for _, good, _ in load.series), sum(bad for _, _, bad in load.series)
            found.requests[load.name] = {"answered": answered, "failed": failed}
            if answered < found.seconds:
                problems.append(f"too little load to mean anything: {answered} answers to {load.name}")
            found.lost += _promises(load)
            found.watch_relists += load.relists if isinstance(load, ApiLoad) else 0
        problems += judge.two_leaders(self._leaders) if self._leaders else ["no leader of the store was ever seen"]
        found.stuck = await self._at_rest(self._look_at_pods) + await self._at_rest(self._look_for_stuck)
        problems += found.lost + found.stuck

    def _too_rare(self) -> str:
        """Only of a run that was to have each kind so often: its time was over before."""
        kinds = set(kinds_of(self._options.scenario)) - set(self._report.left_out)
        rare = [f"{self._report.made[k]} of {k}" for k in sorted(kinds) if self._report.made[k] < self._options.each]
        return f"fewer than {self._options.each} faults of each kind: {', '.join(rare)}" if rare else ""

    @staticmethod
    async def _at_rest(look: Callable[[], Awaitable[list[str]]], within_s: float = 60.0) -> list[str]:
        """What is still wrong when everything had time to settle."""
        until = time.monotonic() + within_s
        while found := await look():
            if time.monotonic() > until:
                break
            await asyncio.sleep(1)
        return found

    async def _look_at_pods(self) -> list[str]:
        pods = await self._watcher.objects("/api/v1/pods")
        identities = judge.shared_identities(await self._watcher.containers())
        return judge.shared_addresses(pods) + judge.stuck("pod", pods) + identities

    async def _look_for_stuck(self) -> list[str]:
        found = []
        for kind, path in (
            ("namespace", "/api/v1/namespaces"), ("node", "/api/v1/nodes"),
            ("claim", "/api/v1/persistentvolumeclaims"), ("volume", "/api/v1/persistentvolumes"),
            ("attachment", "/apis/storage.k8s.io/v1/volumeattachments"), ("deployment", "/apis/apps/v1/deployments"),
        ):  # fmt: skip
            found += judge.stuck(kind, await self._watcher.objects(path))
        return found


def _promises(load: Load) -> list[str]:
    if isinstance(load, ApiLoad):
        whole = load.relists == 1
        return [
            text for name, register in load.registers.items() for text in register.problems(name, whole_watch=whole)
        ]
    if isinstance(load, BankLoad):
        return judge.bank_problems(load.acknowledged, load.ledger["ids"], load.ledger["total"], load.expected)
    return []
