"""`Tracer` of cluster/api/tracing.py with OpenTelemetry: spans of one part, sent to the configured collector by OTLP.

IO: a thread of the SDK sends what ended, once a second, over gRPC; what it cannot send it drops, and says so in the
part's log. Sampling is Kubernetes': a sampled parent's children are, of the rest `samplingRatePerMillion`. The SDK is
imported only where an endpoint is configured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cluster.api.tracing import NONE, Attributes, Kind, Span
from cluster.machine.tracing_settings import TracingSettings

_KINDS = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
}
_EXPORT_MS = 1000
_PROPAGATOR = TraceContextTextMapPropagator()


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self.span = span

    def note(self, name: str, value: str | int | bool) -> None:
        self.span.set_attribute(name, value)

    def end(self, error: str = "") -> None:
        if error and self.span.is_recording():
            self.span.set_status(trace.StatusCode.ERROR, error)
        self.span.end()


class OtelTracer:
    def __init__(self, service: str, instance: str, settings: TracingSettings) -> None:
        resource = Resource.create({"service.name": service, "service.instance.id": instance})
        sampler = ParentBased(TraceIdRatioBased(settings.sampling_rate_per_million / 1_000_000))
        provider = TracerProvider(sampler=sampler, resource=resource)
        exporter = OTLPSpanExporter(endpoint=settings.endpoint, insecure=True)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_MS))
        self._tracer = provider.get_tracer("sk8")

    @contextmanager
    def span(
        self, name: str, *, kind: Kind = "internal", parent: str = "", link: str = "", attributes: Attributes = NONE
    ) -> Iterator[_Span]:
        span = self._start(name, kind, parent, attributes, link)
        with trace.use_span(span.span, end_on_exit=True):
            yield span

    def begin(self, name: str, *, kind: Kind = "internal", parent: str = "", attributes: Attributes = NONE) -> _Span:
        return self._start(name, kind, parent, attributes)

    @contextmanager
    def within(self, span: Span) -> Iterator[None]:
        if not isinstance(span, _Span):
            raise TypeError(f"a span of another tracer: {span!r}")
        with trace.use_span(span.span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield

    def traceparent(self) -> str:
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return ""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent", "")

    def _start(self, name: str, kind: Kind, parent: str, attributes: Attributes, link: str = "") -> _Span:
        linked = _context_of(link) if link else None
        links = [trace.Link(linked)] if linked is not None and linked.is_valid else []
        context = _PROPAGATOR.extract({"traceparent": parent}, otel_context.Context()) if parent else None
        return _Span(
            self._tracer.start_span(name, context=context, kind=_KINDS[kind], attributes=dict(attributes), links=links)
        )


def _context_of(traceparent: str) -> trace.SpanContext:
    return trace.get_current_span(_PROPAGATOR.extract({"traceparent": traceparent})).get_span_context()
