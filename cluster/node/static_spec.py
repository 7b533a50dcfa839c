"""Static pods: what a manifest in the kubelet's directory becomes, and its mirror in the API.

Pure. Source: the kubelet's file source (pkg/kubelet/config) and mirror client: the uid is a hash of the manifest, so a
changed file is another pod; the name ends in the node's; annotations say where it came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from cluster.api import defaults, validation
from cluster.api.meta import owner_reference, rfc3339_micro
from cluster.api.scheme import SCHEME

Obj = dict[str, Any]
SOURCE = "kubernetes.io/config.source"
HASH = "kubernetes.io/config.hash"
SEEN = "kubernetes.io/config.seen"
MIRROR = "kubernetes.io/config.mirror"
_STAYS = {"operator": "Exists", "effect": "NoExecute"}


class ManifestError(ValueError):
    """A file that is no pod that could run here."""


def annotation(obj: Mapping[str, Any], name: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def is_static(pod: Obj) -> bool:
    return annotation(pod, SOURCE) == "file" and not is_mirror(pod)


def is_mirror(pod: Obj) -> bool:
    return bool(annotation(pod, MIRROR))


def from_api(pod: Obj) -> Obj:
    """The kubelet's copy of a pod of the API: its source is the API, whatever its owner says. Not reported back."""
    notes = pod["metadata"].get("annotations") or {}
    if notes.get(SOURCE, "api") == "api":
        return pod
    return {**pod, "metadata": {**pod["metadata"], "annotations": {**notes, SOURCE: "api"}}}


def full_name(pod: Obj) -> tuple[str, str]:
    return str(pod["metadata"]["namespace"]), str(pod["metadata"]["name"])


def static_pod(text: str, path: str, node: str, now: float) -> Obj:
    """The pod of one manifest (YAML or JSON). Raises ManifestError."""
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise ManifestError(f"neither YAML nor JSON: {err}") from err
    if not isinstance(given, dict) or (given.get("apiVersion"), given.get("kind")) != ("v1", "Pod"):
        raise ManifestError("not a Pod of apiVersion v1")
    parts = [given.get(part) or {} for part in ("metadata", "spec")]
    if not all(isinstance(part, dict) for part in parts):
        raise ManifestError("metadata and spec must be objects")
    meta, spec = map(dict, parts)
    if not isinstance(meta.get("name"), str) or not meta["name"]:
        raise ManifestError("metadata.name: Required value")
    uid = str(meta.get("uid") or hashlib.md5(f"{node}\n{path}\n{text}".encode(), usedforsecurity=False).hexdigest())
    notes = {**(meta.get("annotations") or {}), HASH: uid, SEEN: rfc3339_micro(now), SOURCE: "file"}
    meta |= {"name": f"{meta['name']}-{node}", "namespace": meta.get("namespace") or "default"}
    meta |= {"uid": uid, "annotations": notes}
    spec |= {"nodeName": node, "tolerations": [*(spec.get("tolerations") or ()), dict(_STAYS)]}
    pod: Obj = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": "Pending"}}
    _check(pod)
    return pod


def _check(pod: Obj) -> None:
    info = SCHEME.named("pods")
    try:
        defaults.apply(info, pod)
        faults = validation.create(info, pod)
    except (TypeError, KeyError, AttributeError, ValueError) as err:  # of a shape no pod has
        raise ManifestError(f"not a pod: {err}") from err
    if faults:
        raise ManifestError("; ".join(f"{fault.field}: {fault.message}" for fault in faults))


def mirror_of(pod: Obj, node: Obj) -> Obj:
    """What the API is told of a static pod; it goes with its node."""
    meta = {k: v for k, v in pod["metadata"].items() if k in ("name", "namespace", "labels")}
    meta["annotations"] = {**pod["metadata"]["annotations"], MIRROR: pod["metadata"]["uid"]}
    owner = {"apiVersion": "v1", "kind": "Node", "metadata": node["metadata"]}
    meta["ownerReferences"] = [owner_reference(owner)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod["spec"]}
