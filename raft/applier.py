"""The replicated state as a whole: store, watches, leases, members, alarms, and how far the log is applied. IO-free.

Commands (what entries hold, see proposals.py), each a list:
    ["txn", compares, then, otherwise] -> TxnResult      ["grant", lease id, ttl_s] -> ttl_s
    ["revoke", lease id] -> revision                     ["compact", revision] -> revision
    ["alarm", member, kind, on] -> [[member, kind]...]   ["checkpoint", [[lease id, seconds left]...]] -> None

A command that fails has a StoreError as its result, on every member alike, and changed nothing. Everything an entry
changes goes to the backend before ``commit_point``, so a flush never cuts an entry in two.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raft.config import Address
from raft.core.types import ConfChange, ConfState, Entry, SnapshotMeta
from raft.errors import Corrupt, CorruptCluster, Invalid, NoSpace, StoreError
from raft.membership import Members
from raft.mvcc.backend import Backend
from raft.mvcc.record import Written
from raft.mvcc.store import Mvcc
from raft.mvcc.types import prefix_end
from raft.proposals import READABLE
from raft.wire import pack, unpack

_APPLIED = b"applied"
_CONF = b"conf"
_ALARMS = b"alarms"
_CLUSTER = b"cluster"
_FORMAT = b"format"
_POSITION = struct.Struct(">QQ")
STATE_FORMAT = 2
"""Of what the backend holds, and with it every saved or sent copy. 2: leases carry a checkpoint."""
READABLE_STATES = (1, STATE_FORMAT)
UNMARKED = 1
"""What does not say it is of 1, or of 2 from before that was written down: both are read alike."""
NOSPACE = "NOSPACE"
CORRUPT = "CORRUPT"


def found_state(backend: Backend, cluster_id: str, meta: SnapshotMeta) -> None:
    """What a new member starts from."""
    backend.meta_set(_FORMAT, bytes((STATE_FORMAT,)))
    backend.meta_set(_CLUSTER, cluster_id.encode())
    backend.meta_set(_APPLIED, _POSITION.pack(meta.index, meta.term))
    backend.meta_set(_CONF, pack(meta.conf.to_wire()))


def state_format(backend: Backend) -> int:
    """Raises Invalid for one that this program does not read."""
    (found,) = backend.meta_get(_FORMAT) or (UNMARKED,)
    if found not in READABLE_STATES:
        raise Invalid(
            f"the state has format version {found}, which is not known here (this one is {STATE_FORMAT}): "
            "it is of a newer sk8"
        )
    return found


def found_again(
    backend: Backend,
    cluster_id: str,
    meta: SnapshotMeta,
    members: Mapping[int, Address],
    *,
    bump_revision: int = 0,
    drop: Sequence[bytes] = (),
) -> None:
    """Make a saved state what the members of a new cluster start from; the same on each of them.

    The members it knew are gone for good, and so are its alarms. Keys that start with one of ``drop`` are deleted.
    ``bump_revision``: how far the revision jumps, so that it is above any that was handed out after the state was
    saved; history then counts as compacted, and a watch from before is told so instead of missing events.
    """
    state_format(backend)
    store, known = Mvcc(backend), Members(backend)
    for prefix in drop:
        store.txn((), (("delete", prefix, prefix_end(prefix)),))
    if bump_revision:
        store.revision += bump_revision
        store.compacted = store.revision
    store.save_state()
    known.replace(members)
    backend.meta_set(_ALARMS, None)
    found_state(backend, cluster_id, meta)


class Applier:
    def __init__(
        self,
        backend: Backend,
        clock: Callable[[], float],
        committed: Callable[[list[list[Written]]], None],
        answered: Callable[[bytes, int, list[Any]], None],
    ) -> None:
        """``committed(writes)`` hears of every revision's writes, those of an entry at once;
        ``answered(origin, sequence, results)`` of its results.

        Raises Corrupt, Invalid (a state of another version).
        """
        self.backend = backend
        self.format = state_format(backend)
        self.store = Mvcc(backend)
        self.members = Members(backend)
        self._clock = clock
        self._committed = committed
        self._answered = answered
        position, conf = backend.meta_get(_APPLIED), backend.meta_get(_CONF)
        if position is None or conf is None:
            raise Corrupt("the backend does not say how far it is applied")
        index, term = _POSITION.unpack(position)
        self.cluster_id = (backend.meta_get(_CLUSTER) or b"").decode()
        self.applied = SnapshotMeta(index, term, ConfState.from_wire(unpack(conf)))
        self.alarms: list[list[Any]] = unpack(backend.meta_get(_ALARMS) or b"\x90")
        self._written: list[list[Written]] = []
        self.puts = self.deletes = self.txns = 0
        self.leases_granted = self.leases_revoked = 0
        self._commands: dict[str, Callable[..., Any]] = {
            "grant": self._grant,
            "revoke": self._revoke,
            "compact": self._compact,
            "alarm": self._alarm,
            "checkpoint": self._checkpoint,
        }

    @property
    def out_of_space(self) -> bool:
        return any(kind == NOSPACE for _, kind in self.alarms)

    @property
    def corrupt(self) -> bool:
        return any(kind == CORRUPT for _, kind in self.alarms)

    def refuse_by_alarm(self, then: Sequence[Any], otherwise: Sequence[Any]) -> None:
        """Any write while members differ, puts while there is no space. Raises CorruptCluster, NoSpace."""
        writes = {op[0] for op in (*then, *otherwise)}
        if self.corrupt and writes & {"put", "delete"}:
            raise CorruptCluster
        if self.out_of_space and "put" in writes:
            raise NoSpace

    def mark_format(self) -> None:
        """The next flush writes leases as STATE_FORMAT has them: an older program must refuse what comes of it."""
        if self.format != STATE_FORMAT:
            self.format = STATE_FORMAT
            self.backend.meta_set(_FORMAT, bytes((STATE_FORMAT,)))

    # --- entries

    def apply(self, entry: Entry) -> None:
        if entry.data:
            version, origin, sequence, commands = unpack(entry.data)
            if version not in READABLE:
                raise Corrupt(f"entry {entry.index} has format {version}: this program is too old for its group")
            results = self._do_all(commands)
            self._commit_point(entry)
            if self._written:
                written, self._written = self._written, []
                self._count(written)
                self._committed(written)
            self._answered(origin, sequence, results)
        else:
            self._commit_point(entry)

    def _do_all(self, commands: list[list[Any]]) -> list[Any]:
        known, txn = self._commands, self._txn
        results: list[Any] = []
        for command in commands:
            try:
                if command[0] == "txn":
                    results.append(txn(command[1], command[2], command[3]))
                else:
                    results.append(known[command[0]](*command[1:]))
            except Corrupt:
                raise
            except StoreError as error:
                results.append(error)
        return results

    def _count(self, written: list[list[Written]]) -> None:
        total = deletes = 0
        for writes in written:
            total += len(writes)
            for _, record, _, _ in writes:
                deletes += record[0]  # PUT is 0, DELETE 1
        self.puts += total - deletes
        self.deletes += deletes

    def apply_membership(self, entry: Entry, change: ConfChange, conf: ConfState) -> None:
        self.members.apply(change, conf)
        self.applied = self.applied._replace(conf=conf)
        self.backend.meta_set(_CONF, pack(conf.to_wire()))
        self._commit_point(entry)

    def _commit_point(self, entry: Entry) -> None:
        self.applied = self.applied._replace(index=entry.index, term=entry.term)
        self.backend.meta_set(_APPLIED, _POSITION.pack(entry.index, entry.term))
        self.store.save_state()

    # --- commands

    def _txn(self, compares: list[Any], then: list[Any], otherwise: list[Any]) -> Any:
        if self.alarms:
            self.refuse_by_alarm(then, otherwise)
        result, writes = self.store.txn(compares, then, otherwise)
        self.txns += 1
        if writes:
            self._written.append(writes)
        return result

    def _grant(self, lease_id: int, ttl_s: int) -> int:
        if self.corrupt:
            raise CorruptCluster
        if self.out_of_space:
            raise NoSpace
        self.store.leases.grant(lease_id, ttl_s, self._clock())
        self.leases_granted += 1
        return ttl_s

    def _revoke(self, lease_id: int) -> int:
        if self.corrupt:
            raise CorruptCluster
        revision, writes = self.store.lease_revoke(lease_id)
        self.leases_revoked += 1
        if writes:
            self._written.append(writes)
        return revision

    def _checkpoint(self, leases: list[list[int]]) -> None:
        for lease_id, remaining_s in leases:
            self.store.leases.checkpoint(lease_id, remaining_s)

    def _compact(self, revision: int) -> int:
        if self.corrupt:
            raise CorruptCluster
        self.store.compact(revision)
        return revision

    def _alarm(self, member: int, kind: str, on: bool) -> list[list[Any]]:
        alarm = [member, kind]
        self.alarms = sorted([a for a in self.alarms if a != alarm] + ([alarm] if on else []))
        self.backend.meta_set(_ALARMS, pack(self.alarms))
        return self.alarms
