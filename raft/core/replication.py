"""The leader's work: appending, sending, counting, heartbeats, reads. Pure.

Invariants: a leader never overwrites its own entries; an entry is committed only if it is of the leader's own term and
durable on a quorum (paper 5.4.2), the leader itself counting like any other member; a heartbeat's commit never exceeds
what that member is known to hold.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft.core.errors import Compacted, ProposalDropped, Unavailable
from raft.core.progress import Progress, State
from raft.core.state import RaftState
from raft.core.types import (
    NO_ANSWER,
    NOBODY,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    Proposed,
    ReadState,
    entry_bytes,
)

# --- proposals


def propose(r: RaftState, kind: EntryKind, payloads: Sequence[bytes]) -> Proposed:
    """Append to the own log and send. Raises ProposalDropped; then nothing was appended."""
    if r.transferee != NOBODY:
        raise ProposalDropped(f"leadership is being handed to member {r.transferee}")
    if r.id not in r.progress:
        raise ProposalDropped("this member was removed from the group")
    first = r.log.last_index() + 1
    entries = [Entry(r.term, first + i, kind, data) for i, data in enumerate(payloads)]
    size = sum(map(entry_bytes, entries))
    if r.uncommitted_bytes and r.uncommitted_bytes + size > r.config.max_uncommitted_bytes:
        raise ProposalDropped(f"{r.uncommitted_bytes} bytes wait to be committed; try again later")
    r.uncommitted_bytes += size
    r.log.append(entries)
    broadcast_append(r)
    return Proposed(r.term, first, first + len(entries) - 1)


# --- sending


def broadcast_append(r: RaftState, *, quiet: bool = False) -> None:
    for member in r.progress:
        if member != r.id:
            send_append(r, member, quiet=quiet)


def send_append(r: RaftState, to: int, *, even_if_empty: bool = True, quiet: bool = False) -> bool:
    """One APPEND, or a snapshot if the log no longer reaches back far enough. Whether something was sent.

    ``quiet``: it says only what is committed, so that an empty one needs no answer unless the logs do not match. Lost
    ones are made up for by the next heartbeat.
    """
    pr = r.progress[to]
    if pr.is_paused():
        return False
    prev = pr.next - 1
    try:
        prev_term = r.log.term(prev)
        entries = r.log.entries(pr.next, r.log.last_index() + 1, r.config.max_size_per_msg)
    except Compacted:
        return _send_snapshot(r, to, pr)
    if not entries and not even_if_empty:
        return False
    hint = NO_ANSWER if quiet and not entries and pr.state is State.REPLICATE else 0
    committed = r.log.committed
    r.send(
        Message(MessageKind.APPEND, to, index=prev, log_term=prev_term, entries=entries, commit=committed, hint=hint)
    )
    pr.sent_append(prev + len(entries), len(entries))
    return True


def _send_snapshot(r: RaftState, to: int, pr: Progress) -> bool:
    if not pr.active:
        return False  # it would be lost; wait until it answers a heartbeat
    try:
        snapshot = r.log.snapshot()
    except Unavailable:
        return False
    r.send(Message(MessageKind.SNAPSHOT, to, snapshot=snapshot))
    pr.become_snapshot(snapshot.meta.index)
    return True


def heartbeat(r: RaftState) -> None:
    """One is due: to everybody."""
    if r.reads.full_round_due:
        r.reads.start_round(0)
    broadcast_heartbeat(r)


def broadcast_heartbeat(r: RaftState) -> None:
    send_heartbeats(r, [member for member in r.progress if member != r.id])


def send_heartbeats(r: RaftState, members: Sequence[int]) -> None:
    for member in members:
        commit = min(r.progress[member].match, r.log.committed)
        r.send(Message(MessageKind.HEARTBEAT, member, commit=commit, hint=r.reads.round))


# --- counting


def maybe_commit(r: RaftState) -> bool:
    """Advance the commit index to what a quorum holds, if that is of this term. Whether it moved."""
    index = r.membership.acked(lambda member: r.progress[member].match)
    if index <= r.log.committed or not r.log.matches(index, r.term):
        return False
    first_in_term = not r.committed_in_term()
    committed = r.log.entries(r.log.committed + 1, index + 1)
    r.log.commit_to(index)
    freed = sum(entry_bytes(e) for e in committed if e.data)
    r.uncommitted_bytes = max(0, r.uncommitted_bytes - freed)
    if first_in_term:
        for reader, context in r.reads.release_held():
            r.reads.add(reader, context, r.log.committed)
    return True


def on_durable(r: RaftState) -> None:
    """The leader's own disk caught up."""
    own = r.progress.get(r.id)
    if own is not None and own.acknowledged(r.log.persisted) and maybe_commit(r):
        broadcast_append(r, quiet=True)


# --- answers


def handle_append_response(r: RaftState, m: Message) -> None:
    pr = r.progress.get(m.sender)
    if pr is None:
        return
    pr.active = True
    if m.reject:
        _refused(r, m, pr)
    else:
        _accepted(r, m, pr)


def _refused(r: RaftState, m: Message, pr: Progress) -> None:
    # The follower's guess is where *its* terms end; ours may skip a whole conflicting term at once.
    guess = r.log.guess_match(m.hint, m.log_term)[0] if m.log_term else m.hint
    if pr.refused(m.index, guess):
        if pr.state is State.REPLICATE:
            pr.become_probe()
        send_append(r, m.sender)


def _accepted(r: RaftState, m: Message, pr: Progress) -> None:
    was_paused = pr.is_paused()
    news = pr.acknowledged(m.index)
    if not news and not (pr.state is State.PROBE and pr.match == m.index):
        return
    if pr.state is State.PROBE or (pr.state is State.SNAPSHOT and pr.match >= pr.pending_snapshot):
        pr.become_replicate()
    if maybe_commit(r):
        broadcast_append(r, quiet=True)
    elif was_paused:
        send_append(r, m.sender)
    while pr.next <= r.log.last_index() and not pr.is_paused() and send_append(r, m.sender, even_if_empty=False):
        pass
    if m.sender == r.transferee and pr.match == r.log.last_index():
        r.send(Message(MessageKind.TIMEOUT_NOW, m.sender))


def handle_heartbeat_response(r: RaftState, m: Message) -> None:
    pr = r.progress.get(m.sender)
    if pr is None:
        return
    pr.active = True
    pr.heartbeat_answered()
    if pr.match < r.log.last_index() or pr.state is State.PROBE:
        send_append(r, m.sender)
    if m.hint > pr.confirmed_read:
        pr.confirmed_read = m.hint
        if r.membership.is_voter(m.sender):
            r.reads.answered(m.sender, m.hint)
        answer_reads(r)


def report_unreachable(r: RaftState, member: int) -> None:
    """What was in flight to it is probably lost."""
    pr = r.progress.get(member)
    if pr is not None and pr.state is State.REPLICATE:
        pr.become_probe()
    r.reads.lost(member)


def report_snapshot(r: RaftState, member: int, ok: bool) -> None:
    """The snapshot to it arrived, or failed. Either way it is probed again once it answers."""
    pr = r.progress.get(member)
    if pr is None or pr.state is not State.SNAPSHOT:
        return
    if not ok:
        pr.pending_snapshot = 0
    pr.become_probe()
    pr.probe_sent = True


def quorum_is_active(r: RaftState) -> bool:
    """Whether a quorum was heard from since the last time this was asked."""
    heard = r.membership.acked(lambda member: int(member == r.id or r.progress[member].active))
    for pr in r.progress.values():
        pr.active = False
    return heard > 0


# --- reads


def add_read(r: RaftState, reader: int, context: bytes) -> None:
    if r.committed_in_term():
        r.reads.add(reader, context, r.log.committed)
    else:
        r.reads.hold(reader, context)


def start_read_round(r: RaftState) -> None:
    """Confirm leadership for the reads that wait."""
    prompt = r.reads.start_round(r.membership.others_of_quorum())
    if prompt:
        send_heartbeats(r, prompt)
    else:
        broadcast_heartbeat(r)
    answer_reads(r)


def answer_reads(r: RaftState) -> None:
    def confirmed(member: int) -> int:
        return r.reads.round if member == r.id else r.progress[member].confirmed_read

    for reader, index, context in r.reads.confirm(r.membership.acked(confirmed)):
        if reader == r.id:
            r.read_states.append(ReadState(index, context))
        else:
            r.send(Message(MessageKind.READ_INDEX_RESP, reader, index=index, context=context))


def handle_read_request(r: RaftState, m: Message) -> None:
    add_read(r, m.sender, m.context)
