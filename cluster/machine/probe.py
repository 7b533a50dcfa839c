"""Whether a machine answers at all, asked of its sk8-machine: for those who hear nothing of its kubelet.

IO: one request of `rejoin.py` over mutual TLS, as this machine.
"""

from __future__ import annotations

from cluster.machine.config import ClusterConfig, ConfigError, MachineConfig
from cluster.machine.rejoin import HeadClient, Unreachable, contexts

_WITHIN_S = 1.0


class MachineProbe:
    """`own`: the machine that asks."""

    def __init__(self, cluster: ClusterConfig, own: MachineConfig) -> None:
        self._cluster = cluster
        self._context = contexts(own)[1]

    async def answers(self, name: str) -> bool:
        """False also for what is no machine of the cluster (a hollow node)."""
        try:
            address = self._cluster.spec(name).ip
            await HeadClient((address, self._cluster.machine_port), self._context).status(_WITHIN_S)
        except (ConfigError, Unreachable):
            return False
        return True
