"""The API server: puts the parts together and runs them. IO: a TLS listener, the store, kubelets.

    store ──watch──> CacheFeed ──> Cache ──> WatchHub ──> watchers
                                     └──> GET, LIST
    HTTPS ──> Pipeline ──> Router ──> Registry ──txn──> store

`run()` returns only by cancellation and then stops gracefully: readiness fails first, watches end, what is in flight
gets `shutdown_grace_s`, the endpoint lease is given up. It raises when a part cannot go on.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cluster.api import errors
from cluster.api.remotecommand import URL_BYTES
from cluster.api.scheme import SCHEME
from cluster.api.tracing import Tracer
from cluster.apiserver import edge, metrics
from cluster.apiserver.aggregation import Aggregator
from cluster.apiserver.apidocs import ApiDocuments
from cluster.apiserver.audit import load_policy
from cluster.apiserver.auditlog import AuditLog, RotatingFile
from cluster.apiserver.authn import Authenticator, load_token_file
from cluster.apiserver.availability import Availability
from cluster.apiserver.bootstraptokens import BootstrapTokens
from cluster.apiserver.cache import Cache
from cluster.apiserver.config import ApiServerConfig
from cluster.apiserver.connection import ConnectionServer
from cluster.apiserver.documents import DocumentServer
from cluster.apiserver.endpoints import EndpointReconciler
from cluster.apiserver.feed import CacheFeed
from cluster.apiserver.flowcontrol.follow import FlowFollower
from cluster.apiserver.healthz import HealthServer, healthy
from cluster.apiserver.kubelet import KubeletClient
from cluster.apiserver.longwork import aside
from cluster.apiserver.oidc import OidcSettings, OidcVerifier
from cluster.apiserver.pipeline import Pipeline
from cluster.apiserver.proxying import ProxyServer
from cluster.apiserver.reads import CacheReader
from cluster.apiserver.resource_metrics import ResourceMetrics
from cluster.apiserver.reviews import ReviewServer, TokenServer
from cluster.apiserver.router import Handler, Router
from cluster.apiserver.rules import RuleLister
from cluster.apiserver.storeerrors import translated
from cluster.apiserver.streams import StreamServer
from cluster.apiserver.tokens import TokenSigner, TokenVerifier
from cluster.apiserver.versions import Versions
from cluster.apiserver.watch import WatchServer
from cluster.apiserver.watchers import Watcher, WatchHub
from cluster.apiserver.writes import WriteServer
from cluster.registry import bootstrap
from cluster.registry.codec import Codec
from cluster.registry.context import internal_context
from cluster.registry.registry import Registry
from cluster.registry.store import Store
from cluster.registry.types import Authorizer, Stored

log = logging.getLogger(__name__)

_READY_S = 2.0
_BOOTSTRAP_RETRY_S = 0.5
_HEAD_BYTES = 64 * 1024


class ApiServer:
    """One API server. `clock` is wall time in seconds since the epoch."""

    def __init__(
        self,
        config: ApiServerConfig,
        store: Store,
        registry: Registry,
        authorizer: Authorizer,
        *,
        clock: Callable[[], float] = time.time,
        tracer: Tracer | None = None,
    ) -> None:
        config.validate()
        self._config = config
        self._store = store
        self._registry = registry
        registry.run_long_work(aside)
        self._clock = clock
        catalog = registry.catalog
        self._hub = WatchHub(_count_slow, lambda i: catalog.resource(i.group, i.version, i.plural))
        self._cache = self._new_cache()
        catalog.on_change(self._hub.stop_outdated)
        self._feed = CacheFeed(store, self._cache, wait_s=config.cache_wait_s, on_reset=self._on_reset)
        registry.start_from(self._known)
        self._kubelets = KubeletClient(config, self._cache)
        self._proxy = ProxyServer(self._kubelets, self._cache, self._feed, authorizer)
        self._aggregator = Aggregator(self._cache, config, registry.cluster_ip)
        self._availability = Availability(self._aggregator, registry, self._cache, clock)
        self._audit = _audit_log(config, clock)
        verifier = TokenVerifier(
            config.service_account_key_files, config.service_account_issuer, config.api_audiences, clock
        )
        authenticator = self._authenticator(verifier)
        docs = ApiDocuments(registry.catalog, self._availability)
        self._pipeline = Pipeline(
            config,
            authenticator,
            authorizer,
            self._router(authenticator, authorizer),
            DocumentServer(docs, self._aggregator, verifier, config.service_account_issuer),
            registry.catalog,
            self._aggregator,
            self._health_server(),
            self._audit,
            tracer,
        )
        self._flows = FlowFollower(self._pipeline.inflight, store, registry, clock)
        self._stopping = False
        self._bootstrapped = False
        self.listening = asyncio.Event()
        self.port = config.secure_port

    # ---- its parts

    def _new_cache(self) -> Cache:
        """Of stored bytes, decrypted; what enters it goes on to the watchers."""
        codec = Codec(self._registry.config.encryption_keys)
        cache = Cache(
            lambda key, value, revision: codec.decode(key, value, revision).raw,
            max_events=self._config.window_events,
            max_bytes=self._config.window_bytes,
            sizes=self._config.watch_windows,
            sink=self._hub.dispatch,
        )
        for info in SCHEME.all():
            metrics.WATCH_CACHE_CAPACITY.labels(info.group, info.plural).set(cache.capacity(info.name))
        return cache

    def _known(self, key: bytes) -> Stored | None:
        """What the cache has of an object, as long as it is fed."""
        entry = self._cache.entry(key) if self._feed.connected else None
        return Stored(key, entry.raw, entry.revision, entry.meta.uid) if entry is not None else None

    def _authenticator(self, verifier: TokenVerifier) -> Authenticator:
        config, clock = self._config, self._clock
        return Authenticator(
            verifier,
            self._cache,
            self._feed,
            clock,
            load_token_file(config.token_auth_file) if config.token_auth_file else {},
            bootstrap=BootstrapTokens(self._cache, clock) if config.enable_bootstrap_token_auth else None,
            oidc=_oidc(config, clock),
        )

    def _router(self, authenticator: Authenticator, authorizer: Authorizer) -> Router:
        config, clock, registry = self._config, self._clock, self._registry
        forms = Versions(registry.converter)
        reader = CacheReader(self._cache, self._feed, registry, forms, clock)
        watcher = WatchServer(
            self._cache,
            self._hub,
            reader,
            forms,
            clock,
            bookmark_period_s=config.bookmark_period_s,
            min_timeout_s=config.min_request_timeout_s,
            buffer_events=config.watch_buffer_events,
        )
        signer = TokenSigner(config.service_account_signing_key_file, config.service_account_issuer, clock)
        return Router(
            reader,
            watcher,
            WriteServer(registry, clock),
            ReviewServer(authenticator, authorizer, RuleLister(self._cache)),
            TokenServer(signer, self._cache, self._feed, config.api_audiences, clock),
            StreamServer(self._kubelets, self._feed),
            self._proxy,
            self._stored_nowhere(),
            registry,
        )

    def _stored_nowhere(self) -> dict[tuple[str, str], Handler]:
        """Handlers of kinds that have no objects in the store, by resource name and verb."""
        components = edge.ComponentStatuses(self._store)
        usage = ResourceMetrics(self._kubelets, self._cache, self._feed, self._clock)
        return {
            ("bindings", "create"): partial(edge.bind, self._registry),
            ("componentstatuses", "get"): components.get,
            ("componentstatuses", "list"): components.list,
            ("pods.metrics.k8s.io", "get"): usage.get_pod,
            ("pods.metrics.k8s.io", "list"): usage.list_pods,
            ("nodes.metrics.k8s.io", "get"): usage.get_node,
            ("nodes.metrics.k8s.io", "list"): usage.list_nodes,
        }

    # ---- the outside

    def health(self) -> dict[str, object]:
        return {
            "ready": self._feed.ready and self._bootstrapped and not self._stopping,
            "listening": self.listening.is_set(),
            "address": f"{self._config.advertise_address}:{self.port}",
            "revision": self._cache.revision,
            "stream": self._feed.connected,
            "bootstrapped": self._bootstrapped,
            "inflight": self._pipeline.inflight.total,
            "watches": self._hub.count,
        }

    async def run(self) -> None:
        tasks = [
            asyncio.create_task(self._feed.run(), name="cache-feed"),
            asyncio.create_task(self._bootstrap(), name="bootstrap"),
            asyncio.create_task(self._flows.run(), name="flow-control"),
            asyncio.create_task(self._observe(), name="observe"),
        ]
        if self._audit is not None:
            tasks.append(asyncio.create_task(self._audit.run(), name="audit"))
        http = ConnectionServer(
            self._pipeline.handle,
            unread_s=self._config.unread_timeout_s,
            access_log=None,
            auto_decompress=False,  # nobody compresses bodies, and one that grows a thousandfold is not let in
            max_line_size=URL_BYTES,
            max_field_size=_HEAD_BYTES,
            keepalive_timeout=180.0,
        )
        listener: asyncio.Server | None = None
        try:
            listener = await self._listen(http)
            tasks += self._endpoints()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            raise RuntimeError("the API server's background parts ended")
        finally:
            await self._stop(listener, http, tasks)

    async def _listen(self, http: ConnectionServer) -> asyncio.Server:
        """Raises OSError when the address is taken."""
        listener = await asyncio.get_running_loop().create_server(
            http,
            self._config.bind_address,
            self._config.secure_port,
            ssl=self._tls(),
            ssl_handshake_timeout=10.0,
            backlog=1024,
            reuse_address=True,
        )
        self.port = int(listener.sockets[0].getsockname()[1])
        self.listening.set()
        log.info("serving on %s:%d", self._config.bind_address, self.port)
        return listener

    def _endpoints(self) -> list[asyncio.Task[None]]:
        """Makes this server an endpoint of the Service `kubernetes`, once its port is known."""
        config = self._config
        if not config.endpoint_reconcile:
            return []
        endpoints = EndpointReconciler(
            self._store, self._registry, config.advertise_address, self.port, config.endpoint_lease_ttl_s
        )
        return [asyncio.create_task(endpoints.run(), name="endpoints")]

    async def _stop(
        self, listener: asyncio.Server | None, http: ConnectionServer, tasks: list[asyncio.Task[None]]
    ) -> None:
        self._stopping = True
        self.listening.clear()
        by_name = {t.get_name(): t for t in tasks}
        endpoints = by_name.pop("endpoints", None)
        if endpoints is not None:
            endpoints.cancel()
            await asyncio.gather(endpoints, return_exceptions=True)
        if listener is not None:
            listener.close()
        self._hub.stop_all()
        await self._pipeline.inflight.drained(self._config.shutdown_grace_s)
        await http.shutdown(0.5)
        for task in by_name.values():
            task.cancel()
        await asyncio.gather(*by_name.values(), return_exceptions=True)
        await self._kubelets.close()
        await self._proxy.close()
        await self._aggregator.close()

    def _tls(self) -> ssl.SSLContext:
        """Client certificates are asked for and checked, not demanded: others come with tokens."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._config.tls_cert_file, self._config.tls_private_key_file)
        context.load_verify_locations(self._config.client_ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def _bootstrap(self) -> None:
        """Create what every cluster has; try until the store answers, then stay quiet."""
        while not self._bootstrapped:
            try:
                await bootstrap.ensure(self._registry, self._registry.config)
                await self._publish_authentication()
                self._bootstrapped = True
            except Exception as e:  # noqa: BLE001 - tried again until it works; readiness says so meanwhile
                log.warning("bootstrap objects not made yet: %s: %s", type(e).__name__, e)
                await asyncio.sleep(_BOOTSTRAP_RETRY_S)
        await self._availability.run()

    async def _publish_authentication(self) -> None:
        """What an aggregated API server reads to know whose identity headers to believe."""
        ca = await asyncio.to_thread(Path(self._config.client_ca_file).read_text)
        data = {
            "client-ca-file": ca,
            "requestheader-client-ca-file": ca,
            "requestheader-allowed-names": '["front-proxy-client"]',
            "requestheader-username-headers": '["X-Remote-User"]',
            "requestheader-uid-headers": '["X-Remote-Uid"]',
            "requestheader-group-headers": '["X-Remote-Group"]',
            "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
        }
        ctx, info = internal_context("kube-apiserver"), SCHEME.named("configmaps")
        name = "extension-apiserver-authentication"
        try:
            await self._registry.create(ctx, info, "kube-system", {"metadata": {"name": name}, "data": data})
        except errors.ApiError as e:
            if e.reason != "AlreadyExists":
                raise
            await self._registry.modify(ctx, info, "kube-system", name, lambda o: {**o, "data": data})

    async def _observe(self) -> None:
        while True:
            metrics.CACHE_REVISION.set(self._cache.revision)
            metrics.WATCHERS.set(self._hub.count)
            await asyncio.sleep(5.0)

    def _on_reset(self) -> None:
        """The cache was loaded anew: nobody's position in the event stream holds any more."""
        revision = self._cache.revision
        self._hub.stop_all(errors.expired(f"too old resource version: the event stream was restarted at {revision}"))

    def _health_server(self) -> HealthServer:
        async def store() -> str:
            try:
                async with asyncio.timeout(_READY_S):
                    await self._feed.barrier()
            except TimeoutError:
                return "the store does not answer"
            except Exception as e:  # noqa: BLE001 - the check's answer is the error
                return translated(e).message
            return ""

        async def cache() -> str:
            return "" if self._feed.ready else "the cache is not loaded"

        async def bootstrapped() -> str:
            return "" if self._bootstrapped else "bootstrap objects are not made yet"

        async def shutdown() -> str:
            return "the server is stopping" if self._stopping else ""

        live = {"ping": healthy}
        health = {**live, "etcd": store, "informer-sync": cache, "poststarthook/bootstrap": bootstrapped}
        return HealthServer({"livez": live, "healthz": health, "readyz": {**health, "shutdown": shutdown}})


def _audit_log(config: ApiServerConfig, clock: Callable[[], float]) -> AuditLog | None:
    if not config.audit_log_path:
        return None
    size, keep = config.audit_log_maxsize_mb << 20, config.audit_log_maxbackup
    file = RotatingFile(config.audit_log_path, size, keep, config.audit_log_maxage_days)
    return AuditLog(load_policy(config.audit_policy_file), file, clock)


def _oidc(config: ApiServerConfig, clock: Callable[[], float]) -> OidcVerifier | None:
    if not config.oidc_issuer_url:
        return None
    claims = tuple((name, value) for name, _, value in (c.partition("=") for c in config.oidc_required_claim))
    settings = OidcSettings(
        config.oidc_issuer_url,
        config.oidc_client_id,
        config.oidc_username_claim,
        config.oidc_username_prefix,
        config.oidc_groups_claim,
        config.oidc_groups_prefix,
        config.oidc_ca_file,
        config.oidc_signing_algs,
        claims,
    )
    return OidcVerifier(settings, clock)


def _count_slow(watcher: Watcher) -> None:
    metrics.SLOW_WATCHERS.labels(watcher.info.name).inc()
    log.warning("a watch of %s was closed: its client reads too slowly", watcher.info.name)
