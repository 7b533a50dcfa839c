"""The service-cidr controller: a ServiceCIDR is ready once it is protected, and goes when nothing needs it (KEP-1880).

    created ── finalizer ──> Ready=True ── deleted ──> Ready=False (Terminating) ── no address left ──> finalizer off

An address is orphaned by a deletion when no other ready ServiceCIDR has it. Giving out an address compares the
ServiceCIDR's revision (`cluster.registry.addresses`), so once the deletion is marked no new address appears, and one
look at what is stored decides.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from cluster.api import meta
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, clone, ignore_not_found
from cluster.machinery.reconciler import Reconciler, Result

FINALIZER = "networking.k8s.io/service-cidr-finalizer"
CIDRS = "servicecidrs.networking.k8s.io"
_ADDRESSES = "ipaddresses.networking.k8s.io"
# Addresses that Services give up are seen at once; those made by hand are looked for again.
_AGAIN_S = 10.0
_STILL_USED = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"


def orphaned(going: Obj, others: Iterable[Obj], addresses: Iterable[str]) -> list[str]:
    """Addresses of `going` that none of `others` has."""
    mine = [ipaddress.ip_network(c) for c in going["spec"]["cidrs"]]
    theirs = [ipaddress.ip_network(c) for other in others for c in other["spec"]["cidrs"]]

    def inside(address: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
        ip = ipaddress.ip_address(address)
        return any(ip.version == n.version and ip in n for n in networks)

    return [a for a in addresses if inside(a, mine) and not inside(a, theirs)]


class ServiceCidrController:
    name = "service-cidr"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._cidrs = env.informer(CIDRS)
        self._services = env.informer("services")
        self.reconciler = Reconciler(self.name, self._reconcile, workers=1)
        self._cidrs.add_handler(self._on_cidr)
        self._services.add_handler(self._on_service)

    async def run(self) -> None:
        await self.reconciler.run()

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._cidrs.items())

    def _on_cidr(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self.reconciler.queue.add(new["metadata"]["name"])
        self._look_again()  # what another range has no longer keeps one that is going

    def _on_service(self, old: Obj | None, new: Obj | None) -> None:
        if old is not None and (new is None or _ips(new) != _ips(old)):
            self._look_again()

    def _look_again(self) -> None:
        for cidr in self._cidrs.items():
            if _going(cidr):
                self.reconciler.queue.add(cidr["metadata"]["name"])

    async def _reconcile(self, name: str) -> Result | None:
        cidr = self._cidrs.get("", name)
        if cidr is None:
            return None
        with ignore_not_found():
            if _going(cidr):
                return await self._let_go(cidr)
            await self._protect(cidr)
        return None

    async def _protect(self, cidr: Obj) -> None:
        finalizers = cidr["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            await self._set_finalizers(cidr, [*finalizers, FINALIZER])
            return  # seen again as it then is
        if _ready_status(cidr) != "True":
            await self._set_ready(cidr, "True", "", "Kubernetes Service CIDR is ready")

    async def _let_go(self, cidr: Obj) -> Result | None:
        finalizers = cidr["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            return None
        stored = (await self._env.client.list(CIDRS)).items
        others = [o for o in stored if o["metadata"]["uid"] != cidr["metadata"]["uid"] and not _going(o)]
        addresses = [a["metadata"]["name"] for a in (await self._env.client.list(_ADDRESSES)).items]
        if orphaned(cidr, others, addresses):
            if _ready_status(cidr) != "False":
                await self._set_ready(cidr, "False", "Terminating", _STILL_USED)
            return Result(_AGAIN_S)
        await self._set_finalizers(cidr, [f for f in finalizers if f != FINALIZER])
        return None

    async def _set_finalizers(self, cidr: Obj, finalizers: list[str]) -> None:
        meta_ = cidr["metadata"]
        patch = {"uid": meta_["uid"], "resourceVersion": meta_["resourceVersion"], "finalizers": finalizers or None}
        await self._env.client.patch(CIDRS, meta_["name"], {"metadata": patch})

    async def _set_ready(self, cidr: Obj, status: str, reason: str, message: str) -> None:
        changed = clone(cidr)
        since = meta.rfc3339(self._env.clock())
        condition = {"type": "Ready", "status": status, "lastTransitionTime": since, "reason": reason}
        others = [c for c in (cidr.get("status") or {}).get("conditions") or () if c.get("type") != "Ready"]
        changed["status"] = {"conditions": [*others, {**condition, "message": message}]}
        await self._env.client.update(CIDRS, changed, subresource="status")


def _going(cidr: Obj) -> bool:
    return "deletionTimestamp" in cidr["metadata"]


def _ready_status(cidr: Obj) -> str:
    conditions = (cidr.get("status") or {}).get("conditions") or ()
    return next((str(c.get("status")) for c in conditions if c.get("type") == "Ready"), "")


def _ips(service: Obj) -> list[str]:
    return (service.get("spec") or {}).get("clusterIPs") or []
