"""sk8-machine: what runs on a machine outside Ray. PID 1 of a local machine, a systemd unit on a VM.

IO. It owns the machine's lock and identity, reaps, keeps the raylet running with its actors made, and forwards
127.0.0.1:6443 to an API server that answers. On the head it also tells the other machines which Ray cluster it runs; on
the control planes of a cluster of VMs it admits machines that join.

Boot order: lock > network settings > identity (join by signing request if needed) > forwarder > Ray > actors.
Invariant: one sk8-machine per disk (flock on `<disk>/lock`, released by the kernel when it dies).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from cluster.machine import identity, joining, rejoin
from cluster.machine.changes import digest
from cluster.machine.config import ClusterConfig
from cluster.machine.files import Lock, make_private_dir
from cluster.machine.forwarder import Forwarder, ForwarderConfig
from cluster.machine.head import HeadRecord
from cluster.machine.keeper import RayKeeper
from cluster.machine.loop_watch import LoopWatch
from cluster.machine.machine_config import MachineConfig, load_machine, save_machine
from cluster.machine.pods_shutdown import end_pods
from cluster.machine.processes import Children
from cluster.machine.release import running
from cluster.machine.renewal import Renewal, renew

log = logging.getLogger(__name__)

_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/route_localnet": "0",
    "net/ipv4/neigh/default/gc_thresh1": "1024",
}


class Part(Protocol):
    def run(self) -> Coroutine[Any, Any, None]: ...


class Machine:
    """Wires the parts of one machine; `run()` returns after SIGTERM or SIGHUP, with Ray stopped."""

    def __init__(self, config: ClusterConfig, machine: MachineConfig, *, beside: Sequence[Part] = ()) -> None:
        """`beside`: more parts to run, which this room does not know (DNS)."""
        self._config = config
        self._machine = machine
        self._lock = Lock(machine.disk / "lock")
        self._children = Children()
        self._beside = beside

    async def run(self) -> bool:
        """True after SIGHUP: sk8-machine is to begin anew, perhaps with another release. The pods run on then."""
        self._lock.acquire()
        self._children.install()
        for directory in (self._machine.log_dir, self._machine.ray_dir, self._machine.state_dir):
            make_private_dir(directory)
        apply_sysctls()
        await self._ensure_identity()
        stop, again = asyncio.Event(), asyncio.Event()
        for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, again)):
            asyncio.get_running_loop().add_signal_handler(number, event.set)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: self._renewal.now())
        parts = [asyncio.create_task(part) for part in (*self._parts(), LoopWatch("sk8-machine").beat())]
        told = [asyncio.create_task(stop.wait()), asyncio.create_task(again.wait())]
        try:
            await asyncio.wait({*parts, *told}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await end_pods(self._machine.kubelet_dir)
        finally:
            # Ray first: what is beside it still serves the pods.
            ends = await _end(parts[:1]) + await _end([*parts[1:], *told])
            self._lock.release()
        for end in ends:
            if isinstance(end, Exception):
                raise end
        return again.is_set() and not stop.is_set()

    def _parts(self) -> list[Coroutine[Any, Any, None]]:
        server_context, client_context = rejoin.contexts(self._machine)
        record = HeadRecord(self._config, self._machine)

        def ask(name: str) -> rejoin.HeadClient:
            return rejoin.HeadClient((self._config.spec(name).ip, self._config.machine_port), client_context)

        keeper = RayKeeper(
            record,
            self._machine,
            self._children,
            ask,
            release=running(),
        )
        begun_with = digest(self._config)
        server = rejoin.HeadServer(
            (self._machine.ip, self._config.machine_port),
            server_context,
            lambda: keeper.status() | {"settings": begun_with},
            turn_s=keeper.longest_turn_s,
            learn=record.learn,
            planes=[spec.name for spec in self._config.control_planes],
        )
        joins = self._machine.control_plane and self._config.provider != "local"
        join_servers = [joining.JoinServer(self._config, self._machine)] if joins else []
        contexts = (server_context, client_context, *(join.context for join in join_servers))
        renew_admin = identity.Authority(self._config).renew_admin if joins else None
        self._renewal = Renewal(self._machine, self._ask_anew, contexts, keeper, renew_admin)
        return [
            keeper.run(),
            server.run(),
            self._renewal.run(),
            *(join.run() for join in join_servers),
            Forwarder(self._forwarder_config()).run(),
            self._forget_bootstrap(),
            *(part.run() for part in self._beside),
        ]

    def _forwarder_config(self) -> ForwarderConfig:
        own = (self._machine.ip, self._config.api_port) if self._machine.control_plane else None
        return ForwarderConfig(
            ("127.0.0.1", self._config.api_port), self._config.api_endpoints, self._machine.pki / "ca.crt", prefer=own
        )

    async def _ensure_identity(self) -> None:
        """New certificates when some are missing or old; retries until they are there. A VM joined before its first
        boot: it goes on with old ones while no control plane answers."""
        for attempt in range(1_000_000):
            if identity.is_complete(self._machine):
                return
            try:
                await self._ask_anew()
            except (joining.JoinRefused, OSError, TimeoutError, ValueError) as e:
                log.error("no new certificates: %s", e)
                if self._config.provider != "local":
                    return
                await asyncio.sleep(min(10.0, 0.2 * 2 ** min(attempt, 6)))

    async def _ask_anew(self) -> None:
        """Local machines ask the host agent, VMs the control planes. Raises JoinRefused, OSError, TimeoutError,
        ValueError."""
        if self._config.provider == "local":
            await renew(self._machine, self._config.host_socket)
        else:
            await joining.renew(self._config, self._machine)

    async def _forget_bootstrap(self) -> None:
        """Once State has written its directory, this machine may never again make a new cluster out of an empty one.

        Like every part it does not return: the first part to return ends the machine.
        """
        while self._machine.state_bootstrap:
            await asyncio.sleep(1)
            if any(self._machine.state_dir.glob("*/identity.json")):  # written last: the member is whole
                current = load_machine(self._machine.base_dir, self._machine.name)
                save_machine(replace(current, state_bootstrap=False))
                break
        await asyncio.Event().wait()


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> list[Any]:
    """What they returned or raised."""
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


def apply_sysctls() -> None:
    for name, value in _SYSCTLS.items():
        path = Path("/proc/sys") / name
        if path.exists():
            path.write_text(value)
