"""The service controller of the cloud-controller-manager: gives Services of type LoadBalancer what answers for them.

Level-based; source: k8s.io/cloud-provider controllers/service. What is built is the provider's (`LoadBalancers`). A
Service with a loadBalancerClass is somebody else's. The finalizer goes on before anything is built and off after it is
gone, so that a Service deleted while nobody ran leaves nothing behind.

One worker: a local provider sees what is taken from the Services' statuses, which each write of ours shows at once.
"""

from __future__ import annotations

from cluster.api.errors import ApiError, service_unavailable
from cluster.api.meta import is_true
from cluster.controllers.cloud_nodes_core import UNINITIALIZED
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, is_not_found, key_of, split_key
from cluster.machinery.provider import LoadBalancers, ProviderError
from cluster.machinery.reconciler import Reconciler, Result

EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
FINALIZER = "service.kubernetes.io/load-balancer-cleanup"


class LoadBalancerController:
    name = "service-lb"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._services = env.informer("services")
        self._events = env.recorder("service-controller")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=1)
        self._services.add_handler(self._on_service)
        self._nodes = env.informer("nodes")
        self._nodes.add_handler(self._on_node)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        for service in self._services.items():
            self._on_service(None, service)

    def _on_service(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None and (wants(new) or has_finalizer(new)):
            self.reconciler.queue.add(key_of(new))

    def _on_node(self, old: Obj | None, new: Obj | None) -> None:
        if _serves(old) != _serves(new):
            self.resync()

    async def _reconcile(self, key: str) -> Result | None:
        service, balancers = self._services.get(*split_key(key)), self._env.outside.balancers
        if service is None or balancers is None:
            return None
        try:
            if wants(service):
                await self._ensure(balancers, service)
            elif has_finalizer(service):
                await self._delete(balancers, service)
        except ProviderError as e:
            self._event(service, "Warning", "SyncLoadBalancerFailed", f"Error syncing load balancer: {e.message}")
            raise service_unavailable(f"load balancer of {key}: {e.message}") from e
        except ApiError as err:
            if not is_not_found(err):
                raise
        return None

    async def _ensure(self, balancers: LoadBalancers, service: Obj) -> None:
        if not has_finalizer(service):
            service = await self._set_finalizers(service, [*_finalizers(service), FINALIZER])
        old = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        if not old:
            self._event(service, "Normal", "EnsuringLoadBalancer", "Ensuring load balancer")
        ingress = list(await balancers.ensure(service, self._services.items(), self._serving()))
        if ingress == old:
            return
        await self._set_ingress(service, ingress)
        self._event(service, "Normal", "EnsuredLoadBalancer", "Ensured load balancer")

    def _serving(self) -> list[Obj]:
        return [n for n in self._nodes.items() if _serves(n)]

    async def _delete(self, balancers: LoadBalancers, service: Obj) -> None:
        self._event(service, "Normal", "DeletingLoadBalancer", "Deleting load balancer")
        await balancers.delete(service)
        if "deletionTimestamp" not in service["metadata"]:
            service = await self._set_ingress(service, [])
        await self._set_finalizers(service, [f for f in _finalizers(service) if f != FINALIZER])
        self._event(service, "Normal", "DeletedLoadBalancer", "Deleted load balancer")

    async def _set_finalizers(self, service: Obj, finalizers: list[str]) -> Obj:
        meta = service["metadata"]
        patch = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"], "finalizers": finalizers or None}
        return await self._env.client.patch("services", meta["name"], {"metadata": patch}, meta["namespace"])

    async def _set_ingress(self, service: Obj, ingress: list[Obj]) -> Obj:
        changed = clone(service)
        changed["status"] = {**(changed.get("status") or {}), "loadBalancer": {"ingress": ingress} if ingress else {}}
        return await self._env.client.update("services", changed, subresource="status")

    def _event(self, service: Obj, type_: str, reason: str, message: str) -> None:
        self._events.event(service, type_, reason, message)


def wants(service: Obj) -> bool:
    """Of type LoadBalancer, of no class of its own, and staying."""
    spec = service["spec"]
    ours = spec.get("type") == "LoadBalancer" and not spec.get("loadBalancerClass")
    return ours and "deletionTimestamp" not in service["metadata"]


def _serves(node: Obj | None) -> bool:
    """Packets may be sent to it for any Service: it is ready, initialized, and nobody said that it should not."""
    if node is None or "deletionTimestamp" in node["metadata"] or EXCLUDE in (node["metadata"].get("labels") or {}):
        return False
    if any(t["key"] == UNINITIALIZED for t in node["spec"].get("taints") or ()):
        return False
    return is_true(node, "Ready")


def has_finalizer(service: Obj) -> bool:
    return FINALIZER in _finalizers(service)


def _finalizers(service: Obj) -> list[str]:
    return list(service["metadata"].get("finalizers") or ())
