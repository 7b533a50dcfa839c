"""Volumes, claims and classes.

Pure. Source: pkg/api/persistentvolume/util.go, pkg/api/persistentvolumeclaim/util.go, pkg/api/storage/util.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.api.quantity import parse_quantity
from cluster.api.validation.advice import nodes

Object = dict[str, Any]

_MAYBE_FRACTION = re.compile("[.eEmun]")
_BETA_MOUNT = "volume.beta.kubernetes.io/mount-options"
_BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
_USE_CLASS_NAME = 'deprecated since v1.8; use "storageClassName" attribute instead'
_GONE_PLUGINS = {
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "gitRepo": "deprecated in v1.11",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
}
_OF_PERSISTENT = ("cephfs", "photonPersistentDisk", "scaleIO", "storageos", "glusterfs", "rbd")
_SHOWN = {"storageos": "storageOS"}
_RECYCLE = (
    "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach "
    "is to use dynamic provisioning."
)


def gone_plugins(
    path: str, volume: Mapping[str, Any], plugins: tuple[str, ...] = tuple(_GONE_PLUGINS)
) -> Iterator[str]:
    """Of a volume, or of a PersistentVolume's spec."""
    for plugin in plugins:
        if volume.get(plugin) is not None:
            yield f"{path}.{_SHOWN.get(plugin, plugin)}: {_GONE_PLUGINS[plugin]}"


def fraction(path: str, amounts: Mapping[str, Any] | None, resource: str) -> Iterator[str]:
    """Bytes do not come in parts."""
    amount = str((amounts or {}).get(resource, ""))
    if _MAYBE_FRACTION.search(amount) and parse_quantity(amount).denominator != 1:
        yield f'{path}[{resource}]: fractional byte value "{amount}" is invalid, must be an integer'


def claim_spec(path: str, spec: Object) -> Iterator[str]:
    resources = spec.get("resources") or {}
    for field in ("requests", "limits"):
        yield from fraction(f"{path}.resources.{field}", resources.get(field), "storage")


def _beta_class(metadata: Object) -> Iterator[str]:
    if _BETA_CLASS in (metadata.get("annotations") or {}):
        yield f"metadata.annotations[{_BETA_CLASS}]: {_USE_CLASS_NAME}"


def claim(new: Object, old: Object | None) -> Iterator[str]:
    yield from _beta_class(new["metadata"])
    yield from claim_spec("spec", new.get("spec") or {})


def volume(new: Object, old: Object | None) -> Iterator[str]:
    spec = new.get("spec") or {}
    yield from _beta_class(new["metadata"])
    if _BETA_MOUNT in (new["metadata"].get("annotations") or {}):
        yield f'metadata.annotations[{_BETA_MOUNT}]: deprecated since v1.31; use "mountOptions" attribute instead'
    if spec.get("persistentVolumeReclaimPolicy") == "Recycle":
        yield _RECYCLE
    terms = ((spec.get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or ()
    yield from nodes.selector_terms("spec.nodeAffinity.required.nodeSelectorTerms", terms)
    yield from gone_plugins("spec", spec, _OF_PERSISTENT)


def storage_class(new: Object, old: Object | None) -> Iterator[str]:
    for i, term in enumerate(new.get("allowedTopologies") or ()):
        for j, expression in enumerate(term.get("matchLabelExpressions") or ()):
            path = f"allowedTopologies[{i}].matchLabelExpressions[{j}].key"
            yield from nodes.outdated_key(path, expression.get("key", ""))


def capacity(new: Object, old: Object | None) -> Iterator[str]:
    yield from nodes.label_selector("nodeTopology", new.get("nodeTopology") or {})
