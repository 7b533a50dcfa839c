"""A collector for tests: takes spans by OTLP over gRPC on loopback and keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Got:
    """One span; ids in hexadecimal, as in a traceparent header."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    failed: bool


@dataclass(slots=True)
class Received:
    endpoint: str
    spans: list[Got] = field(default_factory=list)

    def named(self, service: str, name: str, trace: str = "") -> list[Got]:
        return [s for s in self.spans if (s.service, s.name) == (service, name) and trace in ("", s.trace)]

    def children(self, of: Got) -> list[Got]:
        return [s for s in self.spans if s.parent == of.id]


def _plain(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


class _Service(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            service = str(_plain(resource.resource.attributes).get("service.name"))
            for scope in resource.scope_spans:
                self._received.spans += [_got(service, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def _got(service: str, span: Any) -> Got:
    links = tuple(link.trace_id.hex() for link in span.links)
    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    return Got(service, span.name, *ids, links, _plain(span.attributes), span.status.code == 2)


@contextmanager
def receiving(host: str = "127.0.0.1") -> Iterator[Received]:
    server = grpc.server(ThreadPoolExecutor(2))
    received = Received(f"{host}:{server.add_insecure_port(f'{host}:0')}")
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Service(received), server)
    server.start()
    try:
        yield received
    finally:
        server.stop(None).wait()
