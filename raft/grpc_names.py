"""What our operations and errors are called in etcd's gRPC metrics, so that its dashboards and alerts read ours. Pure.

We speak no gRPC; only the names are its. A watch is a stream there, and counts as handled when it ends. Codes are those
of etcd's `rpctypes` for the same errors.
"""

from __future__ import annotations

UNARY, STREAM = "unary", "bidi_stream"

LABELS = ("grpc_type", "grpc_service", "grpc_method")


def _kv(method: str) -> tuple[str, str, str]:
    return UNARY, "etcdserverpb.KV", method


def _lease(method: str) -> tuple[str, str, str]:
    return UNARY, "etcdserverpb.Lease", method


def _cluster(method: str) -> tuple[str, str, str]:
    return UNARY, "etcdserverpb.Cluster", method


def _maintenance(method: str) -> tuple[str, str, str]:
    return UNARY, "etcdserverpb.Maintenance", method


METHODS: dict[str, tuple[str, str, str]] = {
    "txn": _kv("Txn"),
    "range": _kv("Range"),
    "compact": _kv("Compact"),
    "watch": (STREAM, "etcdserverpb.Watch", "Watch"),
    "lease_keep_alive": (STREAM, "etcdserverpb.Lease", "LeaseKeepAlive"),
    "lease_grant": _lease("LeaseGrant"),
    "lease_revoke": _lease("LeaseRevoke"),
    "lease_time_to_live": _lease("LeaseTimeToLive"),
    "lease_list": _lease("LeaseLeases"),
    "member_list": _cluster("MemberList"),
    "member_add": _cluster("MemberAdd"),
    "member_promote": _cluster("MemberPromote"),
    "member_remove": _cluster("MemberRemove"),
    "status": _maintenance("Status"),
    "hash": _maintenance("Hash"),
    "hash_kv": _maintenance("HashKV"),
    "transfer_leader": _maintenance("MoveLeader"),
    "alarm_list": _maintenance("Alarm"),
    "alarm_disarm": _maintenance("Alarm"),
}
"""By operation of the client port. Those without a counterpart (ping, read_index, unwatch) are not shown."""

OK = "OK"

_CODES = {
    "compacted": "OutOfRange",
    "future_revision": "OutOfRange",
    "no_space": "ResourceExhausted",
    "too_many_requests": "ResourceExhausted",
    "corrupt_cluster": "DataLoss",
    "too_large": "InvalidArgument",
    "invalid": "InvalidArgument",
    "lease_not_found": "NotFound",
    "unavailable": "Unavailable",
    "outcome_unknown": "Unavailable",
    "deadline_exceeded": "DeadlineExceeded",
}


def code_of(error_code: str) -> str:
    """The gRPC code of an error's ``code``."""
    return _CODES.get(error_code, "Unknown")
