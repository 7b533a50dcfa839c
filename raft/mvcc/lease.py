"""Leases: keys that live as long as somebody renews them. Pure; time is given.

What is replicated: that a lease exists, its ttl, and (through the records) its keys. What is not: when it expires.
The leader alone decides that, by its own monotonic clock, and revokes through the log. A new leader gives every
lease what the old one wrote down last that it had left (a checkpoint, of long leases alone), or its whole ttl again
(``promote``). A change of leader never shortens a lease: a renewal takes a checkpoint back before it is answered.

             grant(log)                 expires(leader's clock)            revoke(log)
    absent -------------> granted ----------------------------> over ----------------> absent, keys deleted
                            '--^ renew(leader)
"""

from __future__ import annotations

import heapq
import struct

from raft.errors import Invalid, LeaseNotFound
from raft.mvcc.backend import Backend

_META = b"lease/"
_ID = struct.Struct(">Q")
_STORED = struct.Struct(">QQ")
_STORED_1 = struct.Struct(">Q")
"""In a directory or snapshot of format 1, which knew no checkpoints."""
MAX_TTL_S = 9_000_000_000


class Lease:
    __slots__ = ("checkpointed", "expires_at", "keys", "over", "remaining_s", "ttl_s")

    def __init__(self, ttl_s: int, remaining_s: int = 0) -> None:
        self.ttl_s = ttl_s
        self.remaining_s = remaining_s
        """Of its life at the last checkpoint, for the next leader; 0: none since it was granted or renewed."""
        self.checkpointed = remaining_s > 0
        """One is in the log, or on its way there."""
        self.keys: dict[bytes, None] = {}
        self.expires_at = float("inf")
        self.over = False
        """The leader has asked the group to revoke it: too late to renew."""


class Leases:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._leases: dict[int, Lease] = {}
        self._due: list[tuple[float, int]] = []
        self._leading = False
        self._holders: dict[bytes, int] = {}
        """The lease of each key that has one."""
        for name, value in backend.meta_scan(_META):
            stored = _STORED_1 if len(value) == _STORED_1.size else _STORED
            self._leases[_ID.unpack(name[len(_META) :])[0]] = Lease(*stored.unpack(value))

    def __contains__(self, lease_id: int) -> bool:
        return lease_id in self._leases

    def __len__(self) -> int:
        return len(self._leases)

    def ids(self) -> list[int]:
        return sorted(self._leases)

    def get(self, lease_id: int) -> Lease:
        lease = self._leases.get(lease_id)
        if lease is None:
            raise LeaseNotFound(lease_id)
        return lease

    # --- through the log

    def grant(self, lease_id: int, ttl_s: int, now_s: float) -> None:
        """Raises Invalid if it exists or the ttl is out of bounds."""
        if lease_id in self._leases:
            raise Invalid(f"etcdserver: lease already exists ({lease_id:x})")
        if not 0 < ttl_s <= MAX_TTL_S:
            raise Invalid(f"etcdserver: lease TTL is {ttl_s}: must be from 1 to {MAX_TTL_S} seconds")
        self._leases[lease_id] = lease = Lease(ttl_s)
        self._save(lease_id, lease)
        if self._leading:
            self._arm(lease_id, lease, now_s + ttl_s)

    def _save(self, lease_id: int, lease: Lease) -> None:
        self._backend.meta_set(_META + _ID.pack(lease_id), _STORED.pack(lease.ttl_s, lease.remaining_s))

    def checkpoint(self, lease_id: int, remaining_s: int) -> None:
        """So long it had to live when the leader said so; 0: it was renewed. A lease that is gone is nothing."""
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.remaining_s = min(remaining_s, lease.ttl_s)
            lease.checkpointed = remaining_s > 0
            self._save(lease_id, lease)

    def remove(self, lease_id: int) -> None:
        self._leases.pop(lease_id, None)
        self._backend.meta_set(_META + _ID.pack(lease_id), None)

    def attach(self, lease_id: int, key: bytes) -> None:
        self._leases[lease_id].keys[key] = None
        self._holders[key] = lease_id

    def holder(self, key: bytes) -> int:
        """The lease that the key is attached to; 0 if it has none."""
        return self._holders.get(key, 0)

    def detach(self, lease_id: int, key: bytes) -> None:
        if self._holders.get(key) == lease_id:
            del self._holders[key]
        lease = self._leases.get(lease_id)
        if lease is not None:
            lease.keys.pop(key, None)

    # --- the leader's clock

    def promote(self, now_s: float, extend_s: float) -> None:
        """This member leads from now on: every lease gets what it had left at its last checkpoint, or its ttl again,
        and ``extend_s`` for the change itself."""
        self._leading = True
        self._due = []
        for lease_id, lease in self._leases.items():
            lease.expires_at = now_s + (lease.remaining_s or lease.ttl_s) + extend_s
            lease.over = False
            self._due.append((lease.expires_at, lease_id))
        heapq.heapify(self._due)

    def demote(self) -> None:
        self._leading = False
        self._due = []

    def renew(self, lease_id: int, now_s: float) -> int:
        """Seconds of life it has again. Raises LeaseNotFound, also if it is being revoked."""
        lease = self.get(lease_id)
        if lease.over:
            raise LeaseNotFound(lease_id)
        lease.expires_at = max(lease.expires_at if self._leading else 0.0, now_s + lease.ttl_s)
        return lease.ttl_s

    def to_checkpoint(self, now_s: float, longer_than_s: float) -> list[tuple[int, int]]:
        """(id, whole seconds left, at least 1) of the leases whose ttl is longer: short ones lose little by a change of
        leader, and are renewed all the time."""
        found: list[tuple[int, int]] = []
        for lease_id, lease in self._leases.items():
            if lease.ttl_s > longer_than_s and not lease.over:
                lease.checkpointed = True
                found.append((lease_id, max(1, int(lease.expires_at - now_s))))
        return found

    def expired(self, now_s: float, limit: int) -> list[int]:
        """Up to ``limit`` leases whose time is over; asks again later for those that are not revoked by then.

        The heap holds one entry a lease; a renewed lease's entry is moved when it comes up, not when it is renewed.
        """
        over: list[int] = []
        while self._due and self._due[0][0] <= now_s and len(over) < limit:
            _, lease_id = heapq.heappop(self._due)
            lease = self._leases.get(lease_id)
            if lease is None:
                continue
            if lease.expires_at > now_s:
                heapq.heappush(self._due, (lease.expires_at, lease_id))
                continue
            lease.over = True
            over.append(lease_id)
            heapq.heappush(self._due, (now_s + 1.0, lease_id))
        return over

    def due_in_s(self, now_s: float) -> float:
        """No lease's time is over sooner; it may be later, of one that was renewed. Infinite when there is none."""
        return max(0.0, self._due[0][0] - now_s) if self._due else float("inf")

    def remaining_s(self, lease_id: int, now_s: float) -> float:
        """Seconds left by the leader's clock (the ttl on other members, which do not know)."""
        lease = self.get(lease_id)
        return max(0.0, lease.expires_at - now_s) if self._leading else float(lease.ttl_s)

    def _arm(self, lease_id: int, lease: Lease, expires_at: float) -> None:
        lease.expires_at = expires_at
        heapq.heappush(self._due, (expires_at, lease_id))
