"""A cable that is slow or lossy, on kernels without netem: a process carries its frames. IO (netlink); root.

      whole:     bridge ---- port ==== the machine
      spoiled:   bridge ---- far (TAP) ~~~ cable_relay ~~~ (TAP) near ---- spoil<n> (bridge) ---- port ==== the machine

The two TAP devices are the relay's: whatever ends it, or removes one of them, ends them all. Without its relay a
spoiled cable carries nothing until `mend`. All names follow from the port's index, so any process can mend it.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from cluster.cloud.netlink import RUN, NetworkError, bring_up, index_of, netlink, remove_link

_NOARP = 0x80
_END_S = 10


class SlowCable:
    """The cable at one port of a switch."""

    def __init__(self, namespace: str, bridge: str, port: str) -> None:
        self._namespace, self._bridge, self._port = namespace, bridge, port
        self._relay: subprocess.Popen[str] | None = None

    def spoil(self, *, delay_ms: float = 0, jitter_ms: float = 0, loss_percent: float = 0) -> None:
        """Each frame, in either direction, comes so late or is lost. Raises NetworkError (no TUN in this kernel)."""
        self.mend()
        with netlink(self._namespace) as switch:
            index = index_of(switch, self._port)
        if index is None:
            raise NetworkError(f"there is no cable {self._port}")
        near, far, small = _names(index)
        numbers = {"delay-ms": delay_ms, "jitter-ms": jitter_ms, "loss-percent": loss_percent}
        self._start([near, far, *(f"--{name}={number}" for name, number in numbers.items())])
        with netlink(self._namespace) as switch:
            switch.link("add", ifname=small, kind="bridge")
            # Another bridge of this namespace may have addresses, which are none of this one's business.
            switch.link("set", index=index_of(switch, small), flags=_NOARP, change=_NOARP)
            bring_up(switch, small)
            for link, master in ((near, small), (far, self._bridge), (self._port, small)):
                _plug(switch, link, master)

    def mend(self) -> None:
        """As a cable is. Also when another process spoiled it, or nobody did."""
        with netlink(self._namespace) as switch:
            index = index_of(switch, self._port)
            if index is not None:
                near, far, small = _names(index)
                if index_of(switch, small) is not None:
                    _plug(switch, self._port, self._bridge)
                for link in (near, far, small):
                    remove_link(switch, link)
        self.forget()

    def forget(self) -> None:
        """The relay ends with its devices; if they are with a port that is gone, it is ended."""
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.kill()
            relay.communicate(timeout=_END_S)

    def _start(self, arguments: list[str]) -> None:
        enter = ["nsenter", f"--net={RUN / self._namespace}"]
        command = [*enter, sys.executable, "-m", "cluster.cloud.cable_relay", *arguments]
        relay = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        said = relay.stdout.readline() if relay.stdout is not None else ""
        if said.strip() != "ready":
            _, error = relay.communicate(timeout=_END_S)
            last = (error.strip().splitlines() or ["it ended"])[-1]
            raise NetworkError(f"this kernel has neither netem nor TAP devices (CONFIG_TUN): {last}")
        self._relay = relay


def _names(index: int) -> tuple[str, str, str]:
    return f"near{index}", f"far{index}", f"spoil{index}"


def _plug(switch: Any, link: str, bridge: str) -> None:
    switch.link("set", index=index_of(switch, link), master=index_of(switch, bridge), state="up")
