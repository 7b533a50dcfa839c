"""A follower's work: taking what the leader sends. Pure.

Invariant: every acknowledgement goes out by the durable outbox: it says "on my disk".
"""

from __future__ import annotations

from raft.core.state import RaftState
from raft.core.types import NO_ANSWER, Message, MessageKind, ReadState


def handle_append(r: RaftState, m: Message) -> None:
    r.election_elapsed = 0
    r.leader = m.sender
    if m.index < r.log.committed:
        r.send(Message(MessageKind.APPEND_RESP, m.sender, index=r.log.committed))
        return
    last = r.log.append_after(m.index, m.log_term, m.entries)
    if last is None:
        _refuse(r, m)
        return
    r.log.commit_to(min(m.commit, last))
    if m.hint != NO_ANSWER:
        r.send(Message(MessageKind.APPEND_RESP, m.sender, index=last))


def _refuse(r: RaftState, m: Message) -> None:
    """Say where our log may match: whole terms are skipped instead of one entry at a time (paper 5.3, end)."""
    hint, hint_term = r.log.guess_match(m.index, m.log_term)
    r.send(Message(MessageKind.APPEND_RESP, m.sender, index=m.index, reject=True, hint=hint, log_term=hint_term))


def handle_heartbeat(r: RaftState, m: Message) -> None:
    r.election_elapsed = 0
    r.leader = m.sender
    r.log.commit_to(m.commit)
    r.send(Message(MessageKind.HEARTBEAT_RESP, m.sender, hint=m.hint))


def handle_snapshot(r: RaftState, m: Message) -> None:
    r.election_elapsed = 0
    r.leader = m.sender
    snapshot = m.snapshot
    if snapshot is None:
        return
    meta = snapshot.meta
    if meta.index > r.log.committed:
        if r.log.matches(meta.index, meta.term):
            r.log.commit_to(meta.index)  # we hold all of it: no need to start over
        else:
            r.log.restore(snapshot)
    r.send(Message(MessageKind.APPEND_RESP, m.sender, index=r.log.committed))


def handle_read_response(r: RaftState, m: Message) -> None:
    r.read_states.append(ReadState(m.index, m.context))
