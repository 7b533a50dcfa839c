"""An asyncio loop on the simulation's virtual clock and network, for code that wants a loop and datagrams."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from asyncio import events
from collections.abc import Callable
from typing import Any

from tests.sim.sim_world import Clock, Network

Address = tuple[str, int]


class SimLoop(asyncio.AbstractEventLoop):
    """Whatever runs does so inside ``Clock.run_until``, in the order of its virtual time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.errors: list[BaseException] = []
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.datagrams: Callable[[Address, Address, bytes], None] = lambda sender, to, data: None
        self.bound: dict[Address, asyncio.DatagramProtocol] = {}

    # --- what asyncio's futures and tasks call

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def time(self) -> float:
        return self.clock.now_ms / 1000

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        return self.call_later(0, callback, *args, context=context)

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context or contextvars.copy_context())
        self.clock.after(max(0.0, when * 1000 - self.clock.now_ms), lambda: self._run(handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is still in the clock's queue, and does nothing when its time comes."""

    def _run(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            handle._run()
        finally:
            events._set_running_loop(before)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.add(task)
        return task

    def end(self) -> None:
        """No task is left."""
        for _ in range(10):
            left = [task for task in self._tasks if not task.done()]
            if not left:
                return
            for task in left:
                task.cancel()
            self.clock.run_until(self.clock.now_ms + 1)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None:
            self.errors.append(error)

    def now(self, function: Callable[[], Any]) -> Any:
        """Call it as if from the loop."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            return function()
        finally:
            events._set_running_loop(before)

    # --- datagrams

    async def create_datagram_endpoint(self, factory: Any, local_addr: Any = None, **_: Any) -> Any:
        protocol = factory()
        transport = _Transport(self, local_addr)
        self.bound[local_addr] = protocol
        protocol.connection_made(transport)
        return transport, protocol

    def deliver(self, sender: Address, to: Address, data: bytes) -> None:
        protocol = self.bound.get(to)
        if protocol is not None:
            self.call_soon(protocol.datagram_received, data, sender)


class _Transport(asyncio.DatagramTransport):
    def __init__(self, loop: SimLoop, address: Address) -> None:
        super().__init__()
        self._loop = loop
        self._address = address

    def sendto(self, data: Any, addr: Any = None) -> None:
        if len(data) > 65_507:
            raise OSError("Message too long")
        self._loop.datagrams(self._address, addr, bytes(data))

    def is_closing(self) -> bool:
        return self._address not in self._loop.bound

    def close(self) -> None:
        self._loop.bound.pop(self._address, None)


def over(network: Network, loop: SimLoop, ids: dict[Address, int]) -> Callable[[Address, Address, bytes], None]:
    """Datagrams over the simulated network."""

    def send(sender: Address, to: Address, data: bytes) -> None:
        network.send(ids[sender], ids[to], data, lambda wire: loop.deliver(sender, to, wire))

    return send
