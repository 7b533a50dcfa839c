"""The search paths of this machine's pods, so that a look-up along one is answered in one round. Pure.

With `ndots:5` a pod's resolver asks for `api.github.com.NAMESPACE.svc.cluster.local`, `api.github.com.svc...`, and so
on, before what it means. Whoever knows the pod's list can answer the first of these questions with the answer to the
first that has one, behind a CNAME (what CoreDNS calls autopath): one query instead of four, for a name of another
namespace one instead of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.api.pod_dns import search_domains
from cluster.network import dns_wire as wire

Obj = dict[str, Any]
Path = tuple[bytes, ...]


class SearchPaths:
    """By the address a pod's queries come from. `machine_searches`: those of the machine's resolv.conf."""

    def __init__(self, cluster_domain: str, machine_searches: Sequence[str] = ()) -> None:
        self._domain = cluster_domain
        self._machine_searches = machine_searches
        self._by_address: dict[str, Path] = {}
        self._addresses: dict[str, str] = {}
        self.of = self._by_address.get

    def __len__(self) -> int:
        return len(self._by_address)

    def set_pod(self, key: str, pod: Obj | None) -> None:
        """`key` (namespace/name) is now this pod, or none. One on the machine's network has no address of its own."""
        before = self._addresses.pop(key, None)
        if before is not None:
            self._by_address.pop(before, None)
        if pod is None or pod["spec"].get("hostNetwork"):
            return
        address = (pod.get("status") or {}).get("podIP")
        if address and (pod["status"].get("phase") not in ("Succeeded", "Failed")):
            self._addresses[key] = address
            self._by_address[address] = self._path(pod)

    def _path(self, pod: Obj) -> Path:
        out = []
        for domain in search_domains(pod, self._domain, self._machine_searches):
            try:
                out.append(wire.name(domain))
            except ValueError:
                return ()  # the pod's resolver will not make much of it either
        return tuple(out)


def expansions(name: bytes, path: Path) -> tuple[bytes, ...]:
    """What a resolver with that search path asks for after `name`; () when `name` is not its first question."""
    if not path or not name.endswith(path[0]) or len(name) == len(path[0]):
        return ()
    base = name[: -len(path[0])]
    if not _whole_labels(base):
        return ()
    longest = 255 - len(base)
    return (*(base + domain for domain in path[1:] if len(domain) <= longest), base + b"\0")


def _whole_labels(base: bytes) -> bool:
    """`base` ends where a label ends (that the bytes match is not enough: a label may end like another)."""
    at = 0
    while at < len(base):
        at += 1 + base[at]
    return at == len(base)
