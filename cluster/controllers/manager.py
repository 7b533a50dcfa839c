"""The controller manager: elects, keeps the shared informers warm, runs all controllers while leading.

IO only through the injected Store, Registry and Provider. Every write of a term carries that term's fence.

Invariants: controllers work only while this instance leads; a standby has every informer in sync and every key queued,
so taking over costs no listing. When a controller ends with an error the manager ends too (its process is restarted,
and a standby has the lease by then): a controller that silently stopped would be worse.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from prometheus_client import Gauge

from cluster.controllers.attach_detach import AttachDetachController
from cluster.controllers.autoscaler import AutoscalerController
from cluster.controllers.bootstrap_tokens import BootstrapSigner, TokenCleaner
from cluster.controllers.certificates import CsrApprover, CsrCleaner, CsrSigner
from cluster.controllers.cloud_nodes import CloudNodeController
from cluster.controllers.cloud_routes import CloudRouteController
from cluster.controllers.clusterrole_aggregation import ClusterRoleAggregationController
from cluster.controllers.config import ControllerConfig
from cluster.controllers.cronjob import CronJobController
from cluster.controllers.daemonset import DaemonSetController
from cluster.controllers.definitions import DefinitionController
from cluster.controllers.deployment import DeploymentController
from cluster.controllers.disruption import DisruptionController
from cluster.controllers.endpoints import EndpointsController, EndpointSliceController
from cluster.controllers.endpoints_mirroring import EndpointSliceMirroringController
from cluster.controllers.env import NOBODY, Controller, Env, Outside
from cluster.controllers.ephemeral_volumes import EphemeralVolumeController
from cluster.controllers.garbage_collector import GarbageCollector
from cluster.controllers.hpa import HpaController
from cluster.controllers.job import JobController
from cluster.controllers.job_ttl import JobTtlController
from cluster.controllers.load_balancers import LoadBalancerController
from cluster.controllers.namespace import NamespaceController
from cluster.controllers.namespace_defaults import RootCaPublisher, ServiceAccountController
from cluster.controllers.node_ipam import NodeIpamController
from cluster.controllers.node_lifecycle import NodeLifecycleController
from cluster.controllers.persistent_volume import PersistentVolumeController
from cluster.controllers.pod_gc import PodGcController
from cluster.controllers.policy_status import PolicyStatusController
from cluster.controllers.replicaset import ReplicaSetController, replication_controllers
from cluster.controllers.resource_quota import ResourceQuotaController
from cluster.controllers.service_account_tokens import ServiceAccountTokenController
from cluster.controllers.service_cidr import ServiceCidrController
from cluster.controllers.statefulset import StatefulSetController
from cluster.controllers.taint_eviction import TaintEvictionController
from cluster.controllers.volume_expand import ExpandController
from cluster.controllers.volume_protection import VolumeProtectionController
from cluster.machinery.client import Obj
from cluster.machinery.clock import Clock, monotonic
from cluster.machinery.election import Elector
from cluster.machinery.informer import Informers
from cluster.machinery.registry_client import RegistryClient
from cluster.machinery.state_metrics import StateCollector
from cluster.machinery.write_through import WriteThrough
from cluster.registry.context import CAUSE, RequestContext, UserInfo
from cluster.registry.registry import Registry
from cluster.registry.store import Store

COMPONENT = "kube-controller-manager"
USER = UserInfo("system:kube-controller-manager", groups=("system:authenticated",))
ENABLED = Gauge("controller_manager_controllers", "Controllers that run in this term", ["manager"])

# In the order of the main job; each stands alone.
CONTROLLERS: tuple[Callable[[Env], Controller], ...] = (
    DeploymentController,
    ReplicaSetController,
    replication_controllers,
    StatefulSetController,
    DaemonSetController,
    JobController,
    JobTtlController,
    CronJobController,
    EndpointSliceController,
    EndpointsController,
    EndpointSliceMirroringController,
    LoadBalancerController,
    NodeLifecycleController,
    CloudNodeController,
    CloudRouteController,
    AutoscalerController,
    TaintEvictionController,
    NodeIpamController,
    ServiceAccountController,
    ServiceAccountTokenController,
    RootCaPublisher,
    NamespaceController,
    DefinitionController,
    GarbageCollector,
    PodGcController,
    DisruptionController,
    HpaController,
    ResourceQuotaController,
    ServiceCidrController,
    ClusterRoleAggregationController,
    CsrApprover,
    CsrSigner,
    CsrCleaner,
    BootstrapSigner,
    TokenCleaner,
    PolicyStatusController,
    PersistentVolumeController,
    ExpandController,
    VolumeProtectionController,
    EphemeralVolumeController,
    AttachDetachController,
)


def build(env: Env) -> list[Controller]:
    """All controllers over one environment, wired to its informers but not running."""
    return [make(env) for make in CONTROLLERS]


class ControllerManager:
    """`identity` names this instance in the lease, e.g. `m1_<uuid>`; `clock` is wall time."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        config: ControllerConfig,
        identity: str,
        outside: Outside = NOBODY,
        *,
        clock: Clock = time.time,
        monotonic: Clock = monotonic,
        rng: random.Random | None = None,
    ) -> None:
        config.validate()
        rng = rng or random.Random(identity)
        self._elector = Elector(store, COMPONENT, identity, config.leader_elect_lease_duration_s, clock=monotonic)
        self._client = client = RegistryClient(registry, self._context)
        self._informers = informers = Informers(client, rng=rng)
        through = WriteThrough(client, informers)
        resources = registry.catalog
        env = Env(through, informers, config, clock, rng, outside, monotonic, quotas=client, resources=resources)
        self._controllers = build(env)
        self.state_metrics = StateCollector(informers, lambda: self._elector.leading)

    async def run(self) -> None:
        """Until cancelled. Raises when a controller or the election cannot go on."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informers.run(), name="informers")
            group.create_task(self._elect(), name="election")

    def node(self, name: str) -> Obj | None:
        """The Node as last seen."""
        return self._informers.of("nodes").get("", name)

    def health(self) -> dict[str, object]:
        unsynced = self._informers.unsynced
        return {
            "ok": not unsynced,
            "leading": self._elector.leading,
            "leader": self._elector.holder,
            "unsynced": unsynced,
            "controllers": [c.name for c in self._controllers],
        }

    async def _elect(self) -> None:
        # Informers first: an instance that cannot read must not lead.
        await self._informers.wait_synced()
        await self._elector.run(self._lead, mirror=self._client)

    async def _lead(self) -> None:
        for controller in self._controllers:
            controller.resync()
        ENABLED.labels(COMPONENT).set(len(self._controllers))
        try:
            async with asyncio.TaskGroup() as group:
                for controller in self._controllers:
                    group.create_task(controller.run(), name=f"controller-{controller.name}")
        finally:
            ENABLED.labels(COMPONENT).set(0)

    def _context(self) -> RequestContext:
        return RequestContext(user=USER, fence=self._elector.fence, field_manager=COMPONENT, cause_id=CAUSE.get())
