"""Ending containers, and learning how they ended.

IO: the engine and the pod's directory. A stop is: preStop within the grace, the image's stop signal, the rest of the
grace (at least 2 s, as the kubelet gives), SIGKILL. Its deadline can only move nearer. What survives SIGKILL is for
last_resort.py. The exit itself is reported by the engine's event or by a look at the container, through `exit_info`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.node.core_events import ExitInfo
from cluster.node.log_reader import log_tail
from cluster.node.prober import HookFailure
from cluster.node.runtime import UNANSWERED, ContainerInfo, Runtime, RuntimeFailure
from cluster.node.seams import Hooks

log = logging.getLogger(__name__)
Obj = dict[str, Any]
_ASK_S = 1.0
_AFTER_HOOK_S = 2.0
_AFTER_KILL_S = 5.0
_MESSAGE_BYTES = 4096
_LOG_LINES = 80
_LOG_BYTES = 2048


class Stop:
    """One container being stopped. `exited()` is called when the engine says that it ended."""

    def __init__(self, runtime: Runtime, prober: Hooks, container_id: str, grace_s: float) -> None:
        self._runtime = runtime
        self._prober = prober
        self._id = container_id
        self._deadline = asyncio.get_running_loop().time() + grace_s
        self._changed = asyncio.Event()
        self._over = False

    def shorten(self, grace_s: float) -> None:
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + grace_s)
        self._changed.set()

    def exited(self) -> None:
        self._over = True
        self._changed.set()

    @property
    def over(self) -> bool:
        """Whether `exited` was called."""
        return self._over

    async def run(self, spec: Obj, ip: str, *, pre_stop: bool, hook_failed: Callable[[str], None]) -> bool:
        """Returns when the container ended, or when it survived SIGKILL for a while: look at it. False when it may have
        survived because the engine could not be reached."""
        loop = asyncio.get_running_loop()
        handler = (spec.get("lifecycle") or {}).get("preStop")
        if pre_stop and handler:
            await self._pre_stop(handler, spec, ip, hook_failed)
            self._deadline = max(self._deadline, loop.time() + _AFTER_HOOK_S)
        if not self._over:
            await self._ask_to_end(await self._stop_signal(spec))
        await self._wait_until(lambda: self._deadline)
        return self._over or await self.kill()

    async def kill(self) -> bool:
        """SIGKILL, by the engine, which may answer only when it has heard of the end. Returns as `run`."""
        try:
            await self._runtime.signal(self._id, "SIGKILL")
        except RuntimeFailure as err:
            log.warning("killing %s: %s", self._id[:12], err)
            return err.reason == UNANSWERED
        limit = asyncio.get_running_loop().time() + _AFTER_KILL_S
        await self._wait_until(lambda: limit)
        return True

    async def _ask_to_end(self, signal: str) -> None:
        """An engine that does not answer must not lengthen the grace, or not by much."""
        at_least = asyncio.get_running_loop().time() + _ASK_S
        asked = asyncio.ensure_future(self._signal(signal))
        asked.add_done_callback(lambda _: self._changed.set())
        try:
            await self._wait_until(lambda: max(self._deadline, at_least), also=asked.done)
        finally:
            asked.cancel()

    async def _pre_stop(self, handler: Obj, spec: Obj, ip: str, hook_failed: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        hook = loop.create_task(
            self._prober.hook(handler, spec, self._id, ip, max(self._deadline - loop.time(), 0.1)), name="preStop"
        )
        hook.add_done_callback(lambda _: self._changed.set())
        try:
            await self._wait_until(lambda: self._deadline, also=hook.done)
            if not hook.done():
                hook.cancel()
            await asyncio.wait([hook])
            if not hook.cancelled() and isinstance(hook.exception(), HookFailure):
                hook_failed(f"PreStopHook failed: {hook.exception()}")
        finally:
            hook.cancel()

    async def _wait_until(self, deadline: Callable[[], float], also: Callable[[], bool] = lambda: False) -> None:
        loop = asyncio.get_running_loop()
        while not self._over and not also():
            remaining = deadline() - loop.time()
            if remaining <= 0:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(remaining):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def _stop_signal(self, spec: Obj) -> str:
        chosen = (spec.get("lifecycle") or {}).get("stopSignal")
        if chosen:
            return str(chosen)
        try:
            image = await self._runtime.image(str(spec.get("image") or ""))
        except RuntimeFailure:
            image = None
        return image.stop_signal if image is not None and image.stop_signal else "SIGTERM"

    async def _signal(self, signal: str) -> None:
        try:
            await self._runtime.signal(self._id, signal)
        except RuntimeFailure as err:
            log.warning("sending %s to %s: %s", signal, self._id[:12], err)


async def exit_info(runtime: Runtime, info: ContainerInfo | None, container_id: str, now: float) -> ExitInfo:
    """How a container ended, with its termination message."""
    if info is None:
        return ExitInfo(
            container_id, 137, "ContainerStatusUnknown", "The container could not be located when it ended", 0.0, now
        )
    if info.oom_killed:
        reason = "OOMKilled"
    else:
        reason = "Completed" if info.exit_code == 0 else "Error"
    message = await _termination_message(runtime, info)
    return ExitInfo(info.id, info.exit_code, reason, message, info.started_at, info.finished_at or now)


async def _termination_message(runtime: Runtime, info: ContainerInfo) -> str:
    text = ""
    if info.message_path:
        text = await asyncio.to_thread(_read_message, info.message_path)
    if not text and info.exit_code != 0 and info.message_policy == "FallbackToLogsOnError":
        text = await _log_end(runtime, info)
    return text or info.error


def _read_message(path: str) -> str:
    try:
        with Path(path).open("rb") as handle:
            return handle.read(_MESSAGE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


async def _log_end(runtime: Runtime, info: ContainerInfo) -> str:
    await runtime.log_written(info.id)
    try:
        return await log_tail(info.log_path, _LOG_LINES, _LOG_BYTES)
    except OSError as err:
        return f"the log could not be read: {err}"
