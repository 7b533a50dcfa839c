"""Admission: what the cluster adds to an object, or refuses about it, beyond its own validity.

IO only through Core, and only reads. It runs inside the registry, so that every writer passes it: clients through the
API, scheduler and controllers in process. Plugins run in Kubernetes' order; each may change the object in place
before validation, and may guard what it has read, so that the transaction holds only if it is still so.
"""

from __future__ import annotations

from cluster.registry.admission import namespaces, nodes, pods, serviceaccounts, storage
from cluster.registry.admission.request import Reads, Request
from cluster.registry.core import Core


class Admission:
    """The chain: NamespaceLifecycle, ServiceAccount, NodeRestriction, Priority, DefaultTolerationSeconds,
    DefaultStorageClass, PersistentVolumeClaimResize, StorageObjectInUseProtection."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._reads = Reads(core)

    async def admit(self, request: Request) -> None:
        """Raises 403 and others; changes `request.obj` in place."""
        core, reads, name = self._core, self._reads, request.info.name
        nodes.restrict(request)
        if request.subresource:
            return
        if name == "pods":
            if request.operation == "CREATE":
                await serviceaccounts.admit(request, reads, core.rng)
                await pods.priority(request, reads, core.clock())
            if request.operation != "DELETE":
                pods.tolerations(request, core.config)
        elif name in ("persistentvolumeclaims", "persistentvolumes"):
            await storage.admit(request, reads)
        elif name == "namespaces":
            namespaces.admit(request)


__all__ = ["Admission", "Reads", "Request"]
