"""Scripts about a group of members: commands, and below each what must happen. Rewritten with ``pytest --rewrite``.

    command [member] [words] [key=value]        one command a block
    ----
    what it printed                             up to the next blank line

Commands (M: a member):
    group N [learners=4] [log=1,2,2] [pre_vote=false]   a new group; log: terms of entries that all have
    log M TERM,TERM,...                  restart M with entries of these terms
    campaign M | propose M DATA... | transfer M TO | read M CONTEXT | tick M N
    add-voter M ID | add-learner M ID | remove M ID | change M +4 -1 ...(joint)
    run [M]...                           handle Readys until these (or all) have none; messages wait in the network
    deliver [FROM->TO] [KIND]            hand over what waits (all of it, of that link, of that kind)
    drop [FROM->TO] [KIND]               lose it
    settle                               run and deliver until nothing is left, printing everything
    hold M | release M                   M's disk: writes are under way, or done
    restart M | compact M | join ID
    status | entries M

What is printed: role changes, hard states, entries written, messages (``1->2 VOTE term=2 log=1/1``), what is applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raft.core.errors import RaftError
from raft.core.types import (
    NO_ANSWER,
    ConfChange,
    ConfOp,
    Entry,
    EntryKind,
    Message,
    MessageKind,
    Ready,
    add_learner,
    add_voter,
    remove_member,
)
from tests.unit.raft_core.raft_net import Host, Net

SEPARATOR = "----"


@dataclass
class Block:
    comment: list[str]
    command: str
    expected: str


def parse(text: str) -> list[Block]:
    blocks = []
    for part in text.strip("\n").split("\n\n"):
        lines = part.split("\n")
        comment = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        if rest:
            blocks.append(Block(comment, rest[0], "\n".join(rest[2:])))
        else:
            blocks.append(Block(comment, "", ""))
    return blocks


def render(blocks: list[Block]) -> str:
    parts = []
    for block in blocks:
        lines = list(block.comment)
        if block.command:
            lines += [block.command, SEPARATOR, *([block.expected] if block.expected else [])]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def run(path: Path, *, rewrite: bool) -> None:
    """Raises AssertionError where what happens is not what the script says."""
    blocks, world = parse(path.read_text()), World()
    for block in blocks:
        if not block.command:
            continue
        got = world.do(block.command)
        if rewrite:
            block.expected = got
        else:
            assert got == block.expected, (
                f"{path.name}: {block.command}\n--- got\n{got}\n--- expected\n{block.expected}"
            )
    if rewrite:
        path.write_text(render(blocks))


class World:
    def __init__(self) -> None:
        self.net = Net(0)
        self.waiting: list[Message] = []
        self.out: list[str] = []

    def do(self, command: str) -> str:
        words = command.split()
        options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        arguments = [word for word in words[1:] if "=" not in word]
        self.out = []
        try:
            getattr(self, "do_" + words[0].replace("-", "_"))(*arguments, **options)
        except RaftError as error:
            self.out.append(f"{type(error).__name__}: {error}")
        return "\n".join(self.out)

    # --- making

    def do_group(self, size: str, learners: str = "", log: str = "", pre_vote: str = "true") -> None:
        members = [int(m) for m in learners.split(",") if m]
        self.net = Net(int(size), learners=members, pre_vote=pre_vote == "true")
        self.waiting = []
        if log:
            for member in self.net.hosts:
                self.do_log(str(member), log)

    def do_log(self, member: str, terms: str) -> None:
        self.net.with_log(int(member), [int(t) for t in terms.split(",")])

    def do_join(self, member: str) -> None:
        self.net.join(int(member))

    def do_restart(self, member: str) -> None:
        self._host(member).restart()

    def do_compact(self, member: str) -> None:
        self._host(member).compact()

    # --- events

    def do_campaign(self, member: str) -> None:
        host = self._host(member)
        for other in self.net.hosts.values():
            if other is not host:
                other.node._r.election_elapsed = other.node._r.config.election_ticks
        if not host.node.campaign():
            self.out.append(f"{member} must not campaign")

    def do_tick(self, member: str, times: str) -> None:
        for _ in range(int(times)):
            self._host(member).node.tick()

    def do_propose(self, member: str, *data: str) -> None:
        self._host(member).node.propose([d.encode() for d in data])

    def do_read(self, member: str, context: str) -> None:
        self._host(member).node.read_index(context.encode())

    def do_transfer(self, member: str, to: str) -> None:
        self._host(member).node.transfer_leader(int(to))

    def do_add_voter(self, member: str, ident: str) -> None:
        self._host(member).node.propose_conf_change(add_voter(int(ident)))

    def do_add_learner(self, member: str, ident: str) -> None:
        self._host(member).node.propose_conf_change(add_learner(int(ident)))

    def do_remove(self, member: str, ident: str) -> None:
        self._host(member).node.propose_conf_change(remove_member(int(ident)))

    def do_change(self, member: str, *changes: str) -> None:
        pairs = tuple((ConfOp.ADD_VOTER if c[0] == "+" else ConfOp.REMOVE, int(c[1:])) for c in changes)
        self._host(member).node.propose_conf_change(ConfChange(pairs, joint=True))

    # --- disk and network

    def do_hold(self, member: str) -> None:
        self._host(member).hold_writes = True

    def do_release(self, member: str) -> None:
        host = self._host(member)
        host.hold_writes = False
        self._persist(host)

    def do_run(self, *members: str) -> None:
        for member in members or map(str, self.net.hosts):
            self._run(self._host(member))

    def do_deliver(self, *which: str) -> None:
        for message in self._take(which):
            if message.to in self.net.hosts:
                self.net[message.to].node.step(Message.from_wire(message.to_wire()))

    def do_drop(self, *which: str) -> None:
        for message in self._take(which):
            self.out.append(f"lost {_message(message)}")
            if message.kind is MessageKind.SNAPSHOT:
                self.net[message.sender].node.report_snapshot(message.to, False)

    def do_settle(self) -> None:
        for _ in range(100):
            self.do_run()
            if not self.waiting:
                return
            self.do_deliver()
        raise AssertionError("the members never stop talking")

    def _take(self, which: tuple[str, ...]) -> list[Message]:
        def fits(message: Message) -> bool:
            names = (f"{message.sender}->{message.to}", message.kind.name)
            return all(word in names for word in which)

        taken = [m for m in self.waiting if fits(m)]
        self.waiting = [m for m in self.waiting if not fits(m)]
        return taken

    def _host(self, member: str) -> Host:
        return self.net[int(member)]

    def _run(self, host: Host) -> None:
        while host.node.has_ready():
            ready = host.node.ready()
            self._print(host, ready)
            self._send(host, ready.messages)
            host.unapplied += ready.committed_entries
            host.held.append(ready)
            if not host.hold_writes:
                self._persist(host)
            host.apply()

    def _persist(self, host: Host) -> None:
        self._send(host, host.persist())

    def _send(self, host: Host, messages: list[Message]) -> None:
        for message in messages:
            self.out.append(_message(message))
            self.waiting.append(message)
            if message.kind is MessageKind.SNAPSHOT:
                host.node.report_snapshot(message.to, True)

    # --- printing

    def _print(self, host: Host, ready: Ready) -> None:
        say = self.out.append
        if ready.soft_state is not None:
            say(f"{host.id} is {ready.soft_state.role.name.lower()}, leader={ready.soft_state.leader}")
        if ready.hard_state is not None:
            state = ready.hard_state
            say(f"{host.id} hard term={state.term} vote={state.vote} commit={state.commit}")
        if ready.snapshot is not None:
            say(f"{host.id} takes over the state at {ready.snapshot.meta.index}/{ready.snapshot.meta.term}")
        for entry in ready.entries:
            say(f"{host.id} writes {_entry(entry)}")
        for entry in ready.committed_entries:
            say(f"{host.id} applies {_entry(entry)}")
        for state_ in ready.read_states:
            say(f"{host.id} may read {state_.context.decode()} at {state_.index}")

    def do_status(self) -> None:
        for member, host in self.net.hosts.items():
            s = host.node.status()
            conf = f"voters={_ids(s.conf.voters)}"
            if s.conf.voters_outgoing:
                conf += f" outgoing={_ids(s.conf.voters_outgoing)}"
            if s.conf.learners:
                conf += f" learners={_ids(s.conf.learners)}"
            where = f"commit={s.commit} applied={s.applied} last={s.last_index}"
            self.out.append(f"{member} {s.role.name.lower()} term={s.term} leader={s.leader} {where} {conf}")

    def do_entries(self, member: str) -> None:
        storage = self._host(member).storage
        for entry in storage.entries(storage.first_index(), storage.last_index() + 1, 1 << 30):
            self.out.append(_entry(entry))


def _ids(members: tuple[int, ...]) -> str:
    return ",".join(map(str, members))


def _entry(entry: Entry) -> str:
    if entry.kind == EntryKind.CONF_CHANGE:
        change = ConfChange.decode(entry.data)
        what = " ".join(f"{ConfOp(op).name.lower()}({member})" for op, member in change.changes) or "leave-joint"
    else:
        what = entry.data.decode() or "no-op"
    return f"{entry.index}/{entry.term} {what}"


def _message(m: Message) -> str:
    parts = [f"{m.sender}->{m.to} {m.kind.name} term={m.term}"]
    if m.kind in (MessageKind.VOTE, MessageKind.PRE_VOTE, MessageKind.APPEND):
        parts.append(f"log={m.index}/{m.log_term}")
    elif m.kind in (MessageKind.APPEND_RESP, MessageKind.READ_INDEX_RESP):
        parts.append(f"index={m.index}")
    if m.reject:
        parts.append(f"rejected hint={m.hint}/{m.log_term}" if m.kind is MessageKind.APPEND_RESP else "rejected")
    if m.kind is MessageKind.APPEND and m.hint == NO_ANSWER:
        parts.append("quiet")
    if m.kind in (MessageKind.APPEND, MessageKind.HEARTBEAT):
        parts.append(f"commit={m.commit}")
    if m.snapshot is not None:
        parts.append(f"state={m.snapshot.meta.index}/{m.snapshot.meta.term}")
    if m.entries:
        parts.append("[" + ", ".join(map(_entry, m.entries)) + "]")
    return " ".join(parts)
