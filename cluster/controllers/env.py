"""What every controller is given, and what it has to be.

Pure declarations. `Env` carries the collaborators; a `Controller` wires informer handlers to its queue when built and
works only in `run()`, so that a standby is warm: its queues already hold every key when it is elected.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.controllers.config import ControllerConfig
from cluster.controllers.hpa_prometheus import Series
from cluster.machinery.client import Client, Obj
from cluster.machinery.clock import Clock, monotonic
from cluster.machinery.events import EventRecorder
from cluster.machinery.informer import Informer, Informers
from cluster.machinery.pod_metrics import PodMetrics
from cluster.machinery.provider import CertificateIssuer, Disks, Instances, LoadBalancers, NodeGroups, Provider, Routes
from cluster.registry.types import Authorizer


class QuotaCounter(Protocol):
    """Counts what a ResourceQuota limits and corrects its status; exact under concurrent writes."""

    async def recount(self, namespace: str, name: str) -> None: ...


class SecretTokens(Protocol):
    """Signs the tokens that are kept in Secrets; `cluster.apiserver.tokens.TokenSigner` fulfils it."""

    def sign_secret(self, namespace: str, name: str, uid: str, secret: str) -> str: ...


class Machines(Protocol):
    """Asks what keeps a machine's kubelet running; `cluster.machine.probe.MachineProbe` fulfils it."""

    async def answers(self, name: str, address: str) -> bool:
        """Within seconds. `address`: the Node's, "" when it has none."""
        ...


class Aggregated(Protocol):
    """Asks the server behind an APIService; `cluster.machinery.aggregated.AggregatedApis` fulfils it."""

    async def get(self, service: Obj, path: str, query: Mapping[str, str]) -> Obj:
        """Raises ApiError."""
        ...


class Resources(Protocol):
    """What is defined, now; `cluster.registry.catalog.Catalog` fulfils it."""

    def all(self) -> list[ResourceInfo]: ...
    def for_kind(self, group: str, version: str, kind: str) -> ResourceInfo | None: ...
    def on_change(self, listener: Callable[[], None]) -> None:
        """`listener` is called on the loop after each change."""
        ...


class BuiltIn:
    """The resources of a process that follows no definitions."""

    def all(self) -> list[ResourceInfo]:
        return SCHEME.all()

    def for_kind(self, group: str, version: str, kind: str) -> ResourceInfo | None:
        return SCHEME.for_kind(group, version, kind)

    def on_change(self, listener: Callable[[], None]) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Outside:
    """Whom controllers ask beyond the API. `disks` are those whose volumes are made and attached here, by CSI driver.
    Without an `issuer` no certificate is signed, without an `authorizer` none approved by itself, without `metrics`
    autoscalers say that they get none; without `instances` no cloud knows the Nodes, without `routes` its network need
    not know their pods, without `groups` the cluster has the machines it has.
    """

    provider: Provider | None = None
    metrics: PodMetrics | None = None
    issuer: CertificateIssuer | None = None
    authorizer: Authorizer | None = None
    tokens: SecretTokens | None = None
    balancers: LoadBalancers | None = None
    aggregated: Aggregated | None = None
    machines: Machines | None = None
    series: Series | None = None
    disks: Mapping[str, Disks] = field(default_factory=dict)
    instances: Instances | None = None
    routes: Routes | None = None
    groups: NodeGroups | None = None


NOBODY = Outside()


@dataclass(frozen=True, slots=True)
class Env:
    """`client` writes through to `informers`; `resources` says what there is; `recorder(component)` makes the
    sources of Events.

    `clock` is wall time, for what users read; durations and silences are measured by `monotonic`, which no step of the
    wall clock moves.
    """

    client: Client
    informers: Informers
    config: ControllerConfig
    clock: Clock
    rng: random.Random
    outside: Outside = NOBODY
    monotonic: Clock = monotonic
    quotas: QuotaCounter | None = None
    resources: Resources = field(default_factory=BuiltIn)

    def informer(self, resource: str) -> Informer:
        return self.informers.of(resource)

    def recorder(self, component: str) -> EventRecorder:
        return EventRecorder(self.client, component, clock=self.clock)


class Controller(Protocol):
    @property
    def name(self) -> str: ...

    async def run(self) -> None:
        """Work until cancelled; called anew for every term of leadership."""
        ...

    def resync(self) -> None:
        """Put everything into the queue (a new term knows nothing of where the last one stopped)."""
        ...
