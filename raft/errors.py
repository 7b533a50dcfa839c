"""Errors of the store, as its callers see them. Pure.

    StoreError                   base; ``.code`` crosses the wire and is what callers branch on
    ├── Compacted                the revision asked for has been compacted away ("compacted")
    ├── FutureRevision           the revision asked for does not exist yet ("future_revision")
    ├── NoSpace                  the space alarm is on: only deletes and compaction go ("no_space")
    ├── CorruptCluster           the members differ: no writes until somebody has looked ("corrupt_cluster")
    ├── TooLarge                 request or frame above its limit ("too_large")
    ├── LeaseNotFound            the lease does not exist, or expired ("lease_not_found")
    ├── Invalid                  malformed request, wrong role, refused membership change ("invalid")
    │   └── Removed              said to a member that was removed from the group for good ("removed")
    ├── Unavailable              refused before it could take effect: safe to retry ("unavailable")
    │   ├── NotLeader            ask ``.leader`` instead (0: nobody known)
    │   ├── TooManyRequests      back-pressure: too much waits here already ("too_many_requests")
    │   └── DeadlineExceeded     the caller's own deadline passed before it was sent ("deadline_exceeded")
    ├── OutcomeUnknown           timed out after it was proposed: neither success nor failure ("outcome_unknown")
    └── Corrupt                  stored state contradicts itself; the process must stop ("corrupt")

Texts follow etcd's where etcd has one, because operators search for them.
"""

from __future__ import annotations

TOO_MANY_KEYS = "etcdserver: too many keys in one transaction"


class StoreError(Exception):
    code = "internal"


class Compacted(StoreError):
    code = "compacted"

    def __init__(self, revision: int, compacted: int) -> None:
        super().__init__(
            f"etcdserver: mvcc: required revision has been compacted (asked for {revision}, compacted at {compacted})"
        )
        self.compacted = compacted


class FutureRevision(StoreError):
    code = "future_revision"

    def __init__(self, revision: int, current: int) -> None:
        super().__init__(f"etcdserver: mvcc: required revision is a future revision ({revision} > {current})")


class NoSpace(StoreError):
    code = "no_space"

    def __init__(self) -> None:
        super().__init__("etcdserver: mvcc: database space exceeded")


class CorruptCluster(StoreError):
    code = "corrupt_cluster"

    def __init__(self) -> None:
        super().__init__("etcdserver: corrupt cluster")


class TooLarge(StoreError):
    code = "too_large"

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"etcdserver: request is too large ({size_bytes} bytes, limit {limit_bytes})")


class LeaseNotFound(StoreError):
    code = "lease_not_found"

    def __init__(self, lease_id: int) -> None:
        super().__init__(f"etcdserver: requested lease not found ({lease_id:x})")


class Invalid(StoreError):
    code = "invalid"


class Removed(Invalid):
    code = "removed"


class Unavailable(StoreError):
    code = "unavailable"


class NotLeader(Unavailable):
    def __init__(self, leader: int = 0) -> None:
        super().__init__(f"etcdserver: not leader (leader is {leader})" if leader else "etcdserver: no leader")
        self.leader = leader


class TooManyRequests(Unavailable):
    code = "too_many_requests"

    def __init__(self, text: str = "etcdserver: too many requests") -> None:
        super().__init__(text)


class DeadlineExceeded(Unavailable):
    code = "deadline_exceeded"

    def __init__(self, operation: str, why: str = "") -> None:
        super().__init__(f"context deadline exceeded ({operation}){why}")


class OutcomeUnknown(StoreError):
    code = "outcome_unknown"


class Corrupt(StoreError):
    code = "corrupt"


class Remote(StoreError):
    """An error that a member sent; ``code`` is the member's."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def from_wire(code: str, text: str) -> StoreError:
    """The error a member sent, as the class of its code where that class carries nothing but text."""
    classes = (Invalid, Unavailable, OutcomeUnknown, TooManyRequests)
    cls = {c.code: c for c in classes}.get(code)
    return cls(text) if cls is not None else Remote(code, text)
