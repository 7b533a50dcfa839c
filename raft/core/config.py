"""Settings of one member's consensus core. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from raft.core.errors import ConfigError


class Rng(Protocol):
    """What the core needs of a random.Random: seed it and a run repeats itself."""

    def randrange(self, start: int, stop: int, /) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    id: int
    rng: Rng
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    max_size_per_msg: int = 1 << 20
    """Bytes of entries in one APPEND (one entry may exceed it)."""
    max_inflight: int = 256
    """APPENDs in flight to one member before it has to answer."""
    max_uncommitted_bytes: int = 64 << 20
    """Proposals beyond it are dropped until some commit. One proposal alone always fits."""
    max_apply_bytes: int = 4 << 20
    """Bytes of committed entries in one Ready."""
    pre_vote: bool = True
    check_quorum: bool = True
    applied: int = 0
    """What the state machine has already applied durably; entries up to it are not handed out again."""

    def validate(self) -> None:
        """Raises ConfigError that says what is wrong and what would be right."""
        if self.id <= 0:
            raise ConfigError(f"id is {self.id}: must be greater than 0")
        if self.heartbeat_ticks < 1:
            raise ConfigError(f"heartbeat_ticks is {self.heartbeat_ticks}: must be at least 1")
        if self.election_ticks < 3 * self.heartbeat_ticks:
            raise ConfigError(
                f"election_ticks is {self.election_ticks}: must be at least 3 x heartbeat_ticks "
                f"({3 * self.heartbeat_ticks}), or one lost heartbeat unseats the leader; 10 x is usual"
            )
        if self.pre_vote and not self.check_quorum:
            raise ConfigError("pre_vote without check_quorum: a half-connected leader could stay for ever; set both")
        for name in ("max_size_per_msg", "max_inflight", "max_uncommitted_bytes", "max_apply_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: must be at least 1")
        if self.applied < 0:
            raise ConfigError(f"applied is {self.applied}: must not be negative")
