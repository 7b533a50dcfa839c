"""The seam for traces: what parts ask of a tracer. Pure: protocols alone.

A part holds a `Tracer` or None. With None, which is the default, nothing is measured and nothing is imported;
`actors/tracing.py` fulfils the protocol with OpenTelemetry where an endpoint is configured. Span names are those of the
Kubernetes component that does the same (docs/tracing.md has them).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Literal, Protocol

Kind = Literal["internal", "server", "client"]
Attributes = Mapping[str, str | int | bool]
NONE: Attributes = MappingProxyType({})


class Span(Protocol):
    """One piece of work. Ends once; what is said of it afterwards is ignored."""

    def note(self, name: str, value: str | int | bool) -> None: ...

    def end(self, error: str = "") -> None: ...


class Tracer(Protocol):
    def span(
        self, name: str, *, kind: Kind = "internal", parent: str = "", link: str = "", attributes: Attributes = NONE
    ) -> AbstractContextManager[Span]:
        """Inside, this span is the current one: what begins there, in this task or in tasks made there, is its child.
        `parent` and `link` are traceparent headers (W3C Trace Context); without a parent it is the current span's
        child.
        An exception that leaves it marks it as failed.
        """
        ...

    def begin(self, name: str, *, kind: Kind = "internal", parent: str = "", attributes: Attributes = NONE) -> Span:
        """A span that is nobody's current one; its owner ends it."""
        ...

    def within(self, span: Span) -> AbstractContextManager[None]:
        """Make a span of `begin` the current one."""
        ...

    def traceparent(self) -> str:
        """Of the current span if it is sampled, else ""."""
        ...
