"""Who is in the group, where they are reached, and which changes are allowed. Pure; kept in the backend's meta.

absent --member_add--> learner --member_promote (refused until caught up)--> voter --member_remove--> removed
                          '------------------------- member_remove ------------------------------------^
A removed id never comes back: its directory may have promised things that nobody remembers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from raft.config import Address
from raft.core.types import ConfChange, ConfOp, ConfState, Status
from raft.errors import Invalid, Unavailable
from raft.mvcc.backend import Backend
from raft.wire import pack, unpack

_MEMBER = b"member/"
_REMOVED = b"removed/"
_ID = struct.Struct(">Q")
CAUGHT_UP_ENTRIES = 1000


def encode_address(address: Address) -> bytes:
    return pack(list(address))


def decode_address(data: bytes) -> Address:
    """Raises Invalid."""
    value = unpack(data)
    if not isinstance(value, list) or [type(v) for v in value] != [str, int, int]:
        raise Invalid("a member's address is (host, peer port, client port)")
    return (value[0], value[1], value[2])


class Members:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.addresses: dict[int, Address] = {
            _ID.unpack(name[len(_MEMBER) :])[0]: decode_address(value) for name, value in backend.meta_scan(_MEMBER)
        }
        self.removed: dict[int, None] = {
            _ID.unpack(name[len(_REMOVED) :])[0]: None for name, _ in backend.meta_scan(_REMOVED)
        }

    def set(self, member: int, address: Address) -> None:
        self.addresses[member] = address
        self._backend.meta_set(_MEMBER + _ID.pack(member), encode_address(address))

    def replace(self, members: Mapping[int, Address]) -> None:
        """Other members instead of all there were, which never come back. Raises Invalid for an id that was used."""
        for member in list(self.addresses):
            self._remove(member)
        for member, address in sorted(members.items()):
            if member in self.removed:
                raise Invalid(f"member id {member} was used before: the new members need ids above all of these")
            self.set(member, address)

    def _remove(self, member: int) -> None:
        self.addresses.pop(member, None)
        self._backend.meta_set(_MEMBER + _ID.pack(member), None)
        self.removed[member] = None
        self._backend.meta_set(_REMOVED + _ID.pack(member), b"")

    def apply(self, change: ConfChange, conf: ConfState) -> None:
        """``conf`` is the membership with ``change`` applied; only what is in it counts."""
        present = conf.members()
        for op, member in change.changes:
            if op in (ConfOp.ADD_VOTER, ConfOp.ADD_LEARNER) and member in present and change.context:
                self.set(member, decode_address(change.context))
            elif op == ConfOp.REMOVE and member not in present:
                self._remove(member)

    def listing(self, conf: ConfState) -> list[list[Any]]:
        """[id, host, peer port, client port, learner] of each, by id."""
        return [[member, *self.addresses.get(member, ("", 0, 0)), member in conf.learners] for member in conf.members()]

    # --- may it be done (asked on the leader, before proposing)

    def check_add(self, member: int, address: Address, conf: ConfState) -> None:
        """Raises Invalid."""
        if member <= 0:
            raise Invalid(f"member id is {member}: must be greater than 0")
        if member in self.removed:
            raise Invalid(f"etcdserver: member {member} was removed for good: give the new member a new id")
        if member in conf.members():
            raise Invalid(f"etcdserver: member ID already exist ({member})")
        if address in self.addresses.values():
            raise Invalid(f"etcdserver: Peer URLs already exists ({address[0]}:{address[1]})")
        if conf.learners:
            raise Invalid("etcdserver: too many learner members in cluster (limit 1): promote or remove it first")

    def check_promote(self, member: int, status: Status) -> None:
        """Raises Invalid, or Unavailable as long as it has not caught up."""
        if member not in status.conf.learners:
            raise Invalid(f"etcdserver: can only promote a learner member ({member} is none)")
        progress = status.progress.get(member)
        have = progress.match if progress is not None else 0
        follows = progress is not None and progress.active and progress.state == "replicate"
        if not follows or have == 0 or have + CAUGHT_UP_ENTRIES < status.commit:
            raise Unavailable(
                f"etcdserver: can only promote a learner member which is in sync with leader "
                f"(member {member} has entry {have} of {status.commit})"
            )

    def check_remove(self, member: int, status: Status) -> None:
        """Raises Invalid."""
        conf = status.conf
        if member not in conf.members():
            raise Invalid(f"etcdserver: member not found ({member})")
        if member in conf.voters and len(conf.voters) == 1:
            raise Invalid("etcdserver: re-configuration failed: the last voter cannot be removed")
        if member in conf.voters and not conf.voters_outgoing:
            rest = [m for m in conf.voters if m != member]
            alive = [m for m in rest if m == status.id or status.progress[m].active]
            if len(alive) <= len(rest) // 2:
                raise Invalid("etcdserver: re-configuration failed due to not enough started members")
