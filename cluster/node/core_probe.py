"""When a container's probes run and what their results mean.

Pure. Source: Kubernetes' API reference for Probe, and the behaviour of its prober: thresholds count consecutive
results, liveness and readiness wait for the startup probe, a container without a readiness probe is ready once started.

    unknown --successThreshold results--> good --failureThreshold results--> bad
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cluster.node.core_events import PROBE_KINDS, ProbeKind

_FIELDS: dict[ProbeKind, str] = {
    "startup": "startupProbe",
    "liveness": "livenessProbe",
    "readiness": "readinessProbe",
}


class ProbeAnswer(NamedTuple):
    """What a probe said. `warning`: it counts as a success, and its output is worth an Event."""

    ok: bool
    output: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """A probe with Kubernetes' defaults filled in; `handler` is the raw object with exec, httpGet or tcpSocket."""

    handler: dict[str, Any]
    initial_delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3
    grace_s: float | None = None

    @classmethod
    def from_dict(cls, probe: dict[str, Any]) -> ProbeSpec:
        grace = probe.get("terminationGracePeriodSeconds")
        return cls(
            handler=probe,
            initial_delay_s=float(probe.get("initialDelaySeconds") or 0),
            period_s=float(probe.get("periodSeconds") or 10),
            timeout_s=float(probe.get("timeoutSeconds") or 1),
            success_threshold=int(probe.get("successThreshold") or 1),
            failure_threshold=int(probe.get("failureThreshold") or 3),
            grace_s=None if grace is None else float(grace),
        )


@dataclass(slots=True)
class ProbeState:
    """One probe of one run of a container. `result` is None until a threshold is met for the first time."""

    spec: ProbeSpec
    due_at: float
    in_flight: bool = False
    result: bool | None = None
    successes: int = 0
    failures: int = 0

    def is_due(self, now: float) -> bool:
        return not self.in_flight and now >= self.due_at

    def begin(self, now: float) -> None:
        self.in_flight = True
        self.due_at = now + self.spec.period_s

    def done(self, ok: bool, now: float) -> bool:
        """Count one result; True when `result` was decided (again) by it."""
        self.in_flight = False
        self.due_at = max(self.due_at, now)
        if ok:
            self.successes, self.failures = self.successes + 1, 0
            if self.successes < self.spec.success_threshold:
                return False
            self.result = True
            return True
        self.successes, self.failures = 0, self.failures + 1
        if self.failures < self.spec.failure_threshold:
            return False
        self.result = False
        return True


@dataclass(slots=True)
class Probes:
    """All probes of one run of a container."""

    states: dict[ProbeKind, ProbeState] = field(default_factory=dict)

    @classmethod
    def for_container(cls, spec: dict[str, Any], started_at: float) -> Probes:
        states: dict[ProbeKind, ProbeState] = {}
        for kind in PROBE_KINDS:
            raw = spec.get(_FIELDS[kind])
            if raw:
                probe = ProbeSpec.from_dict(raw)
                states[kind] = ProbeState(probe, due_at=started_at + probe.initial_delay_s)
        return cls(states)

    def adopt(self, started: bool, ready: bool, now: float) -> None:
        """Keep what the API knew about a container that outlived its kubelet; probe it from now on."""
        for kind, state in self.states.items():
            state.due_at = max(state.due_at, now)
            if kind == "startup" and started:
                state.result = True
            if kind == "readiness" and ready:
                state.result = True

    @property
    def started(self) -> bool:
        startup = self.states.get("startup")
        return startup is None or startup.result is True

    @property
    def ready(self) -> bool:
        readiness = self.states.get("readiness")
        return self.started and (readiness is None or readiness.result is True)

    def active(self, winding_down: bool) -> list[tuple[ProbeKind, ProbeState]]:
        """The probes that count now: startup alone first; while winding down readiness alone."""
        startup = self.states.get("startup")
        if startup is not None and startup.result is not True:
            return [] if winding_down else [("startup", startup)]
        kinds: tuple[ProbeKind, ...] = ("readiness",) if winding_down else ("liveness", "readiness")
        return [(kind, self.states[kind]) for kind in kinds if kind in self.states]

    def next_wake(self, winding_down: bool) -> float | None:
        return min((s.due_at for _, s in self.active(winding_down) if not s.in_flight), default=None)


def describe(kind: ProbeKind) -> str:
    return {"startup": "Startup", "liveness": "Liveness", "readiness": "Readiness"}[kind]
