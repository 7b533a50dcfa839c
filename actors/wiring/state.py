"""The State actor's part: one member of the store, made, joined or opened from this machine's directory.

directory empty, new cluster (machine.json says so, once) --> create_member --> serve
directory empty otherwise (disk lost)  --> ask the other members to be replaced --> join_member --> serve
directory there                        -------------------------------------------------------> serve
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from prometheus_client import REGISTRY

from actors import members
from actors.host import Part
from actors.wiring import basics
from cluster.machine import store_settings
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from raft.config import StateConfig, TlsFiles
from raft.server import StateServer, create_member, join_member
from raft.storage.backend_lmdb import DEFAULT_MAP_BYTES
from raft.storage.errors import MemberRetired

log = logging.getLogger(__name__)


def config_of(cluster: ClusterConfig, machine: MachineConfig) -> StateConfig:
    pki = machine.pki

    def files(name: str) -> TlsFiles:
        return TlsFiles(cert=pki / f"{name}.crt", key=pki / f"{name}.key", ca=pki / "ca.crt")

    settings = store_settings.of(cluster)
    return StateConfig(
        dir=directory_of(machine),
        host=machine.ip,
        client_port=cluster.state_client_port,
        peer_port=cluster.state_peer_port,
        metrics=(basics.LOOPBACK, cluster.state_metrics_port),
        peer_tls=files("store-peer"),
        engine=cluster.store_engine,
        raftos_key=pki / "encryption.key" if cluster.store_engine == "raftos" else None,
        quota_backend_bytes=settings.quota_backend_bytes,
        map_bytes=max(DEFAULT_MAP_BYTES, 2 * settings.quota_backend_bytes),
        auto_compaction_retention_s=settings.auto_compaction_retention_s,
        auto_compaction_revisions=settings.auto_compaction_revisions,
        corrupt_check_s=settings.corrupt_check_s,
        faults=basics.faults_of(machine, "state"),
    )


def directory_of(machine: MachineConfig) -> Path:
    return machine.state_dir / "member"


def has_member(directory: Path) -> bool:
    """Whether a member was ever made there; what a crash in the middle of making one left does not count."""
    return (directory / "identity.json").is_file()


class StatePart:
    def __init__(self, cluster: ClusterConfig, machine: MachineConfig) -> None:
        self._cluster = cluster
        self._machine = machine
        self._server: StateServer | None = None
        self._phase = "opening"

    async def run(self) -> None:
        if not has_member(directory_of(self._machine)):
            await (self._found() if self._machine.state_bootstrap else self._join())
        config = config_of(self._cluster, self._machine)
        tracer = basics.tracer_of(self._cluster, self._machine, "etcd")
        self._server = StateServer(replace(config, tracer=tracer))
        self._server.metrics.beside.append(REGISTRY)
        try:
            await self._server.run()
        except MemberRetired:
            # Removed from the group (it was taken for lost): what it knew is kept aside, and it joins as a new one.
            self._set_aside()
            raise

    def _set_aside(self) -> None:
        directory = directory_of(self._machine)
        aside = directory.with_name(f"retired-{len(list(directory.parent.glob('retired-*'))) + 1}")
        directory.rename(aside)
        log.warning("this member was removed from the store; its directory is now %s", aside)

    def health(self) -> dict[str, object]:
        return self._server.health() if self._server is not None else {"healthy": False, "reason": self._phase}

    async def _found(self) -> None:
        """The birth of the cluster: every founding member starts from the same list."""
        machine, cluster = self._machine, self._cluster
        founders = {m.id: (m.ip, cluster.state_peer_port, cluster.state_client_port) for m in machine.state_members}
        await asyncio.to_thread(
            create_member, directory_of(machine), machine.cluster_id, machine.state_member_id, founders
        )
        log.info("founded the store as member %d of %d", machine.state_member_id, len(founders))

    async def _join(self) -> None:
        """This machine's disk was lost. The Supervisor replaces its old member; nothing here decides."""
        self._phase = "waiting to be replaced as a member of the store"
        log.warning("the State directory is empty: asking the store's other members for a new identity")
        store = basics.store_client(self._cluster, self._machine)
        try:
            member_id, addresses = await members.ask_to_join(store, self._machine.ip)
        finally:
            await store.close()
        await asyncio.to_thread(
            join_member, directory_of(self._machine), self._machine.cluster_id, member_id, addresses
        )
        log.info("joins the store as member %d", member_id)


async def build(cluster: ClusterConfig, machine: MachineConfig) -> Part:
    return StatePart(cluster, machine)
