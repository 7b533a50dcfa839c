"""From the EndpointSlices of a Service to the endpoints that may get new connections. Pure.

Rules are Kubernetes' (KEP-1669, KEP-1672): a ready endpoint; when there is none, one that is terminating but still
serves. A condition that is absent counts as Kubernetes says: `ready` unset means ready, `serving` unset means what
`ready` says, `terminating` unset means not. `publishNotReadyAddresses` has been applied by whoever made the slice.

Invariant: the result is sorted and without duplicates, so equal input in any order gives equal rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.network.families import V4, Family

Obj = dict[str, Any]
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class Endpoint(NamedTuple):
    """Where a connection may end. `local`: on the node the rules are made for. A tuple: there may be ten thousand."""

    ip: str
    port: int
    local: bool = False


def service_key(slice_: Obj) -> str:
    """`namespace/name` of the Service that owns a slice; "" for one that names none."""
    meta = slice_.get("metadata", {})
    name = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL, "")
    return f"{meta.get('namespace', '')}/{name}" if name else ""


def is_ready(endpoint: Obj) -> bool:
    ready = (endpoint.get("conditions") or {}).get("ready")
    return ready is None or bool(ready)


def is_serving_terminating(endpoint: Obj) -> bool:
    conditions = endpoint.get("conditions") or {}
    serving = conditions.get("serving")
    return (is_ready(endpoint) if serving is None else bool(serving)) and bool(conditions.get("terminating"))


@dataclass(frozen=True, slots=True)
class Port:
    """Which port of a Service's slices, seen from which node; `zone`: that node's, "" when it has none."""

    name: str
    protocol: str
    node_name: str
    zone: str = ""
    family: Family = V4


def usable(slices: Iterable[Obj], port: Port) -> tuple[list[Endpoint], list[Endpoint]]:
    """The endpoints of one Service port that new connections may go to: everywhere (those meant for this node or zone,
    if such hints can be followed), and on this node alone (traffic policy Local)."""
    ready, terminating = _candidates(slices, port)
    here = [e for e in ready if e.local] or [e for e in terminating if e.local]
    return sorted(_hinted(ready, port) or terminating), sorted(here)


_Hints = tuple[frozenset[str], frozenset[str]]
"""Names of the zones and of the nodes an endpoint is meant for."""
_NO_HINTS: _Hints = (frozenset(), frozenset())


def _hinted(ready: dict[Endpoint, _Hints], port: Port) -> list[Endpoint]:
    """Hints count only when every endpoint has one and somebody is meant for us (KEP-2433, KEP-3015)."""
    for which, ours in ((1, port.node_name), (0, port.zone)):
        if ours and all(hints[which] for hints in ready.values()):
            meant = [endpoint for endpoint, hints in ready.items() if ours in hints[which]]
            if meant:
                return meant
    return list(ready)


def _candidates(slices: Iterable[Obj], port: Port) -> tuple[dict[Endpoint, _Hints], set[Endpoint]]:
    ready: dict[Endpoint, _Hints] = {}
    terminating: set[Endpoint] = set()
    for slice_ in slices:
        if slice_.get("addressType", "IPv4") != port.family.name:
            continue
        for number in _numbers(slice_, port):
            for endpoint in slice_.get("endpoints") or ():
                # All addresses of one endpoint are the same pod: the first is the one to use (API documentation).
                address = next(iter(endpoint.get("addresses") or ()), "")
                if not port.family.has(address):
                    continue
                found = Endpoint(address, number, endpoint.get("nodeName") == port.node_name)
                if is_ready(endpoint):
                    ready[found] = _hints(endpoint)
                elif is_serving_terminating(endpoint):
                    terminating.add(found)
    return ready, terminating - ready.keys()


def _numbers(slice_: Obj, port: Port) -> list[int]:
    return [
        int(item["port"])
        for item in slice_.get("ports") or ()
        if (item.get("name") or "") == port.name and item.get("protocol", "TCP") == port.protocol and item.get("port")
    ]


def _hints(endpoint: Obj) -> _Hints:
    hints = endpoint.get("hints")
    if not hints:
        return _NO_HINTS
    zones, nodes = (
        frozenset(item["name"] for item in hints.get(key) or () if item.get("name")) for key in ("forZones", "forNodes")
    )
    return zones, nodes
