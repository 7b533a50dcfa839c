"""Fields of a pod that it sees itself, in variables and files (pkg/apis/core/validation, core/pods helpers).

Pure.
"""

from __future__ import annotations

import re
from typing import Any

from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_OF_FILES = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
_OF_VARIABLES = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
)  # fmt: skip
_OLD_NODE_NAME = "spec.host"
_KNOWN = frozenset(
    (*_OF_FILES, *_OF_VARIABLES, _OLD_NODE_NAME, "spec.hostNetwork", "spec.restartPolicy", "spec.schedulerName",
     "status.nominatedNodeName", "status.phase")
)  # fmt: skip
_RESOURCES = tuple(
    f"{field}.{name}" for field in ("limits", "requests") for name in ("cpu", "ephemeral-storage", "memory")
)
_SUBSCRIPT = re.compile(r"(metadata\.(?:annotations|labels))\['(.+)'\]")


def validate_source(faults: Faults, at: str, source: Object) -> None:
    """A variable's valueFrom."""
    if "fieldRef" in source:
        _field(faults, at + ".fieldRef", source["fieldRef"], _OF_VARIABLES)
    if "resourceFieldRef" in source:
        _resource(faults, at + ".resourceFieldRef", source["resourceFieldRef"])


def validate_files(faults: Faults, at: str, items: list[Object]) -> None:
    for i, item in enumerate(items):
        where = f"{at}[{i}]"
        both = item.get("fieldRef") is not None, item.get("resourceFieldRef") is not None
        if all(both):
            why = "fieldRef and resourceFieldRef can not be specified simultaneously"
            faults.invalid(where, "resource", why)
        elif both[0]:
            _field(faults, where + ".fieldRef", item["fieldRef"], _OF_FILES)
        elif both[1]:
            if not item["resourceFieldRef"].get("containerName"):
                faults.required(where + ".resourceFieldRef.containerName")
            _resource(faults, where + ".resourceFieldRef", item["resourceFieldRef"])
        else:
            faults.required(where, "one of fieldRef and resourceFieldRef is required")


def _field(faults: Faults, at: str, ref: Object, allowed: tuple[str, ...]) -> None:
    path = ref.get("fieldPath") or ""
    if not path:
        faults.required(at + ".fieldPath")
        return
    if _SUBSCRIPT.fullmatch(path):
        return
    if path not in _KNOWN:
        faults.invalid(at + ".fieldPath", path, f"error converting fieldPath: field label not supported: {path}")
    elif path != _OLD_NODE_NAME or allowed is _OF_FILES:
        faults.enum(at + ".fieldPath", path, allowed)


def _resource(faults: Faults, at: str, ref: Object) -> None:
    name = ref.get("resource") or ""
    if not name:
        faults.required(at + ".resource")
    elif not name.startswith(("limits.hugepages-", "requests.hugepages-")):
        faults.enum(at + ".resource", name, _RESOURCES)
