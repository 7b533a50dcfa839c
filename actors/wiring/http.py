"""A client of the API with a machine's identity, for the parts that are ordinary clients: Kubelet and Proxy."""

from __future__ import annotations

from actors.wiring.basics import LOOPBACK
from cluster.api.tracing import Tracer
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from cluster.machinery.http_client import HttpClient, HttpConfig


def http_client(
    cluster: ClusterConfig, machine: MachineConfig, identity: str, tracer: Tracer | None = None
) -> HttpClient:
    """Speaks to the API through this machine's forwarder, as `identity` (a pair of files in pki)."""
    pki = machine.pki
    return HttpClient(
        HttpConfig(
            server=f"https://{LOOPBACK}:{cluster.api_port}",
            ca_file=str(pki / "ca.crt"),
            cert_file=str(pki / f"{identity}.crt"),
            key_file=str(pki / f"{identity}.key"),
        ),
        tracer,
    )
