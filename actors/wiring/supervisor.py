"""The Supervisor actor's part: membership changes of the store and its snapshots, under a lease."""

from __future__ import annotations

from pathlib import Path

from actors.host import Part
from actors.members import Supervisor
from actors.ray_head import RayHeadWatch
from actors.wiring import basics
from cluster.machine import rejoin, store_settings
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.machinery.election import Elector
from cluster.registry.store import Store
from raft.backup.keeper import KeeperConfig, SnapshotKeeper
from raft.backup.targets import Access, open_target
from raft.client_backup import save_from_any

LEASE_TTL_S = 5


async def build(cluster: ClusterConfig, machine: MachineConfig) -> Part:
    basics.serve_metrics(cluster.supervisor_port)
    store = basics.store_client(cluster, machine)
    elector = Elector(store, "sk8-supervisor", machine.name, LEASE_TTL_S)
    ports = (cluster.state_peer_port, cluster.state_client_port)
    watch = ray_head_watch(cluster, machine, store, elector)
    return Supervisor(store, elector, *ports, keeper_of(cluster, machine), watch)


def ray_head_watch(cluster: ClusterConfig, machine: MachineConfig, store: Store, elector: Elector) -> RayHeadWatch:
    _, context = rejoin.contexts(machine)
    return RayHeadWatch(
        store,
        lambda: elector.fence,
        {m.name: rejoin.HeadClient((m.ip, cluster.machine_port), context) for m in cluster.machines},
        [m.name for m in cluster.control_planes],
        cluster.ray_head,
        cluster.ray_head_takeover_s,
    )


def keeper_of(cluster: ClusterConfig, machine: MachineConfig) -> SnapshotKeeper:
    settings = store_settings.of(cluster)
    access = Access(cluster.snapshot_endpoint, cluster.snapshot_credentials)
    tls = basics.store_tls(machine)

    async def save(path: Path) -> object:
        return await save_from_any(cluster.state_client_endpoints, path, tls)

    return SnapshotKeeper(
        KeeperConfig(
            cluster=cluster.name,
            interval_s=settings.snapshot_interval_s,
            retention_s=settings.snapshot_retention_s,
            scratch=machine.state_dir / "snapshot",
        ),
        lambda: open_target(settings.snapshot_url, access),
        save,
    )
