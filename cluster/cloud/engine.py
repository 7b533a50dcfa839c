"""The container engine as the owner of machines sees it: which containers a machine had, and their end.

IO (the engine's HTTP API over its unix socket). Used when a machine loses power: its containers must go at once, though
they belong to the engine and not to the machine's processes.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import aiohttp

from cluster.machine.config import OTHER_CLUSTER
from cluster.machinery.container_kill import kill_here

log = logging.getLogger(__name__)

LABEL = "sk8.machine"
_KILL_S = 15.0


class EngineError(RuntimeError):
    """The engine does not answer, or refuses."""


class Unanswered(EngineError):
    """Within the time that there was."""


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
        """SIGKILL to all at once, as a power cut would. Those that the engine does not end are ended past it."""
        left = await self._kill(ids)
        for shim in (False, True):
            for container_id in left:
                done = await asyncio.to_thread(kill_here, container_id, shim=shim)
                log.warning("the engine does not end container %s: %s", container_id[:12], done or "it has no process")
            left = await self._kill(left)
        if left:
            raise EngineError(f"containers that do not end: {', '.join(i[:12] for i in left)}")

    async def _kill(self, ids: Sequence[str]) -> list[str]:
        """Those about which it gave no answer."""
        calls = [self._call("POST", f"/containers/{i}/kill", {"signal": "KILL"}, _KILL_S) for i in ids]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, Unanswered):
                raise answer
        return [i for i, answer in zip(ids, answers, strict=True) if answer is not None]

    async def stop(self, ids: Sequence[str], grace_s: int) -> None:
        """SIGTERM to all, SIGKILL to those still there after the grace."""
        await asyncio.gather(*(self._call("POST", f"/containers/{i}/stop", {"t": str(grace_s)}) for i in ids))

    async def remove(self, ids: Sequence[str]) -> None:
        """Kills and removes with their anonymous volumes; what is gone already is fine."""
        await asyncio.gather(*(self._call("DELETE", f"/containers/{i}", {"force": "true", "v": "true"}) for i in ids))

    async def _call(self, method: str, path: str, params: dict[str, str], limit_s: float = 30) -> None:
        try:
            async with self._session(limit_s) as session, session.request(method, path, params=params) as response:
                # 404 gone, 409 not running or a removal under way: all of them the wanted end.
                if response.status >= 400 and response.status not in (304, 404, 409):
                    raise EngineError(f"{method} {path}: {response.status} {await response.text()}")
        except TimeoutError as e:
            raise Unanswered(f"{method} {path}: no answer within {limit_s:g} s") from e
        except (OSError, aiohttp.ClientError) as e:
            raise EngineError(f"{method} {path}: {e}") from e

    def _session(self, timeout_s: float) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            base_url="http://engine",
            connector=aiohttp.UnixConnector(path=self._socket),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )
