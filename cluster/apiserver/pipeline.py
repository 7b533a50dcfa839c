"""One request, from parsed head to response. IO: the request and its response.

    parse > authenticate > impersonate > authorize > flow control > handler (deadline) > encode
       └── any failure: a Kubernetes Status; never a stack trace

Invariant: every response carries an Audit-Id, and every failure that is the server's own fault is logged with it (what
nobody expected with its stack, and counted), while the client only learns the id.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping

from aiohttp import web

from cluster.api import errors, meta
from cluster.api.scheme import REVIEWS, ResourceInfo
from cluster.api.tracing import Tracer
from cluster.apiserver import authz, discovery, metrics, negotiate, requestinfo, tracing
from cluster.apiserver.aggregation import Aggregator
from cluster.apiserver.audit import Judgement, Subject
from cluster.apiserver.auditlog import AuditLog
from cluster.apiserver.authn import ANONYMOUS, Authenticator, credentials
from cluster.apiserver.call import Call
from cluster.apiserver.config import ApiServerConfig
from cluster.apiserver.connection import connection_of
from cluster.apiserver.documents import DocumentServer
from cluster.apiserver.encode import error_reply, response_of, wants_pretty
from cluster.apiserver.flowcontrol.control import Flow, FlowControl
from cluster.apiserver.healthz import HealthServer
from cluster.apiserver.requestinfo import RequestInfo
from cluster.apiserver.router import Answer, Router
from cluster.apiserver.storeerrors import translated
from cluster.registry.catalog import Catalog
from cluster.registry.context import UserInfo
from cluster.registry.types import Authorizer

log = logging.getLogger(__name__)

_MAX_AUDIT_ID = 64


class Pipeline:
    """The server's one request handler."""

    def __init__(
        self,
        config: ApiServerConfig,
        authenticator: Authenticator,
        authorizer: Authorizer,
        router: Router,
        documents: DocumentServer,
        catalog: Catalog,
        aggregator: Aggregator,
        health: HealthServer,
        audit: AuditLog | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._config = config
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._router = router
        self._documents = documents
        self._catalog = catalog
        self._aggregator = aggregator
        self._health = health
        self._audit = audit
        self._tracer = tracer
        seats = config.max_requests_inflight + config.max_mutating_requests_inflight
        self.inflight = FlowControl(seats, wait_s=config.request_timeout_s / 4)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        start = time.perf_counter()
        work = _Work(request, _audit_id(request))
        try:
            response = await self._answer(work)
        except Exception as e:  # noqa: BLE001 - outermost loop of a request: counted and logged below
            response = await self._failure(work, e)
        finally:
            connection = connection_of(request)
            if connection is not None:
                connection.drop_closers()
        if self._audit is not None and work.noted is not None:
            allowed = work.call is not None
            notes = work.call.annotations if work.call is not None else None
            self._audit.complete(
                *work.noted, response.status, work.sent(), work.answered, allowed=allowed, annotations=notes
            )
        metrics.observe(work.info, response.status, time.perf_counter() - start, known=work.resource is not None)
        return response

    async def _failure(self, work: _Work, failure: Exception) -> web.StreamResponse:
        if isinstance(failure, ConnectionError) and _has_left(work.request):
            return web.Response(status=499)
        error = translated(failure)
        if error.code >= 500:
            log.warning(
                "request %s: %s %s: %d %s",
                work.audit_id, work.request.method, work.request.path, error.code, error.message,
            )  # fmt: skip
        if error.code == 500 and not isinstance(failure, errors.ApiError):
            metrics.INTERNAL_ERRORS.inc()
            log.exception(
                "request %s failed: %s %s", work.audit_id, work.request.method, work.request.path, exc_info=failure
            )
        if work.request.writer.output_size:
            return _broken_off(work.request, error.code)
        reply = error_reply(error)
        work.answered = reply.json()
        warnings = work.call.said if work.call is not None else None
        return await response_of(
            reply,
            work.request,
            accept=work.accept,
            audit_id=work.audit_id,
            warnings=warnings,
            more_headers=work.headers,
        )

    async def _answer(self, work: _Work) -> web.StreamResponse:
        request = work.request
        target = request.raw_path
        raw_path, params = requestinfo.split_target(target)
        try:
            info = work.info = requestinfo.parse(request.method, raw_path, params)
        except requestinfo.BadPath as e:
            raise errors.bad_request(str(e)) from e
        connection = connection_of(request)
        if connection is not None:
            connection.served = True
        user = await self._authenticator.authenticate(
            connection.identity if connection is not None else None, credentials(request.headers)
        )
        if self._tracer is None:
            return await self._serve(work, info, user, params)
        serve = lambda: self._serve(work, info, user, params)  # noqa: E731
        return await tracing.traced(self._tracer, request, info, user, work.audit_id, serve)

    async def _serve(
        self, work: _Work, info: RequestInfo, user: UserInfo, params: dict[str, str]
    ) -> web.StreamResponse:
        """What is asked for, once it is known who asks."""
        request = work.request
        user = await self._authorized(user, info, params, work)
        accept = negotiate.negotiate(request.headers.get("Accept", ""))
        if info.is_resource:
            work.resource = discovery.resource(info.group, info.version, info.resource) or await self._catalog.find(
                info.group, info.version, info.resource
            )
            if accept is not None and accept.transform and work.resource in REVIEWS:
                accept = negotiate.negotiate(request.headers.get("Accept", ""), transforms=False)
            if accept is None:
                raise errors.not_acceptable((negotiate.JSON, negotiate.YAML))
        work.accept = accept or negotiate.Accept()
        call = self._call(work, info, user, params)
        if self._audit is not None and work.noted is not None and info.long_running:
            self._audit.started(*work.noted)
        flow = self.inflight.match(user, info)
        call.answer_headers = work.headers = flow.headers
        answer = await self._dispatch(call, flow)
        if isinstance(answer, web.StreamResponse):
            return answer
        if self._audit is not None and work.noted is not None and not answer.content_type:
            work.answered = answer.json()
        return await response_of(
            answer,
            request,
            accept=work.accept,
            audit_id=work.audit_id,
            pretty=wants_pretty(params, request.headers),
            warnings=call.said,
            more_headers=work.headers,
            gzip_min_bytes=self._config.gzip_min_bytes,
        )

    def _call(self, work: _Work, info: RequestInfo, user: UserInfo, params: dict[str, str]) -> Call:
        """What handlers are given; `work` knows it from now on."""
        config = self._config
        if not info.long_running:
            work.deadline = work.began + requestinfo.timeout_s(params, config.request_timeout_s)
        call = Call(
            work.request,
            info,
            params,
            user,
            work.accept,
            work.audit_id,
            work.deadline,
            config.max_body_bytes,
            config.body_timeout_s,
            work.resource,
        )
        work.call = call
        return call

    async def _authorized(self, user: UserInfo, info: RequestInfo, params: Mapping[str, str], work: _Work) -> UserInfo:
        """The user to act as. Raises ApiError 401 or 403."""
        public = not info.is_resource and any(
            info.path == p or info.path.startswith(p + "/") for p in self._config.anonymous_paths
        )
        if user is ANONYMOUS:
            self._note(work, info, user, user)
            if not public:
                metrics.AUTH_ATTEMPTS.labels("failure").inc()
                raise errors.unauthorized()
            return user
        acting = await authz.impersonated(self._authorizer, user, work.request.headers)
        self._note(work, info, user, acting)
        user = acting
        if not public:
            await authz.require(self._authorizer, user, authz.attributes_of(info, params.get("fieldSelector", "")))
        return user

    def _note(self, work: _Work, info: RequestInfo, user: UserInfo, acting: UserInfo) -> None:
        """Begin the request's entries in the audit log."""
        if self._audit is None:
            return
        request = work.request
        subject = Subject(
            work.audit_id,
            request.raw_path,
            info,
            user,
            acting if acting is not user else None,
            request.remote or "",
            request.headers.get("User-Agent", ""),
            self._audit.now(),
        )
        work.noted = (self._audit.begin(subject), subject)

    async def _dispatch(self, call: Call, flow: Flow) -> Answer:
        info = call.info
        if not info.is_resource:
            if self._health.serves(info.path):
                return await self._health.serve(info.path, call.params)
            async with self.inflight.slot(flow, mutating=False):
                return await self._documents.serve(call)
        remote = self._aggregator.target(info.group, info.version)
        if remote is not None:
            return await self._aggregator.proxy(call, remote)
        handler = self._router.handler(call)
        if self._tracer is not None:
            handler = tracing.handler(self._tracer, handler, info)
        if info.long_running:
            return await handler(call)
        async with self.inflight.slot(flow, mutating=info.mutating):
            try:
                async with asyncio.timeout_at(call.deadline):
                    return await handler(call)
            except TimeoutError:
                raise errors.timeout("request did not complete within the allotted timeout") from None


class _Work:
    """What is known of a request so far, also when it fails."""

    __slots__ = (
        "accept",
        "answered",
        "audit_id",
        "began",
        "call",
        "deadline",
        "headers",
        "info",
        "noted",
        "request",
        "resource",
    )

    def __init__(self, request: web.BaseRequest, audit_id: str) -> None:
        self.request = request
        self.audit_id = audit_id
        self.began = asyncio.get_running_loop().time()
        self.deadline: float | None = None
        self.info: RequestInfo | None = None
        self.resource: ResourceInfo | None = None
        self.accept = negotiate.Accept()
        self.call: Call | None = None
        self.noted: tuple[Judgement, Subject] | None = None
        self.answered = b""
        self.headers: dict[str, str] = {}

    def sent(self) -> bytes:
        """The body as far as it was read."""
        return self.call.received if self.call is not None else b""


def _has_left(request: web.BaseRequest) -> bool:
    """Whether nobody is there to be answered: also while the connection is being closed."""
    transport = request.transport
    return transport is None or transport.is_closing()


def _broken_off(request: web.BaseRequest, code: int) -> web.Response:
    """The end of a connection with part of an answer on it: whatever is said there now would be read as its rest."""
    if request.transport is not None:
        request.transport.close()
    return web.Response(status=code)


def _audit_id(request: web.BaseRequest) -> str:
    """The client's own when it is sane, else a new one."""
    given = request.headers.get("Audit-Id", "")
    if given and len(given) <= _MAX_AUDIT_ID and given.isascii() and given.isprintable():
        return given
    return meta.uuid4(random.getrandbits(128))
