"""Writes of pods/ephemeralcontainers and pods/resize: one part of the new pod is taken, the rest stays as it was.

Pure, in place on the registry's own tree. Source: pkg/registry/core/pod/strategy.go.
"""

from __future__ import annotations

import copy
from typing import Any

Object = dict[str, Any]

SUBRESOURCES = ("ephemeralcontainers", "resize")


def take_part(new: Object, old: Object, subresource: str) -> None:
    """Make `new` what `old` is, but for the subresource's part."""
    given = new.get("spec") or {}
    version = new["metadata"].get("resourceVersion")
    for key in list(new):
        if key not in ("kind", "apiVersion"):
            del new[key]
    for key, value in old.items():
        new[key] = copy.deepcopy(value)
    new["metadata"].pop("resourceVersion", None)
    if version:
        new["metadata"]["resourceVersion"] = version
    if subresource == "ephemeralcontainers":
        if given.get("ephemeralContainers"):
            new["spec"]["ephemeralContainers"] = given["ephemeralContainers"]
        else:
            new["spec"].pop("ephemeralContainers", None)
        return
    for field in ("containers", "initContainers"):
        wanted = {c.get("name"): c for c in given.get(field) or ()}
        for container in new["spec"].get(field) or ():
            if container["name"] in wanted:
                container["resources"] = wanted[container["name"]].get("resources") or {}
