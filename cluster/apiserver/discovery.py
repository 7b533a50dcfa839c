"""What this server serves, as clients discover it: groups, versions, resources; the legacy and the aggregated form.

Pure.

Everything derives from the scheme, plus the kinds that are answered at the edge and never stored (reviews, bindings,
component statuses). Documents are built once and served with an ETag. Source: KEP-3352 (aggregated discovery),
meta/v1 APIResourceList.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.api.scheme import EDGE, SCHEME, ResourceInfo, subresource_kind, subresource_verbs

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_BY_RESOURCE = {(r.group, r.version, r.plural): r for r in EDGE}


@dataclass(frozen=True, slots=True)
class Document:
    """A discovery document ready to send."""

    body: bytes
    etag: str
    content_type: str = "application/json"


def resource(group: str, version: str, plural: str) -> ResourceInfo | None:
    """Any resource this server answers for, stored or not."""
    return SCHEME.resource(group, version, plural) or _BY_RESOURCE.get((group, version, plural))


def _document(obj: dict[str, Any], content_type: str = "application/json") -> Document:
    body = orjson.dumps(obj)
    return Document(body, '"' + hashlib.sha256(body).hexdigest().upper() + '"', content_type)


class Discovery:
    """All discovery documents, by path."""

    def __init__(self, infos: Iterable[ResourceInfo] = (*SCHEME.served(), *EDGE)) -> None:
        groups: dict[str, dict[str, list[ResourceInfo]]] = {}
        for info in infos:
            groups.setdefault(info.group, {}).setdefault(info.version, []).append(info)
        self._groups = groups
        self._legacy = dict(self._legacy_documents())
        self._aggregated = {
            "/api": _document(self._aggregate([""]), AGGREGATED),
            "/apis": _document(self._aggregate([g for g in groups if g]), AGGREGATED),
        }

    def find(self, path: str, *, aggregated: bool) -> Document | None:
        """The document at a path without trailing slash; None when it is not a discovery path."""
        if aggregated and path in self._aggregated:
            return self._aggregated[path]
        return self._legacy.get(path)

    def paths(self) -> list[str]:
        return sorted(self._legacy)

    def _legacy_documents(self) -> Iterable[tuple[str, Document]]:
        yield (
            "/api",
            _document({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        )
        listed = [_group(g, list(v)) for g, v in self._groups.items() if g]
        yield "/apis", _document({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})
        for group, versions in self._groups.items():
            if group:
                yield (
                    f"/apis/{group}",
                    _document({"kind": "APIGroup", "apiVersion": "v1"} | _group(group, list(versions))),
                )
            for version, infos in versions.items():
                gv = f"{group}/{version}" if group else version
                resources = [r for i in infos for r in _legacy_resources(i)]
                body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": resources}
                yield (f"/apis/{gv}" if group else f"/api/{gv}"), _document(body)

    def _aggregate(self, groups: list[str]) -> dict[str, Any]:
        items = []
        for group in groups:
            versions = [
                {
                    "version": version,
                    "resources": [_aggregated_resource(i) for i in sorted(infos, key=lambda i: i.plural)],
                    "freshness": "Current",
                }
                for version, infos in self._groups.get(group, {}).items()
            ]
            meta: dict[str, Any] = {"creationTimestamp": None}
            if group:
                meta["name"] = group
            items.append({"metadata": meta, "versions": versions})
        return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _group(group: str, versions: list[str]) -> dict[str, Any]:
    listed = [{"groupVersion": f"{group}/{v}", "version": v} for v in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def _storage_version_hash(info: ResourceInfo) -> str:
    """Names the version that objects are stored in; clients compare it only."""
    hub = SCHEME.hub(info)
    version = info.custom.storage if info.custom is not None else hub.version
    stored = f"{hub.group}/{version}/{hub.kind}".encode()
    return base64.b64encode(hashlib.sha256(stored).digest()[:8]).decode()


def _legacy_resources(info: ResourceInfo) -> Iterable[dict[str, Any]]:
    out: dict[str, Any] = {
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": info.namespaced,
        "kind": info.kind,
        "verbs": list(info.verbs),
    }
    if info.short_names:
        out["shortNames"] = list(info.short_names)
    if info.categories:
        out["categories"] = list(info.categories)
    if "create" in info.verbs and "list" in info.verbs:
        out["storageVersionHash"] = _storage_version_hash(info)
    yield out
    for sub in info.subresources:
        group, version, kind = subresource_kind(info, sub)
        entry: dict[str, Any] = {
            "name": f"{info.plural}/{sub}",
            "singularName": "",
            "namespaced": info.namespaced,
            "kind": kind,
            "verbs": list(subresource_verbs(sub)),
        }
        if (group, version) != (info.group, info.version):
            entry |= {"group": group, "version": version}
        yield entry


def _aggregated_resource(info: ResourceInfo) -> dict[str, Any]:
    out: dict[str, Any] = {
        "resource": info.plural,
        "responseKind": {"group": info.group, "version": info.version, "kind": info.kind},
        "scope": "Namespaced" if info.namespaced else "Cluster",
        "singularResource": info.singular,
        "verbs": list(info.verbs),
    }
    if info.short_names:
        out["shortNames"] = list(info.short_names)
    if info.categories:
        out["categories"] = list(info.categories)
    subs = []
    for sub in info.subresources:
        group, version, kind = subresource_kind(info, sub)
        subs.append(
            {
                "subresource": sub,
                "responseKind": {"group": group, "version": version, "kind": kind},
                "verbs": list(subresource_verbs(sub)),
            }
        )
    if subs:
        out["subresources"] = subs
    return out
