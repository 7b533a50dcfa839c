"""Errors of the consensus core. Pure.

RaftError                    base; ``.code`` is the store error code it maps to where one fits
├── NotLeader                this member cannot take the request; ``.leader`` may (0 = nobody known)
├── ProposalDropped          never entered the log: safe to retry ("too much in flight", transfer, ...)
├── ConfChangeRefused        the membership change is not valid now; nothing was proposed
├── Compacted                the index is older than the log's first entry
├── Unavailable              the index (or snapshot) is not there yet: try again later
├── ConfigError              a Config that cannot be safe; the text says what would be right
└── InvariantBroken          a safety invariant does not hold; the process must stop
"""

from __future__ import annotations


class RaftError(Exception):
    code = "unavailable"


class NotLeader(RaftError):
    """``leader`` is the member that may be asked instead, 0 if none is known."""

    def __init__(self, leader: int = 0) -> None:
        super().__init__(f"not the leader; try member {leader}" if leader else "not the leader; no leader is known")
        self.leader = leader


class ProposalDropped(RaftError):
    """The proposal never entered the log."""


class ConfChangeRefused(RaftError):
    """The membership change is invalid in the current configuration, or another one is in progress."""

    code = "invalid"


class Compacted(RaftError):
    """The entry asked for is no longer in the log."""

    code = "compacted"


class Unavailable(RaftError):
    """The entry or snapshot asked for is not available (yet)."""


class ConfigError(RaftError, ValueError):
    """The configuration is unsafe or meaningless."""

    code = "invalid"


class InvariantBroken(RaftError):
    """Going on could lose acknowledged data: stop the process and look at its directory."""

    code = "internal"
