"""A tracer that keeps what it is told, for tests of who traces what; the current span as OpenTelemetry has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from cluster.api.tracing import NONE, Attributes, Kind

_CURRENT: ContextVar[Noted | None] = ContextVar("recorded_span", default=None)


@dataclass(slots=True)
class Noted:
    name: str
    under: str
    attributes: dict[str, str | int | bool]
    ended: bool = False
    error: str = ""

    def note(self, name: str, value: str | int | bool) -> None:
        self.attributes[name] = value

    def end(self, error: str = "") -> None:
        if not self.ended:
            self.ended, self.error = True, error


@dataclass(slots=True)
class RecordingTracer:
    """`header`: what it says the current span's traceparent is."""

    header: str = ""
    spans: list[Noted] = field(default_factory=list)

    @contextmanager
    def span(
        self, name: str, *, kind: Kind = "internal", parent: str = "", link: str = "", attributes: Attributes = NONE
    ) -> Iterator[Noted]:
        span = self.begin(name, parent=parent, attributes=attributes)
        with self.within(span):
            yield span
        span.end()

    def begin(self, name: str, *, kind: Kind = "internal", parent: str = "", attributes: Attributes = NONE) -> Noted:
        current = _CURRENT.get()
        span = Noted(name, parent or (current.name if current is not None else ""), dict(attributes))
        self.spans.append(span)
        return span

    @contextmanager
    def within(self, span: Noted) -> Iterator[None]:
        token = _CURRENT.set(span)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def traceparent(self) -> str:
        return self.header
