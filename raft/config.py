"""Settings of one State member. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from raft.errors import Invalid
from raft.faults import Faults
from raft.tracing import Tracer

MIB = 1 << 20
PEER_ROLE = "sk8:store-peers"
CLIENT_ROLE = "sk8:store-clients"
ENGINES = ("native", "raftos")

Address = tuple[str, int, int]
"""(host, peer port, client port) of a member."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one identity, and the CA that signed everybody's."""

    cert: Path
    key: Path
    ca: Path

    def problems(self, what: str) -> list[str]:
        return [f"{what}: {path} does not exist" for path in (self.cert, self.key, self.ca) if not path.is_file()]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateConfig:
    dir: Path
    """The State directory, made by create_member or join_member."""
    host: str
    """The address to listen on (both ports)."""
    client_port: int = 2379
    peer_port: int = 2380
    metrics: tuple[str, int] | None = ("127.0.0.1", 2381)
    """Plain HTTP: /metrics and /health. None: none."""
    peer_tls: TlsFiles | None = None
    """Certificate of role ``sk8:store-peers``. None (no TLS at all) is for tests on loopback alone."""
    client_tls: TlsFiles | None = None
    """What the client port shows; None: the same as the peer port. Its role, too, must be ``sk8:store-peers``."""
    tick_ms: int = 50
    election_ticks: int = 10
    """A silent leader is replaced after this many to twice as many ticks: 0.5 to 1 s."""
    quota_backend_bytes: int = 2 << 30
    map_bytes: int = 16 << 30
    """Address space of the backend's memory map; must exceed the quota, costs neither memory nor disk."""
    snapshot_every: int = 10_000
    snapshot_bytes: int = 64 * MIB
    """Entries, or bytes of them, between two markers in the WAL. What is before a marker need not be replayed, and its
    segments may go."""
    keep_entries: int = 5_000
    keep_bytes: int = 32 * MIB
    """What stays in memory behind the applied index, for members that are a little late."""
    flush_interval_s: float = 0.5
    flush_bytes: int = 8 * MIB
    auto_compaction_retention_s: float = 300
    """History younger than it can be read and watched from; 0: all of it, until somebody compacts."""
    auto_compaction_revisions: int = 0
    """Or: so many revisions can be read and watched from, however old they are."""
    lease_checkpoint_s: float = 300
    """How often the leader writes down what leases have left that live longer than this; 0: never, and every change of
    leader gives each lease its whole time again."""
    corrupt_check_s: float = 600
    """How often the leader compares the members' hashes; 0: never."""
    max_request_bytes: int = 3 * MIB // 2
    max_txn_ops: int = 4096
    max_delete_keys: int = 10_000
    """Of one transaction: it is applied at once, and nobody is answered meanwhile."""
    max_pending: int = 20_000
    """Requests that wait for a commit; more are refused, safe to retry."""
    max_connections: int = 2_000
    engine: str = "native"
    """What makes the members agree, the same on all: native, or raftos (an extra; unsafe: docs/consensus.md)."""
    raftos_key: Path | None = None
    """A file with a secret that all members share, for raftos' datagrams, which know no TLS."""
    faults: Faults = field(default_factory=Faults)
    tracer: Tracer | None = None

    def validate(self) -> None:
        """Raises Invalid with everything that is wrong and what would be right."""
        found: list[str] = []
        for name, port in (("client_port", self.client_port), ("peer_port", self.peer_port)):
            if not 0 < port < 65536:
                found.append(f"{name} is {port}: must be from 1 to 65535")
        if self.client_port == self.peer_port:
            found.append("client_port and peer_port must differ")
        if not 10 <= self.tick_ms <= 1000:
            found.append(f"tick_ms is {self.tick_ms}: must be from 10 to 1000")
        if self.election_ticks < 5:
            found.append(f"election_ticks is {self.election_ticks}: must be at least 5; 10 is usual")
        if self.map_bytes < 2 * self.quota_backend_bytes:
            found.append("map_bytes must be at least twice quota_backend_bytes")
        for name in (
            "quota_backend_bytes",
            "snapshot_every",
            "snapshot_bytes",
            "keep_entries",
            "keep_bytes",
            "max_request_bytes",
        ):
            if getattr(self, name) < 1:
                found.append(f"{name} is {getattr(self, name)}: must be at least 1")
        for name in (
            "auto_compaction_retention_s",
            "auto_compaction_revisions",
            "lease_checkpoint_s",
            "corrupt_check_s",
        ):
            if getattr(self, name) < 0:
                found.append(f"{name} must not be negative; 0 turns it off")
        if self.peer_tls is None and self.host not in ("127.0.0.1", "::1", "localhost"):
            found.append(f"peer_tls is missing: without TLS a member may listen on loopback alone, not on {self.host}")
        if self.engine not in ENGINES:
            found.append(f"engine is {self.engine!r}: must be one of {', '.join(ENGINES)}")
        if self.engine == "raftos" and self.peer_tls is not None:
            if self.raftos_key is None:
                found.append("raftos_key is missing: raftos' datagrams need a secret that all members share")
            elif not self.raftos_key.is_file():
                found.append(f"raftos_key: {self.raftos_key} does not exist")
        if self.peer_tls is not None:
            found += self.peer_tls.problems("peer_tls")
        if self.client_tls is not None:
            found += self.client_tls.problems("client_tls")
        if found:
            raise Invalid("; ".join(found))
