"""Elections: pre-vote, vote, leader transfer. Pure.

Source: Raft paper 5.2, 5.4.1; dissertation 3.10 (transfer), 6.2 and 9.6 (stickiness, pre-vote).

Invariants: one vote per term, durable before it is answered; a candidate counts its own vote only when it is durable;
votes go only to logs at least as complete as the voter's.
"""

from __future__ import annotations

from raft.core import replication
from raft.core.errors import Compacted
from raft.core.quorum import Vote
from raft.core.state import RaftState
from raft.core.types import NOBODY, Entry, EntryKind, HardState, Message, MessageKind, Role

TRANSFER = b"transfer"
"""Context of a vote request that the leader itself asked for: overrides stickiness."""


def time_out(r: RaftState) -> None:
    """The election timer ran out."""
    campaign(r, pre_vote=r.config.pre_vote)


def suspect(r: RaftState, member: int) -> None:
    """The connection to ``member`` broke. If it leads, its process has probably ended: do not wait for the time-out.

    The voters left take turns, two ticks apart, so that they do not split the vote. A leader that is well after all
    is protected as always: those who still hear it refuse the pre-vote, and its next message ends the suspicion.
    """
    left = [voter for voter in r.membership.voters() if voter != member]
    if r.role is Role.FOLLOWER and r.leader == member and r.id in left and r.config.pre_vote:
        r.leader = NOBODY
        r.election_elapsed = max(r.election_elapsed, r.timeout_ticks - 1 - 2 * left.index(r.id))


def campaign(r: RaftState, *, pre_vote: bool, context: bytes = b"") -> bool:
    """Stand for election. False if this member must not (now)."""
    if r.role is Role.LEADER or not r.promotable() or _has_unapplied_conf_change(r):
        return False
    if pre_vote:
        r.become_pre_candidate()
        _request_votes(r, MessageKind.PRE_VOTE, r.term + 1, context)
        _count(r, r.id, granted=True)
    else:
        r.become_candidate()
        # Its own vote counts when it is durable: see on_durable.
        _request_votes(r, MessageKind.VOTE, r.term, context)
    return True


def on_durable(r: RaftState, hard_state: HardState) -> None:
    if r.role is Role.CANDIDATE and hard_state.term == r.term and hard_state.vote == r.id and r.id not in r.votes:
        _count(r, r.id, granted=True)


def _has_unapplied_conf_change(r: RaftState) -> bool:
    """A committed membership that we do not act on yet: campaigning under the old one could elect a second leader."""
    lo = r.log.applied + 1
    while lo <= r.log.committed:
        try:
            page = r.log.entries(lo, r.log.committed + 1, r.config.max_apply_bytes)
        except Compacted:
            return True
        if any(e.kind == EntryKind.CONF_CHANGE for e in page):
            return True
        lo = page[-1].index + 1
    return False


def _request_votes(r: RaftState, kind: MessageKind, term: int, context: bytes) -> None:
    last, last_term = r.log.last_index(), r.log.last_term()
    for voter in r.membership.voters():
        if voter != r.id:
            r.send(Message(kind, voter, term=term, index=last, log_term=last_term, context=context))


def _count(r: RaftState, voter: int, *, granted: bool) -> None:
    r.votes.setdefault(voter, granted)
    result = r.membership.votes(r.votes)
    if result is Vote.LOST:
        r.become_follower(r.term, NOBODY)
    elif result is Vote.WON:
        if r.role is Role.PRE_CANDIDATE:
            campaign(r, pre_vote=False)
        else:
            _win(r)


def _win(r: RaftState) -> None:
    r.become_leader()
    # The no-op: what earlier terms left is committed only together with an entry of this one (paper 5.4.2).
    r.log.append([Entry(r.term, r.log.last_index() + 1, EntryKind.NORMAL, b"")])
    replication.broadcast_append(r)


def handle_vote_request(r: RaftState, m: Message) -> None:
    """VOTE (its term is ours by now) or PRE_VOTE (its term is a question)."""
    pre = m.kind is MessageKind.PRE_VOTE
    free = r.vote == m.sender or (r.vote == NOBODY and r.leader == NOBODY) or (pre and m.term > r.term)
    granted = free and r.log.is_up_to_date(m.index, m.log_term)
    answer = MessageKind.PRE_VOTE_RESP if pre else MessageKind.VOTE_RESP
    # A granted pre-vote answers in the term it was asked for, everything else in our own.
    r.send(Message(answer, m.sender, term=m.term if granted else r.term, reject=not granted))
    if granted and not pre:
        r.election_elapsed = 0
        r.vote = m.sender


def handle_vote_response(r: RaftState, m: Message) -> None:
    if r.role is Role.PRE_CANDIDATE and not m.reject and m.term != r.term + 1:
        return  # granted for an earlier question
    if r.membership.is_voter(m.sender):
        _count(r, m.sender, granted=not m.reject)


def handle_timeout_now(r: RaftState, m: Message) -> None:
    """The leader wants us to take over: no pre-vote, it is alive and would be in its way."""
    campaign(r, pre_vote=False, context=TRANSFER)


# --- the leader's side of a transfer


def transfer_leader(r: RaftState, to: int) -> bool:
    """Hand leadership to ``to`` once it is up to date. False if it cannot lead or already does."""
    pr = r.progress.get(to)
    if pr is None or to == r.id or not r.membership.is_voter(to):
        return False
    r.transferee = to
    r.election_elapsed = 0
    if pr.match == r.log.last_index():
        send_timeout_now(r, to)
    else:
        replication.send_append(r, to)
    return True


def send_timeout_now(r: RaftState, to: int) -> None:
    r.send(Message(MessageKind.TIMEOUT_NOW, to))
