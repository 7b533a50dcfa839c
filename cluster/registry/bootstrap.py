"""What every cluster starts with: namespaces, roles, priority and storage classes, the two Services with fixed
addresses.

IO only through the registry. `ensure` creates what is missing and touches nothing else, except that roles marked for
it regain rules they lack (a newer version's, or deleted ones), as Kubernetes does. Any number of API servers may run
it at the same time.
"""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.api import errors
from cluster.api.scheme import SCHEME
from cluster.api.volumes import BLOCK, LOCAL_PATH
from cluster.registry import addresses, bootstrap_flow, bootstrap_rbac
from cluster.registry.context import RequestContext, internal_context
from cluster.registry.registry import Registry
from cluster.registry.store import unchanged
from cluster.registry.types import RegistryConfig, Stored

Object = dict[str, Any]

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_AT_ONCE = 16


def _storage_class(name: str, kind: str, *, default: bool, provisioner: str = BLOCK) -> Object:
    metadata: Object = {"name": name}
    if default:
        metadata["annotations"] = {"storageclass.kubernetes.io/is-default-class": "true"}
    return {
        "metadata": metadata,
        "provisioner": provisioner,
        "parameters": {"type": kind},
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


def _priority_class(name: str, value: int, description: str) -> Object:
    return {"metadata": {"name": name}, "value": value, "description": description}


def cluster_objects() -> dict[str, list[Object]]:
    """Cluster-scoped objects by resource."""
    may_not_move = "Used for system critical pods that must not be moved from their current node."
    must_run = (
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."
    )
    return {
        "clusterroles.rbac.authorization.k8s.io": bootstrap_rbac.cluster_roles(),
        "clusterrolebindings.rbac.authorization.k8s.io": bootstrap_rbac.cluster_role_bindings(),
        bootstrap_flow.PRIORITY_LEVELS.name: bootstrap_flow.priority_levels(),
        bootstrap_flow.FLOW_SCHEMAS.name: bootstrap_flow.flow_schemas(),
        "priorityclasses.scheduling.k8s.io": [
            _priority_class("system-node-critical", 2_000_001_000, may_not_move),
            _priority_class("system-cluster-critical", 2_000_000_000, must_run),
        ],
        "storageclasses.storage.k8s.io": [
            _storage_class("block", "standard", default=True),
            _storage_class("fast-ssd", "ssd", default=False),
            _storage_class("local-path", "directory", default=False, provisioner=LOCAL_PATH),
        ],
    }


def services(config: RegistryConfig) -> list[tuple[str, Object]]:
    """(namespace, Service) of the two whose addresses everyone knows. Machines answer the DNS address themselves; its
    endpoints, the pods of the coredns Deployment, are whom they ask about names of others."""
    kubernetes = {
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": config.kubernetes_service_ip,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.api_port}],
        },
    }
    labels = {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
    dns = {
        "metadata": {"name": "kube-dns", "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": config.dns_service_ip,
            "selector": {"k8s-app": "kube-dns"},
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
            ],
        },
    }
    return [("default", kubernetes), ("kube-system", dns)]


async def ensure(registry: Registry, config: RegistryConfig) -> None:
    """Raises ApiError when the store cannot be written; call again then."""
    ctx = internal_context("sk8-bootstrap")
    await _ensure_all(registry, ctx, "namespaces", [("", {"metadata": {"name": n}}) for n in NAMESPACES])
    for resource, objects in cluster_objects().items():
        await _ensure_all(registry, ctx, resource, [("", o) for o in objects])
    await _ensure_all(registry, ctx, "roles.rbac.authorization.k8s.io", bootstrap_rbac.namespaced_roles())
    await _ensure_all(registry, ctx, addresses.SERVICE_CIDRS.name, [("", addresses.default_cidr(config.service_cidrs))])
    await registry.modify(
        ctx, addresses.SERVICE_CIDRS, "", addresses.DEFAULT_CIDR, addresses.ready, subresource="status"
    )
    while await _claim_addresses_in_use(registry, ctx):
        pass
    await _ensure_all(registry, ctx, "services", services(config))


async def _claim_addresses_in_use(registry: Registry, ctx: RequestContext) -> bool:
    """The IPAddress of every Service's address: a store written by a version before them has none.

    Each is made only while its Service is as it was read: nobody would release that of one deleted meanwhile. True
    when one had changed: look again.
    """
    found = (await registry.list(ctx, SCHEME.named("services"))).items
    present = {o.obj["metadata"]["name"] for o in (await registry.list(ctx, addresses.IP_ADDRESSES)).items}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def claim(service: Stored, ip: str) -> bool:
        metadata = service.obj["metadata"]
        guarded = ctx.with_fence(unchanged(service.key, service.revision))
        wanted = addresses.ip_address(ip, metadata["namespace"], metadata["name"])
        async with gate:
            try:
                await _create(registry, guarded, addresses.IP_ADDRESSES.name, "", wanted)
            except errors.FenceLost:
                return True
        return False

    in_use = [(s, ip) for s in found for ip in addresses.service_ips(s.obj.get("spec") or {})]
    return any(await asyncio.gather(*(claim(s, ip) for s, ip in in_use if ip not in present)))


async def _ensure_all(registry: Registry, ctx: RequestContext, resource: str, wanted: list[tuple[str, Object]]) -> None:
    info = SCHEME.named(resource)
    present = {
        (o.obj["metadata"].get("namespace", ""), o.obj["metadata"]["name"]): o.obj
        for o in (await registry.list(ctx, info)).items
    }
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(namespace: str, obj: Object) -> None:
        old = present.get((namespace, obj["metadata"]["name"]))
        async with gate:
            if old is None:
                await _create(registry, ctx, resource, namespace, obj)
            elif resource.startswith("clusterroles."):
                await _complete(registry, ctx, resource, obj, old)

    await asyncio.gather(*(one(namespace, obj) for namespace, obj in wanted))


async def _create(registry: Registry, ctx: RequestContext, resource: str, namespace: str, obj: Object) -> None:
    try:
        await registry.create(ctx, SCHEME.named(resource), namespace, obj)
    except errors.ApiError as e:
        if e.reason != "AlreadyExists":
            raise


async def _complete(registry: Registry, ctx: RequestContext, resource: str, wanted: Object, old: Object) -> None:
    """Give a role the rules it lacks, unless its owner has switched that off."""
    if (old["metadata"].get("annotations") or {}).get(bootstrap_rbac.AUTOUPDATE) != "true":
        return
    missing = [r for r in wanted["rules"] if r not in (old.get("rules") or [])]
    labels, aggregation = wanted["metadata"]["labels"], wanted.get("aggregationRule")
    lacks = any((old["metadata"].get("labels") or {}).get(k) != v for k, v in labels.items())
    if aggregation is not None and old.get("aggregationRule") is None:
        lacks = True
    elif aggregation is not None:
        missing = []  # its rules are gathered from others
    if not missing and not lacks:
        return

    def add(role: Object) -> Object:
        present = role.get("rules") or []
        metadata = {**role["metadata"], "labels": {**(role["metadata"].get("labels") or {}), **labels}}
        complete = {**role, "metadata": metadata, "rules": [*present, *(r for r in missing if r not in present)]}
        if aggregation is not None:
            complete["aggregationRule"] = role.get("aggregationRule") or aggregation
        return complete

    await registry.modify(ctx, SCHEME.named(resource), "", wanted["metadata"]["name"], add)
