"""The container engine as the owner of machines sees it: which containers a machine had, and their end.

IO (the engine's HTTP API over its unix socket). Used when a machine loses power: its containers must go at once, though
they belong to the engine and not to the machine's processes. An engine can hang on a single container while it answers
for all others, so each call has an end of its own, and killing does without the engine where it must.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import aiohttp

from cluster.cloud import container_processes
from cluster.machine.checks import OTHER_CLUSTER
from cluster.machinery.container_kill import kill_shim

log = logging.getLogger(__name__)

LABEL = "sk8.machine"
_CALL_S = 20.0
"""How long the engine has for one container; dockerd itself takes up to 12 s to give up on killing one."""
_HEARD_S = 3.0
"""How long it has to hear of an end that it did not bring about."""
_PROCESSES_S = 10.0
"""How long processes that got SIGKILL have to go: longer only in an uninterruptible wait, for a disk mostly."""


class EngineError(RuntimeError):
    """The engine does not answer, or refuses."""


class Engine:
    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def answers(self) -> bool:
        try:
            async with self._session(3) as session, session.get("/_ping") as response:
                return response.status == 200
        except (OSError, aiohttp.ClientError, TimeoutError):
            return False

    async def containers(self, machine: str = "") -> list[str]:
        """Ids of all containers, running or not, of one machine; when `machine` is empty, of any machine of a cluster
        with the default prefix, whatever its name (see `container_label`).
        """
        found = await self._list(f"{LABEL}={machine}" if machine else LABEL, everything=True)
        return [str(c["Id"]) for c in found if machine or not OTHER_CLUSTER.match(c["Labels"][LABEL])]

    async def labels_of_running(self, machine: str) -> list[dict[str, str]]:
        """The labels of each container of one machine that runs now."""
        return [dict(c["Labels"]) for c in await self._list(f"{LABEL}={machine}", everything=False)]

    async def _list(self, label: str, *, everything: bool) -> list[dict[str, Any]]:
        params = {"all": str(everything).lower(), "filters": json.dumps({"label": [label]})}
        try:
            async with self._session(20) as session, session.get("/containers/json", params=params) as response:
                if response.status != 200:
                    raise EngineError(f"listing containers: {response.status} {await response.text()}")
                found: list[dict[str, Any]] = await response.json()
                return found
        except (OSError, aiohttp.ClientError, TimeoutError) as e:
            raise EngineError(f"the container engine at {self._socket} does not answer: {e}") from e

    async def kill(self, ids: Sequence[str]) -> None:
        """SIGKILL to all at once, as a power cut would; by process id where the engine does not do it.

        Raises EngineError when it cannot be said of one that it runs no more.
        """
        refused = await self._each(ids, lambda i: self._killed(i, _CALL_S))
        if not refused:
            return
        log.warning("the engine does not kill: %s", _words(refused))
        ended = await container_processes.end(refused, _PROCESSES_S)
        if unheard := await self._each(list(refused), lambda i: self._killed(i, min(_CALL_S, _HEARD_S))):
            await self._kill_shims(unheard)
            await self._each(list(unheard), lambda i: self._killed(i, _CALL_S))  # answered once it has heard
        unsure = {i: why for i, why in refused.items() if i not in ended}
        if unsure and not await self._sees_processes():
            raise EngineError(f"not known to have ended: {_words(unsure)}")
        if living := {i: f"process {pids[0]} does not die" for i, pids in ended.items() if pids}:
            raise EngineError(_words(living))

    async def stop(self, ids: Sequence[str], grace_s: int) -> None:
        """SIGTERM to all, SIGKILL to those still there after the grace. Raises EngineError once all were told."""
        refused = await self._each(ids, lambda i: self._told_to(i, "stop", {"t": str(grace_s)}, grace_s + _CALL_S))
        if refused:
            raise EngineError(f"not stopped: {_words(refused)}")

    async def remove(self, ids: Sequence[str]) -> dict[str, str]:
        """Kills and removes with their anonymous volumes; what is gone already is fine. By id: what stayed, and why."""
        stayed = await self._each(ids, self._removed)
        if stayed:
            await container_processes.end(stayed, _PROCESSES_S)
            await self._kill_shims(stayed)
            stayed = await self._each(list(stayed), self._removed)
        if stayed:
            log.error("the engine does not remove: %s", _words(stayed))
        return stayed

    @staticmethod
    async def _each(ids: Sequence[str], call: Callable[[str], Awaitable[str]]) -> dict[str, str]:
        """All at once; by id: those whose call failed, and why."""
        whys = await asyncio.gather(*map(call, ids))
        return {i: why for i, why in zip(ids, whys, strict=True) if why}

    @staticmethod
    async def _kill_shims(ids: Collection[str]) -> None:
        """By their death an engine that heard nothing learns that the containers are over."""
        for container in ids:
            await asyncio.to_thread(kill_shim, container)

    async def _killed(self, container: str, timeout_s: float) -> str:
        return await self._told_to(container, "kill", {"signal": "KILL"}, timeout_s)

    async def _told_to(self, container: str, verb: str, params: dict[str, str], timeout_s: float) -> str:
        status, why = await self._call("POST", f"/containers/{container}/{verb}", params, timeout_s)
        return "" if status in (404, 409) else why  # gone; not running: the wanted end

    async def _removed(self, container: str) -> str:
        """Also by a removal that was under way already (409)."""
        deadline = asyncio.get_running_loop().time() + _CALL_S
        while True:
            status, why = await self._call(
                "DELETE", f"/containers/{container}", {"force": "true", "v": "true"}, _CALL_S
            )
            if status == 404:
                return ""
            if status != 409 or asyncio.get_running_loop().time() > deadline:
                return why
            await asyncio.sleep(0.2)

    async def _sees_processes(self) -> bool:
        try:
            return await asyncio.to_thread(container_processes.sees_processes_of, self._socket)
        except OSError:
            return False

    async def _call(self, method: str, path: str, params: dict[str, str], timeout_s: float) -> tuple[int, str]:
        """The answer's status, 0 when there was none, and why it failed, if it did."""
        try:
            async with self._session(timeout_s) as session, session.request(method, path, params=params) as response:
                said = f"{response.status} {(await response.text()).strip()}" if response.status >= 400 else ""
                return response.status, said
        except TimeoutError:
            return 0, f"no answer within {timeout_s:g} s"
        except (OSError, aiohttp.ClientError) as e:
            return 0, str(e)

    def _session(self, timeout_s: float) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            base_url="http://engine",
            connector=aiohttp.UnixConnector(path=self._socket),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )


def _words(containers: Mapping[str, str]) -> str:
    return ", ".join(f"container {i[:12]}: {why}" for i, why in containers.items())
