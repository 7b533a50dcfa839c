"""The cluster's setting `tracing`, checked: the fields of Kubernetes' TracingConfiguration. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ADDRESS = re.compile(r"[^\s/:]+:[0-9]{1,5}")
_FIELDS = ("endpoint", "samplingRatePerMillion")
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """`endpoint`: host:port of an OTLP collector that speaks gRPC, without TLS (as in Kubernetes)."""

    endpoint: str
    sampling_rate_per_million: int = 0


def of(given: Mapping[str, Any]) -> TracingSettings | None:
    """None: nothing is traced."""
    if not given:
        return None
    return TracingSettings(str(given["endpoint"]), int(given.get("samplingRatePerMillion", 0)))


def problems(given: Mapping[str, Any]) -> Iterator[str]:
    if not given:
        return
    for name in given:
        if name not in _FIELDS:
            yield f"tracing: unknown setting {name!r}; known are {', '.join(_FIELDS)}"
    endpoint = str(given.get("endpoint", ""))
    if not _ADDRESS.fullmatch(endpoint):
        yield f"tracing: endpoint {endpoint!r} must be host:port of an OTLP collector, as 10.0.0.5:4317"
    rate = given.get("samplingRatePerMillion", 0)
    if not isinstance(rate, int) or isinstance(rate, bool) or not 0 <= rate <= MILLION:
        yield f"tracing: samplingRatePerMillion {rate!r} must be from 0 (what clients sample) to {MILLION} (everything)"
