"""Whether a machine answers at all, asked of its sk8-machine: for those who hear nothing of its kubelet.

IO: one request of `rejoin.py` over mutual TLS, as this machine.
"""

from __future__ import annotations

from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.machine.rejoin import HeadClient, Unreachable, contexts

_WITHIN_S = 1.0


class MachineProbe:
    """`own`: the machine that asks."""

    def __init__(self, cluster: ClusterConfig, own: MachineConfig) -> None:
        self._port = cluster.machine_port
        self._context = contexts(own)[1]

    async def answers(self, name: str, address: str) -> bool:
        """At its Node's address: a control plane's configuration does not name the workers of a cluster of VMs. False
        also for what is no machine (a hollow node): the certificate that is shown there must be of this name."""
        if not address:
            return False
        try:
            await HeadClient((address, self._port), self._context, name).status(_WITHIN_S)
        except Unreachable:
            return False
        return True
