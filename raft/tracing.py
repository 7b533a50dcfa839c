"""The store's seam for traces: what it asks of a tracer. Pure; `actors/tracing.py` fulfils it, None is the default.

A client that traces sends ``["traced", traceparent, operation, argument...]`` for the operation; a member without a
tracer does what is asked and measures nothing. Spans are called as etcd's gRPC instrumentation calls them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, Protocol

from raft.errors import Invalid
from raft.grpc_names import METHODS, UNARY

if TYPE_CHECKING:
    from raft.outbox import Outbox
    from raft.service import ClientSession

TRACED = "traced"


class Span(Protocol):
    def end(self, error: str = "") -> None: ...


class Tracer(Protocol):
    def traceparent(self) -> str: ...

    def span(self, name: str, *, kind: Literal["client"]) -> AbstractContextManager[object]: ...

    def begin(self, name: str, *, kind: Literal["server"], parent: str) -> Span: ...


def span_name(operation: str) -> str:
    """etcdserverpb.KV/Txn; "" for what is not traced: streams, and what etcd has no counterpart for."""
    kind, service, method = METHODS.get(operation, ("", "", ""))
    return f"{service}/{method}" if kind == UNARY else ""


class _Answers:
    """A session's outbox for one request, whose span ends with the answer."""

    def __init__(self, outbox: Outbox, span: Span) -> None:
        self._outbox = outbox
        self._span = span

    def answer(self, request_id: int, ok: bool, result: Any) -> None:
        self._span.end("" if ok else str(result[1]))
        self._outbox.answer(request_id, ok, result)

    def answer_small(self, request_id: int, result: Any) -> None:
        self._span.end()
        self._outbox.answer_small(request_id, result)


def dispatch(session: ClientSession, request_id: int, arguments: list[Any]) -> None:
    """Handler of the operation ``traced``. Raises Invalid."""
    if len(arguments) < 2 or not isinstance(arguments[0], str) or arguments[1] == TRACED:
        raise Invalid("a traced request is [traceparent, operation, argument...]")
    parent, operation, *rest = arguments
    tracer, name = session.service.config.tracer, span_name(str(operation))
    if tracer is None or not name:
        session.dispatch(request_id, operation, rest)
        return
    alone = copy(session)
    alone.out = _Answers(session.out, tracer.begin(name, kind="server", parent=parent))  # type: ignore[assignment]
    alone.dispatch(request_id, operation, rest)
