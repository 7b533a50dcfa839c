"""The dispatcher: a message, or a tick, to the handler of the current role. Pure.

``step`` first settles the term (paper 5.1), then looks the handler up in a table. A pair that is not in the table is
a message from another time (an answer to a question no longer asked) and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from raft.core import elections, follower, replication
from raft.core.elections import TRANSFER
from raft.core.errors import InvariantBroken
from raft.core.state import RaftState
from raft.core.types import NOBODY, Message, MessageKind, Role

Handler = Callable[[RaftState, Message], None]

FROM_LEADER = frozenset((MessageKind.APPEND, MessageKind.HEARTBEAT, MessageKind.SNAPSHOT))

_FOLLOWER: dict[MessageKind, Handler] = {
    MessageKind.APPEND: follower.handle_append,
    MessageKind.HEARTBEAT: follower.handle_heartbeat,
    MessageKind.SNAPSHOT: follower.handle_snapshot,
    MessageKind.TIMEOUT_NOW: elections.handle_timeout_now,
    MessageKind.READ_INDEX_RESP: follower.handle_read_response,
}
_LEADER: dict[MessageKind, Handler] = {
    MessageKind.APPEND_RESP: replication.handle_append_response,
    MessageKind.HEARTBEAT_RESP: replication.handle_heartbeat_response,
    MessageKind.READ_INDEX: replication.handle_read_request,
    MessageKind.READ_INDEX_RESP: follower.handle_read_response,
}
_VOTES: dict[MessageKind, Handler] = {
    MessageKind.VOTE: elections.handle_vote_request,
    MessageKind.PRE_VOTE: elections.handle_vote_request,
}
HANDLERS: dict[Role, dict[MessageKind, Handler]] = {
    Role.FOLLOWER: _FOLLOWER | _VOTES,
    Role.PRE_CANDIDATE: {MessageKind.PRE_VOTE_RESP: elections.handle_vote_response} | _VOTES,
    Role.CANDIDATE: {MessageKind.VOTE_RESP: elections.handle_vote_response} | _VOTES,
    Role.LEADER: _LEADER | _VOTES,
}


def step(r: RaftState, m: Message) -> None:
    if not _settle_term(r, m):
        return
    if m.kind in FROM_LEADER:
        _recognize(r, m)
    handler = HANDLERS[r.role].get(m.kind)
    if handler is not None:
        handler(r, m)


def _recognize(r: RaftState, m: Message) -> None:
    """Whoever speaks as leader of our term is it."""
    if r.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        r.become_follower(m.term, m.sender)
    elif r.leader not in (NOBODY, m.sender):
        raise InvariantBroken(f"members {r.leader} and {m.sender} both lead in term {r.term}")


def _settle_term(r: RaftState, m: Message) -> bool:
    """Adopt a higher term, answer or ignore a lower one. Whether the message is to be handled."""
    if m.term > r.term:
        return _newer(r, m)
    if m.term < r.term:
        _older(r, m)
        return False
    return True


def _newer(r: RaftState, m: Message) -> bool:
    if m.kind in (MessageKind.VOTE, MessageKind.PRE_VOTE) and r.hears_leader() and m.context != TRANSFER:
        return False
    asks = m.kind is MessageKind.PRE_VOTE
    granted_pre_vote = m.kind is MessageKind.PRE_VOTE_RESP and not m.reject
    if not asks and not granted_pre_vote:
        r.become_follower(m.term, m.sender if m.kind in FROM_LEADER else NOBODY)
    return True


def _older(r: RaftState, m: Message) -> None:
    if m.kind in (MessageKind.HEARTBEAT, MessageKind.APPEND) and r.config.check_quorum:
        # A leader that we outgrew while cut off would ignore our votes (stickiness); our term makes it step down.
        r.send(Message(MessageKind.APPEND_RESP, m.sender))
    elif m.kind is MessageKind.PRE_VOTE:
        # Lets a candidate of an old term catch up with the term.
        r.send(Message(MessageKind.PRE_VOTE_RESP, m.sender, reject=True))


# --- time


def tick(r: RaftState) -> None:
    if r.role is Role.LEADER:
        _tick_leader(r)
        return
    r.election_elapsed += 1
    if r.election_elapsed >= r.timeout_ticks and r.promotable():
        r.election_elapsed = 0
        elections.time_out(r)


def _tick_leader(r: RaftState) -> None:
    r.heartbeat_elapsed += 1
    r.election_elapsed += 1
    if r.election_elapsed >= r.config.election_ticks:
        r.election_elapsed = 0
        if r.config.check_quorum and not replication.quorum_is_active(r):
            r.become_follower(r.term, NOBODY)
            return
        r.transferee = NOBODY  # a transfer has one election time-out, then proposals are taken again
    if r.heartbeat_elapsed >= r.config.heartbeat_ticks:
        r.heartbeat_elapsed = 0
        replication.heartbeat(r)
