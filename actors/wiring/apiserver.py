"""The ApiServer actor's part: the HTTPS edge over the local member's event stream."""

from __future__ import annotations

import time
from pathlib import Path

from actors.host import Part
from actors.wiring import basics, common
from cluster.apiserver.config import ApiServerConfig, with_settings
from cluster.apiserver.server import ApiServer
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.registry.rbac import RbacAuthorizer


def account_keys(pki: Path) -> tuple[str, ...]:
    """Whose tokens are believed: `sa.pub`'s, and those of every `sa-<id>.pub` while keys are exchanged."""
    return (str(pki / "sa.pub"), *map(str, sorted(pki.glob("sa-*.pub"))))


def config_of(cluster: ClusterConfig, machine: MachineConfig) -> ApiServerConfig:
    pki = machine.pki
    own = ApiServerConfig(
        tls_cert_file=str(pki / "apiserver.crt"),
        tls_private_key_file=str(pki / "apiserver.key"),
        client_ca_file=str(pki / "ca.crt"),
        service_account_signing_key_file=str(pki / "sa.key"),
        service_account_key_files=account_keys(pki),
        kubelet_client_certificate=str(pki / "kubelet-client.crt"),
        kubelet_client_key=str(pki / "kubelet-client.key"),
        proxy_client_cert_file=str(pki / "front-proxy.crt"),
        proxy_client_key_file=str(pki / "front-proxy.key"),
        kubelet_certificate_authority=str(pki / "ca.crt"),
        bind_address=machine.ip,
        secure_port=cluster.api_port,
        advertise_address=machine.ip,
    )
    return with_settings(own, cluster.api_server)


async def build(cluster: ClusterConfig, machine: MachineConfig) -> Part:
    tracer = basics.tracer_of(cluster, machine, "apiserver")
    store = basics.store_client(cluster, machine, tracer)
    authorizer = RbacAuthorizer(store)
    registry = common.registry(cluster, machine, store, authorizer, "apiserver")
    server = ApiServer(config_of(cluster, machine), store, registry, authorizer, clock=time.time, tracer=tracer)
    return common.Together(server, authorizer, registry, health=server.health)
