"""What a member does again and again, besides ticking: leases, history, records that nobody can read any more. IO.

Each is a coroutine that runs until it is cancelled. What changes the state goes through the log, by the leader alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from raft.compaction import policy_of
from raft.corruption import CorruptionCheck
from raft.errors import StoreError
from raft.member import Member
from raft.wire import pack

log = logging.getLogger(__name__)
LEASE_CHECK_S, LEASE_CHECK_MIN_S = 0.2, 0.02
"""A lease is over when its time is, not a while later: a standby waits for it. Yet many are looked at together."""
LEASES_AT_ONCE = 256
PROGRESS_S = 1.0
PROGRESS_AT_ONCE = 1_000
PROGRESS_TURNS = 5
"""After so many every watch has been told, however many there are."""
SCRUB_RECORDS = 16
SCRUB_S = 0.002


def upkeep(member: Member) -> list[Coroutine[Any, Any, None]]:
    return [
        _expire_leases(member),
        _checkpoint_leases(member),
        _compact(member),
        _scrub(member),
        _progress(member),
        CorruptionCheck(member, member.config.corrupt_check_s).run(),
    ]


async def _expire_leases(member: Member) -> None:
    while True:
        due_s = member.store.leases.due_in_s(time.monotonic())
        await asyncio.sleep(min(max(due_s, LEASE_CHECK_MIN_S), LEASE_CHECK_S))
        if member.consensus.is_leader:
            for lease_id in member.store.leases.expired(time.monotonic(), LEASES_AT_ONCE):
                member.metrics.leases_expired.inc()
                _propose_quietly(member, ("revoke", lease_id))


async def _checkpoint_leases(member: Member) -> None:
    interval_s = member.config.lease_checkpoint_s
    if not interval_s:
        await asyncio.Event().wait()
    while True:
        await asyncio.sleep(interval_s)
        if member.consensus.is_leader:
            left = member.store.leases.to_checkpoint(time.monotonic(), interval_s)
            for at in range(0, len(left), LEASES_AT_ONCE):
                _propose_quietly(member, ("checkpoint", left[at : at + LEASES_AT_ONCE]))


async def _compact(member: Member) -> None:
    config = member.config
    policy = policy_of(config.auto_compaction_retention_s, config.auto_compaction_revisions)
    if policy is None:
        await asyncio.Event().wait()
        return
    while True:
        revision = policy.observe(time.monotonic(), member.store.revision)
        if revision > member.store.compacted and member.consensus.is_leader:
            _propose_quietly(member, ("compact", revision))
        await asyncio.sleep(policy.interval_s)


def _propose_quietly(member: Member, command: tuple[Any, ...]) -> None:
    """Its failure is that of a thing that is tried again anyway."""

    def done(result: Any) -> None:
        if isinstance(result, StoreError):
            log.info("%s: %s", command[0], result)

    try:
        member.propose(pack(command), done)
    except StoreError as error:
        done(error)


async def _scrub(member: Member) -> None:
    """In turns of about SCRUB_S: records may be large, and each is read."""
    while True:
        until = time.perf_counter() + SCRUB_S
        while not (done := member.store.scrub(SCRUB_RECORDS)) and time.perf_counter() < until:
            continue
        await asyncio.sleep(0.2 if done else 0.002)


async def _progress(member: Member) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        hub = member.watches.hub
        hub.progress_in_turn(max(PROGRESS_AT_ONCE, len(hub) // PROGRESS_TURNS))
