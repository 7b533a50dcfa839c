"""The Supervisor actor's part: membership changes of the store, under a lease."""

from __future__ import annotations

from actors.host import Part
from actors.members import Supervisor
from actors.wiring import common
from cluster.machine.config import ClusterConfig, MachineConfig
from cluster.machinery.election import Elector

LEASE_TTL_S = 5


async def build(cluster: ClusterConfig, machine: MachineConfig) -> Part:
    store = common.store_client(cluster, machine)
    elector = Elector(store, "sk8-supervisor", machine.name, LEASE_TTL_S)
    return Supervisor(store, elector, cluster.state_peer_port, cluster.state_client_port)
