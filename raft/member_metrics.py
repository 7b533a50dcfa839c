"""What a member knows anyway, shown under etcd's names when somebody asks; it costs nothing until then. IO-free.

Kinds are etcd's, too: `etcd_server_proposals_committed_total` is a gauge there in spite of its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from raft.grpc_names import LABELS, METHODS, OK, code_of
from raft.member import Member
from raft.service import ClientService
from raft.transport import Listener


def _version() -> str:
    try:
        return version("sk8-cluster")
    except PackageNotFoundError:
        return "unknown"


class MemberMetrics(Collector):
    def __init__(self, member: Member, service: ClientService, clients: Listener, peers: Listener) -> None:
        self._member = member
        self._service = service
        self._clients = clients
        self._peers = peers

    def collect(self) -> Iterator[Metric]:
        for name, text, value in (*self._server(), *self._store()):
            yield GaugeMetricFamily(name, text, value)
        for name, text, value in self._counters():
            yield CounterMetricFamily(name, text, value)
        yield self._labelled("etcd_server_id", "This member", "server_id", f"{self._member.id:x}")
        yield self._labelled("etcd_server_version", "Which version is running", "server_version", _version())
        yield from self._network()
        yield from self._requests()

    @staticmethod
    def _labelled(name: str, text: str, label: str, value: str) -> Metric:
        family = GaugeMetricFamily(name, text, labels=[label])
        family.add_metric([value], 1)
        return family

    def _server(self) -> tuple[tuple[str, str, float], ...]:
        member = self._member
        status, consensus = member.consensus.status(), member.consensus
        return (
            ("etcd_server_has_leader", "1 if a leader is known", bool(status.leader)),
            ("etcd_server_is_leader", "1 if this member leads", status.leader == member.id),
            ("etcd_server_is_learner", "1 if this member is a learner", member.id in status.conf.learners),
            ("etcd_server_proposals_committed_total", "Commit index", status.commit),
            ("etcd_server_proposals_applied_total", "Applied index", member.applier.applied.index),
            ("etcd_server_proposals_pending", "Requests that wait for a commit", consensus.pending),
            ("etcd_server_quota_backend_bytes", "Space quota", member.config.quota_backend_bytes),
            (
                "etcd_server_snapshot_apply_in_progress_total",
                "1 while a leader's state is taken over",
                member.installing,
            ),
        )

    def _store(self) -> tuple[tuple[str, str, float], ...]:
        member = self._member
        store, hub = member.store, member.watches.hub
        return (
            ("etcd_mvcc_db_total_size_in_bytes", "Backend file", member.backend.size_bytes()),
            ("etcd_mvcc_db_total_size_in_use_in_bytes", "Pages of it that hold something", member.space_in_use()),
            ("etcd_debugging_mvcc_keys_total", "Live keys", len(store)),
            ("etcd_debugging_mvcc_current_revision", "Revision", store.revision),
            ("etcd_debugging_mvcc_compact_revision", "Compacted revision", store.compacted),
            ("etcd_debugging_mvcc_watcher_total", "Watchers", len(hub)),
            ("etcd_debugging_mvcc_watch_stream_total", "Connections that watch", member.watches.streams),
            ("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind", hub.behind),
            ("etcd_debugging_lease_count", "Leases", len(store.leases)),
        )

    def _counters(self) -> tuple[tuple[str, str, float], ...]:
        applier, started = self._member.applier, self._service.started
        received, sent = self._clients.traffic_bytes()
        return (
            ("etcd_server_proposals_failed", "Requests that were refused or lost", self._member.consensus.refused),
            ("etcd_mvcc_put", "Puts seen by this member", applier.puts),
            ("etcd_mvcc_delete", "Deletes seen by this member", applier.deletes),
            ("etcd_mvcc_txn", "Transactions seen by this member", applier.txns),
            ("etcd_mvcc_range", "Ranges asked of this member", started.get("range", 0)),
            ("etcd_debugging_mvcc_events", "Events sent to watchers", self._member.watches.events),
            ("etcd_debugging_lease_granted", "Leases granted", applier.leases_granted),
            ("etcd_debugging_lease_revoked", "Leases revoked", applier.leases_revoked),
            ("etcd_debugging_lease_renewed", "Leases renewed here", started.get("lease_keep_alive", 0)),
            ("etcd_network_client_grpc_received_bytes", "Bytes from clients", received),
            ("etcd_network_client_grpc_sent_bytes", "Bytes to clients", sent),
        )

    def _requests(self) -> Iterator[Metric]:
        service = self._service
        started = CounterMetricFamily("grpc_server_started", "Requests of clients", labels=LABELS)
        handled = CounterMetricFamily("grpc_server_handled", "Requests answered", labels=[*LABELS, "grpc_code"])
        begun: dict[tuple[str, ...], int] = {}
        ended: dict[tuple[str, ...], int] = {}
        for operation, labels in METHODS.items():
            begun[labels] = begun.get(labels, 0) + service.started[operation]
            open_streams = len(self._member.watches.hub) if operation == "watch" else 0
            ended[*labels, OK] = ended.get((*labels, OK), 0) + service.succeeded[operation] - open_streams
        for (operation, error), count in service.failed.items():
            if operation in METHODS:
                coded = (*METHODS[operation], code_of(error))
                ended[coded] = ended.get(coded, 0) + count
        for family, counts in ((started, begun), (handled, ended)):
            for key, count in sorted(counts.items()):
                family.add_metric(key, count)
            yield family

    def _network(self) -> Iterator[Metric]:
        """By peer; ids as etcd prints them, in hexadecimal."""
        sent = CounterMetricFamily("etcd_network_peer_sent_bytes", "Bytes to a peer", labels=["To"])
        failed = CounterMetricFamily("etcd_network_peer_sent_failures", "Messages a peer could not take", labels=["To"])
        lost = CounterMetricFamily("etcd_network_disconnected_peers", "Lost connections", labels=["Local", "Remote"])
        active = GaugeMetricFamily("etcd_network_active_peers", "1 if connected", labels=["Local", "Remote"])
        own = f"{self._member.id:x}"
        for peer, link in self._member.peers.links():
            sent.add_metric([f"{peer:x}"], link.sent_bytes)
            failed.add_metric([f"{peer:x}"], link.failures)
            lost.add_metric([own, f"{peer:x}"], link.disconnected)
            active.add_metric([own, f"{peer:x}"], link.connection is not None)
        received = CounterMetricFamily("etcd_network_peer_received_bytes", "Bytes from peers", labels=["From"])
        received.add_metric(["0"], self._peers.traffic_bytes()[0])
        yield from (sent, failed, lost, active, received)
