"""How the commands of the store reach it, and how its errors are told. IO-free but for looking for files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from cluster.cli.output import CommandError
from cluster.machine import store_settings
from cluster.machine.config import ClusterConfig
from raft.backup.targets import Access, Target, TargetError, open_target
from raft.client import StoreClient
from raft.config import TlsFiles
from raft.errors import Corrupt, NotLeader, OutcomeUnknown, StoreError, Unavailable
from raft.storage.errors import StorageError

ANSWER_S = 5.0
MIB = 1 << 20


def credentials(config: ClusterConfig) -> TlsFiles | None:
    """Any control plane's store identity that is on this box."""
    for spec in config.control_planes:
        pki = config.machine(spec.name).pki
        files = TlsFiles(cert=pki / "store-client.crt", key=pki / "store-client.key", ca=pki / "ca.crt")
        if all(path.is_file() for path in (files.cert, files.key, files.ca)):
            return files
    return None


def needed_credentials(config: ClusterConfig) -> TlsFiles:
    """Raises CommandError."""
    tls = credentials(config)
    if tls is None:
        raise CommandError(
            "no identity to speak to the store with is here: no control plane has joined yet, or their disks are gone",
            "run this where a control plane's disk is; sk8 up starts the cluster",
        )
    return tls


@asynccontextmanager
async def store_client(config: ClusterConfig, timeout_s: float = ANSWER_S) -> AsyncIterator[StoreClient]:
    """Its errors become CommandErrors."""
    client = StoreClient(config.state_client_endpoints, needed_credentials(config), timeout_s=timeout_s)
    try:
        with clear_errors():
            yield client
    finally:
        await client.close()


def endpoint_of(config: ClusterConfig, machine: str) -> tuple[str, int]:
    """Raises ConfigError, CommandError."""
    spec = config.spec(machine)
    if not spec.control_plane:
        names = ", ".join(m.name for m in config.control_planes)
        raise CommandError(f"{machine} holds no member of the store", f"the control planes do: {names}")
    return spec.ip, config.state_client_port


def target_of(config: ClusterConfig | None, url: str = "") -> Target:
    """Where snapshots are kept: ``url``, or where the cluster's settings say. Raises CommandError."""
    with clear_errors():
        if config is None:
            return open_target(url)
        access = Access(config.snapshot_endpoint, config.snapshot_credentials)
        return open_target(url or store_settings.of(config).snapshot_url, access)


@contextmanager
def clear_errors() -> Iterator[None]:
    """The store's errors as the command line's: what is wrong, and what to do."""
    try:
        yield
    except (StoreError, StorageError, OSError) as error:
        if isinstance(error, (PermissionError, BrokenPipeError)):
            raise
        raise CommandError(str(error), _fix(error)) from error


def _fix(error: Exception) -> str:
    if isinstance(error, TargetError):
        return "look at the settings snapshot_url, snapshot_endpoint and snapshot_credentials"
    if isinstance(error, OutcomeUnknown):
        return "look whether it was done before you repeat it"
    if isinstance(error, NotLeader) or (isinstance(error, Unavailable) and "timed out" in str(error)):
        return "sk8 status shows whether a majority of the members runs"
    if isinstance(error, Corrupt):
        return "sk8 snapshot list shows others"
    return ""


def mebibytes(count: int) -> str:
    return f"{count / MIB:.1f} MiB"
