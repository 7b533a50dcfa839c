"""Load balancers of local machines: an address of the pool, which every machine answers for.

Pure. Nothing is built: the proxies read the Service's status and take the address's connections (contracts.md), so all
there is to decide is which address, and what is taken is what Services say.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.machinery.client import Obj
from cluster.machinery.provider import ProviderError


class AddressPool:
    """Fulfils LoadBalancers."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = tuple(addresses)

    async def ensure(self, service: Obj, services: Sequence[Obj], nodes: Sequence[Obj] = ()) -> Sequence[Obj]:
        """Raises ProviderError when the address that is asked for, or every address, has another Service."""
        mine, wish = service["metadata"]["uid"], service["spec"].get("loadBalancerIP")
        held = _addresses(service)
        if held and wish in (None, "", held[0]):
            return [{"ip": held[0], "ipMode": "VIP"}]
        taken = {a for s in services if s["metadata"]["uid"] != mine for a in _addresses(s)}
        if wish:
            self._check(wish, taken)
            return [{"ip": wish, "ipMode": "VIP"}]
        free = next((a for a in self._addresses if a not in taken), None)
        if free is None:
            raise ProviderError(
                f"all {len(self._addresses)} addresses of load_balancer_pool are taken: delete a Service of type "
                "LoadBalancer, or give the cluster a larger pool"
            )
        return [{"ip": free, "ipMode": "VIP"}]

    async def delete(self, service: Obj) -> None:
        """What no Service's status says is free."""

    def _check(self, wish: str, taken: set[str]) -> None:
        if wish not in self._addresses:
            raise ProviderError(f"spec.loadBalancerIP {wish} is not of load_balancer_pool")
        if wish in taken:
            raise ProviderError(f"spec.loadBalancerIP {wish} is another Service's")


def _addresses(service: Obj) -> list[str]:
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [i["ip"] for i in ingress if i.get("ip")]
