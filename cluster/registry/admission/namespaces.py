"""NamespaceLifecycle's other half: the namespaces a cluster cannot do without stay.

Pure. That creates need an Active namespace is a guard of the transaction (`core.namespace_guard`).
"""

from __future__ import annotations

from cluster.registry.admission.request import Request

_IMMORTAL = ("default", "kube-system", "kube-public")


async def admit(request: Request) -> None:
    if request.operation == "DELETE" and request.name in _IMMORTAL:
        raise request.forbid("this namespace may not be deleted")
