"""What even the smallest part needs: the store's client, fault points, metrics. Imports little, as State and the
Supervisor run on every control plane and pay in memory for each module.

Reads keys from the machine's `pki` directory; nothing secret travels in an argument.
"""

from __future__ import annotations

import logging
import os

from prometheus_client import start_http_server

from cluster.api.faults import Hit, no_fault
from cluster.api.tracing import Tracer
from cluster.machine import tracing_settings
from cluster.machine.config import ClusterConfig
from cluster.machine.machine_config import MachineConfig
from raft.client import StoreClient
from raft.config import TlsFiles
from raft.faults import CRASH_EXIT_CODE, Faults

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


def store_client(cluster: ClusterConfig, machine: MachineConfig, tracer: Tracer | None = None) -> StoreClient:
    """Speaks to all members, this machine's own first."""
    endpoints = list(cluster.state_client_endpoints)
    own = (machine.ip, cluster.state_client_port)
    return StoreClient(endpoints, store_tls(machine), prefer=own if own in endpoints else None, tracer=tracer)


def tracer_of(cluster: ClusterConfig, machine: MachineConfig, service: str) -> Tracer | None:
    """What sends this part's spans, as `service`; None, and nothing imported, where no endpoint is configured."""
    settings = tracing_settings.of(cluster.tracing)
    if settings is None:
        return None
    from actors.tracing import OtelTracer  # the SDK and gRPC: some 16 MB

    return OtelTracer(service, machine.name, settings)


def store_tls(machine: MachineConfig) -> TlsFiles:
    """This machine's identity as a client of the store."""
    pki = machine.pki
    return TlsFiles(cert=pki / "store-client.crt", key=pki / "store-client.key", ca=pki / "ca.crt")


def faults_of(machine: MachineConfig, part: str) -> Faults:
    """Injected faults (syntax in raft/faults.py, points in docs/operations.md) from `<disk>/faults`, else none.

    For chaos tests: nobody but root of the machine can write there, and without the file nothing is injected.
    """
    path = machine.disk / "faults"
    spec = path.read_text().strip() if path.exists() else ""
    if spec:
        log.warning("faults are injected into this part (%s): %s", part, spec)
    return Faults.parse(spec, on_crash=_crash)


def _crash() -> None:
    """As a power cut would, but for the line in the log that says so."""
    log.warning("an injected fault ends this process now")
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(CRASH_EXIT_CODE)


def hit_of(machine: MachineConfig, part: str) -> Hit:
    """The part's fault points, as `<part>.<point>`; costs nothing when nothing is injected."""
    faults = faults_of(machine, part)
    return (lambda point, about: faults.hit(f"{part}.{point}", about)) if faults.armed else no_fault


def serve_metrics(port: int) -> None:
    """/metrics of this process on loopback."""
    start_http_server(port, LOOPBACK)
