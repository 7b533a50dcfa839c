"""The short calls to Docker, by the docker package: each has a bounded time, and none waits for another container's.

IO: threads, because the package blocks. A call holds one of `turns` (the back-pressure: so many at once), but for
`_TURN_S` at most: an engine that does not answer about one container (dockerd keeps that container's lock while it
waits for its shim) holds up no call about others. About such a container at most `_OWED` calls wait that long; more are
refused at once, or a container that is asked about for hours would take every thread. Pulls, which wait for a registry,
have threads of their own (docker_runtime.py).
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import docker
import docker.errors
import requests.exceptions

from cluster.node.runtime import UNANSWERED, RuntimeFailure

API_VERSION = "1.41"
LOOK_S = 30
CHANGE_S = 120
"""Kubernetes' runtimeRequestTimeout: the longest that a runtime may take to do one thing."""
SIGNAL_S = 10
SILENCE_S = 300
"""Of a pull, without any progress. Longer than dockershim's imagePullProgressDeadline (60 s): a pull is silent, too,
while its layers wait for one of the engine's three downloads, or while a large one is unpacked."""
_TURN_S = 5.0
_OWED = 2
_THREADS = 64
_T = TypeVar("_T")


class DockerCalls:
    """`turns`: how many calls at once while the engine answers. Belongs to the loop it is first used on."""

    def __init__(self, socket_path: str, turns: int) -> None:
        self._socket = socket_path
        self._turns = asyncio.Semaphore(turns)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="engine")
        self._clients: dict[int, Any] = {}
        self._making = threading.Lock()
        self._owed: Counter[str] = Counter()  # container -> calls about it that wait for longer than their turn

    async def call(self, what: Callable[[Any], _T], *, about: str = "", limit_s: int = LOOK_S) -> _T:
        """Run `what(api)`, which may wait `limit_s` for the engine's next word, once it has its turn and a thread;
        translate its errors. `about`: the container's id or name. Raises RuntimeFailure, of reason UNANSWERED when the
        time is over."""
        if about and self._owed.get(about, 0) >= _OWED:
            raise RuntimeFailure(f"the container engine has not answered earlier calls about {about[:12]}", UNANSWERED)
        await self._turns.acquire()
        call = _Call(about)
        call.timer = asyncio.get_running_loop().call_later(_TURN_S, self._late, call)
        work = asyncio.get_running_loop().run_in_executor(self._pool, lambda: what(self._client(limit_s)))
        work.add_done_callback(functools.partial(self._answered, call))
        try:
            return await asyncio.shield(work)  # a thread goes on when its caller has been cancelled
        except docker.errors.NotFound as err:
            raise RuntimeFailure(_explain(err), "NotFound") from err
        except docker.errors.APIError as err:
            raise RuntimeFailure(_explain(err), "Conflict" if err.status_code == 409 else "") from err
        except requests.exceptions.RequestException as err:
            if not _timed_out(err):
                raise self._no_engine(err) from err
            message = f"context deadline exceeded: the container engine gave no answer within {limit_s} s"
            raise RuntimeFailure(message, UNANSWERED) from err
        except (docker.errors.DockerException, OSError) as err:
            raise self._no_engine(err) from err

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for api in self._clients.values():
            api.close()

    def _client(self, limit_s: int) -> Any:
        with self._making:
            if limit_s not in self._clients:
                self._clients[limit_s] = docker.APIClient(
                    base_url=f"unix://{self._socket}", version=API_VERSION, timeout=limit_s
                )
            return self._clients[limit_s]

    def _late(self, call: _Call) -> None:
        call.timer = None
        self._owed[call.about] += 1
        self._turns.release()

    def _answered(self, call: _Call, work: asyncio.Future[Any]) -> None:
        if not work.cancelled():
            work.exception()  # seen, though its caller may be gone
        if call.timer is not None:
            call.timer.cancel()
            self._turns.release()
            return
        self._owed[call.about] -= 1
        if not self._owed[call.about]:
            del self._owed[call.about]

    def _no_engine(self, err: Exception) -> RuntimeFailure:
        return RuntimeFailure(f"the container engine does not answer at {self._socket}: {err}")


@dataclass(slots=True)
class _Call:
    """`timer`: until its turn is over; None once it is."""

    about: str
    timer: asyncio.TimerHandle | None = None


def _timed_out(err: requests.exceptions.RequestException) -> bool:
    """Of a body that is read in pieces, requests calls it a lost connection."""
    return isinstance(err, requests.exceptions.Timeout) or "timed out" in str(err).lower()


def _explain(err: docker.errors.APIError) -> str:
    return str(err.explanation or err)
