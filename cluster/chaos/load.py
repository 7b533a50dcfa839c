"""Clients that go on while things break, and record every answer. IO (HTTP).

    ApiLoad     numbers written to ConfigMaps, one writer each, and one watch over all of them
    WebLoad     GET of the demo's page through its Service, on a NodePort of any machine that is not cut off
    BankLoad    transfers between accounts in PostgreSQL, through all three tiers of the demo

A rate is what is offered (requests/s); what is slow is not made up for later.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import aiohttp

from cluster.chaos.judge import Call, Register

NAMESPACE = "sk8-chaos"
_CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
_MERGE = {"Content-Type": "application/merge-patch+json"}
_ANSWER_S = 10.0
_PAGE_S = 2.0
_FAILED = (OSError, aiohttp.ClientError, TimeoutError, ValueError)
NODE_PORT = 30080
"""Of the demo's Service `web`."""


class Load:
    """What all have: records of requests, paced workers, one clock. `calls` are those since the last `forget`."""

    def __init__(self, name: str, began: float) -> None:
        self.name = name
        self.calls: list[Call] = []
        self._began = began
        self._by_second: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])

    def now(self) -> float:
        return time.monotonic() - self._began

    def record(self, began: float, ok: bool) -> None:
        call = Call(began, self.now(), ok)
        self.calls.append(call)
        self._by_second[int(call.ended)][0 if ok else 1] += 1

    def forget(self) -> None:
        """Single requests count while one fault is measured; those of hours would be hundreds of megabytes."""
        self.calls.clear()

    @property
    def series(self) -> list[tuple[int, int, int]]:
        """(second, answered well, failed), for every second in which a request ended."""
        return [(second, good, bad) for second, (good, bad) in sorted(self._by_second.items())]

    async def pace(self, rate: float, stop: asyncio.Event, once: Callable[[int], Any]) -> None:
        """`rate` times a second, one after another; behind, it goes on at once and forgets what was missed."""
        due = self.now()
        for number in itertools.count():
            if stop.is_set():
                return
            await once(number)
            due = max(due + 1 / rate, self.now() - 1)
            await asyncio.sleep(max(0.0, due - self.now()))


class ApiLoad(Load):
    """`server`: any API server will do, as for kubectl behind a balancer. A writer waits for its answer, so that there
    are eight, or one for each ten writes a second."""

    def __init__(self, server: str, tls: ssl.SSLContext, began: float, rate: float) -> None:
        super().__init__("api", began)
        self._server, self._tls = server, tls
        self.registers: dict[str, Register] = {f"register-{n}": Register() for n in range(max(8, round(rate / 10)))}
        self.relists = 0

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        async with aiohttp.ClientSession(self._server, connector=connector) as session:
            await self._prepare(session)
            watch = asyncio.create_task(self._watch(session))
            each = rate / len(self.registers)
            try:
                await asyncio.gather(
                    *(self.pace(each, stop, self._writer(session, n, r)) for n, r in self.registers.items())
                )
                await self._finish(session)
            finally:
                watch.cancel()

    def _writer(self, session: aiohttp.ClientSession, name: str, register: Register) -> Callable[[int], Any]:
        async def write(number: int) -> None:
            began = self.now()
            body = json.dumps({"data": {"n": str(number)}})
            try:
                async with asyncio.timeout(_ANSWER_S):
                    async with session.patch(f"{_CONFIG_MAPS}/{name}", data=body, headers=_MERGE) as answer:
                        await answer.read()
                        status = answer.status
            except _FAILED:
                status = 0
            self.record(began, status == 200)
            (register.acknowledged if status == 200 else register.unknown).append(number)

        return write

    async def _prepare(self, session: aiohttp.ClientSession) -> None:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        await self._until(session, "POST", "/api/v1/namespaces", namespace, (201, 409))
        for name, register in self.registers.items():
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": "-1"}}
            await self._until(session, "POST", _CONFIG_MAPS, body, (201, 409))
            await self._until(session, "PATCH", f"{_CONFIG_MAPS}/{name}", {"data": {"n": "-1"}}, (200,))
            register.final = -1

    async def _finish(self, session: aiohttp.ClientSession) -> None:
        """What is stored; then the watch gets a moment to tell of the last writes; then all of it goes."""
        found = await self._until(session, "GET", _CONFIG_MAPS, None, (200,))
        for item in found["items"]:
            if item["metadata"]["name"] in self.registers:
                self.registers[item["metadata"]["name"]].final = int(item["data"]["n"])
        for _ in range(100):
            if all(r.final in r.seen for r in self.registers.values()):
                break
            await asyncio.sleep(0.1)
        await self._until(session, "DELETE", f"/api/v1/namespaces/{NAMESPACE}", None, (200, 404))

    async def _until(
        self, session: aiohttp.ClientSession, method: str, path: str, body: Any, good: Collection[int]
    ) -> Any:
        """Again until it is answered so, a minute at most. Raises TimeoutError."""
        said = ""
        for _ in range(120):
            try:
                headers = _MERGE if method == "PATCH" else {"Content-Type": "application/json"}
                data = json.dumps(body) if body is not None else None
                async with session.request(method, path, data=data, headers=headers) as answer:
                    said = f"{answer.status} {(await answer.text())[:200]}"
                    if answer.status in good:
                        return await answer.json()
            except _FAILED as e:
                said = repr(e)
            await asyncio.sleep(0.5)
        raise TimeoutError(f"{method} {path}: {said}")

    async def _watch(self, session: aiohttp.ClientSession) -> None:
        """From one list on, resumed for ever at the last revision seen: a gap is a broken promise."""
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list(session)
                version = await self._follow(session, version)
            except _FAILED:
                await asyncio.sleep(0.2)

    async def _list(self, session: aiohttp.ClientSession) -> str:
        async with session.get(_CONFIG_MAPS) as answer:
            found = await answer.json()
        for item in found["items"]:
            self._see(item)
        self.relists += 1
        return str(found["metadata"]["resourceVersion"])

    async def _follow(self, session: aiohttp.ClientSession, version: str) -> str:
        """Where to go on; "" when that is too old."""
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": "60"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=15)
        async with session.get(_CONFIG_MAPS, params=query, timeout=timeout) as answer:
            if answer.status == 410:
                return ""
            if answer.status != 200:
                raise ValueError(f"watch: {answer.status}")
            try:
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return "" if event["object"].get("code") == 410 else version
                    version = event["object"]["metadata"]["resourceVersion"]
                    self._see(event["object"])
            except _FAILED:
                return version
        return version

    def _see(self, item: Mapping[str, Any]) -> None:
        register = self.registers.get(item["metadata"].get("name", ""))
        if register is not None and "data" in item:
            register.seen.add(int(item["data"]["n"]))


class WebLoad(Load):
    """`cut_off` names machines whose address is not asked now, as a balancer that sees them dead."""

    def __init__(self, addresses: Mapping[str, str], cut_off: Callable[[], Collection[str]], began: float) -> None:
        super().__init__("web", began)
        self._addresses, self._cut_off = addresses, cut_off

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Rates of more than a few a second are split among workers, so that a slow answer stops one only."""
        workers = max(1, min(16, round(rate / 5)))
        timeout = aiohttp.ClientTimeout(total=_PAGE_S)
        # A connection for each request: a kept one would stay with the backend it once got.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as session:
            await asyncio.gather(*(self.pace(rate / workers, stop, self._get(session, n)) for n in range(workers)))

    def _get(self, session: aiohttp.ClientSession, worker: int) -> Callable[[int], Any]:
        async def get(number: int) -> None:
            machines = [name for name in self._addresses if name not in self._cut_off()]
            if not machines:
                return
            machine = machines[(number + worker) % len(machines)]
            began = self.now()
            try:
                async with session.get(f"http://{self._addresses[machine]}:{NODE_PORT}/") as answer:
                    await answer.read()
                    ok = answer.status == 200
            except _FAILED:
                ok = False
            # The machine may have been cut off while it was asked: then nothing was promised.
            if ok or machine not in self._cut_off():
                self.record(began, ok)

        return get


class BankLoad(Load):
    """One transfer after another, each with an id of its own; the ledger shows afterwards which were done."""

    ACCOUNTS = 10

    def __init__(
        self, addresses: Mapping[str, str], cut_off: Callable[[], Collection[str]], began: float, seed: int
    ) -> None:
        super().__init__("bank", began)
        self._addresses, self._cut_off = addresses, cut_off
        self._rng = random.Random(seed)
        self._run = f"{seed}-{int(time.time())}"
        self.acknowledged: list[str] = []
        self.expected = 0
        self.ledger: dict[str, Any] = {}

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as session:
            self.expected = (await self._ledger(session))["total"]
            await self.pace(rate, stop, lambda number: self._transfer(session, number))
            self.ledger = await self._ledger(session)

    def _url(self) -> str:
        machines = [name for name in self._addresses if name not in self._cut_off()] or list(self._addresses)
        return f"http://{self._addresses[self._rng.choice(machines)]}:{NODE_PORT}/api/transfers"

    async def _transfer(self, session: aiohttp.ClientSession, number: int) -> None:
        source, target = self._rng.sample(range(1, self.ACCOUNTS + 1), 2)
        name = f"{self._run}-{number}"
        body = {"id": name, "from": source, "to": target, "amount": self._rng.randint(1, 9)}
        began = self.now()
        try:
            async with session.post(self._url(), json=body) as answer:
                await answer.read()
                ok = answer.status in (200, 201)
        except _FAILED:
            ok = False
        self.record(began, ok)
        if ok:
            self.acknowledged.append(name)

    async def _ledger(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """{"total": int, "ids": [...]} of this run. Raises TimeoutError."""
        said = ""
        for _ in range(120):
            try:
                async with session.get(self._url(), params={"run": self._run}) as answer:
                    said = f"{answer.status} {(await answer.text())[:200]}"
                    if answer.status == 200:
                        found: dict[str, Any] = await answer.json()
                        return found
            except _FAILED as e:
                said = repr(e)
            await asyncio.sleep(0.5)
        raise TimeoutError(f"the bank does not answer: {said}")
