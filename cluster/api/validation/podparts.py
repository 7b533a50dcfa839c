"""Validation of what may change in a running pod through a subresource of its own: ephemeral containers, resources; and
of what may not: being a mirror.

Pure. Source: pkg/apis/core/validation (ValidatePodEphemeralContainersUpdate, ValidatePodResize).
"""

from __future__ import annotations

from typing import Any

from cluster.api import pods as pod_facts
from cluster.api.validation import pods
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

_AT = "spec.ephemeralContainers"
_NOT_EPHEMERAL = ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy")
_RESIZABLE = ("cpu", "memory")
_MIRROR = "kubernetes.io/config.mirror"


def validate_mirror(faults: Faults, new: Object, old: Object) -> None:
    """A pod is a static pod's mirror from its first moment on or never: its kubelet takes a mirror for its own."""
    before, after = ((o["metadata"].get("annotations") or {}).get(_MIRROR) for o in (old, new))
    if before != after:
        what = "add" if before is None else "remove or update"
        faults.forbidden(f"metadata.annotations[{_MIRROR}]", f"may not {what} mirror pod annotation")


def _by_name(pod: Object, field: str) -> dict[str, Object]:
    return {c.get("name", ""): c for c in pod["spec"].get(field) or ()}


def validate_ephemeral_update(faults: Faults, new: Object, old: Object) -> None:
    """Ephemeral containers come, never change and never go."""
    if pod_facts.is_static(old):
        faults.forbidden("", "static pods do not support ephemeral containers")
        return
    before, after = _by_name(old, "ephemeralContainers"), _by_name(new, "ephemeralContainers")
    for name, was in before.items():
        if name not in after:
            faults.forbidden(_AT, f'existing ephemeral containers "{name}" may not be removed\n')
        elif after[name] != was:
            faults.forbidden(_AT, f'existing ephemeral containers "{name}" may not be changed\n')
    validate_ephemeral(faults, new)


def validate_ephemeral(faults: Faults, pod: Object) -> None:
    others = {**_by_name(pod, "containers"), **_by_name(pod, "initContainers")}
    volumes = {v.get("name", "") for v in pod["spec"].get("volumes") or ()}
    names: set[str] = set(others)
    for i, c in enumerate(pod["spec"].get("ephemeralContainers") or ()):
        at, name = f"{_AT}[{i}]", c.get("name", "")
        if name in names:
            faults.duplicate(at + ".name", name)
        names.add(name)
        for field in _NOT_EPHEMERAL:
            if c.get(field):
                faults.forbidden(f"{at}.{field}", "cannot be set for an Ephemeral Container")
        if c.get("resources"):
            faults.forbidden(at + ".resources", "cannot be set for an Ephemeral Container")
        target = c.get("targetContainerName")
        if target and target not in others:
            faults.not_found(at + ".targetContainerName", target)
        for j, mount in enumerate(c.get("volumeMounts") or ()):
            if mount.get("subPath"):
                faults.forbidden(f"{at}.volumeMounts[{j}].subPath", "cannot be set for an Ephemeral Container")
        pods.validate_container(faults, at, c, volumes, pod["spec"])


def _without_resizable(pod: Object) -> Object:
    """The spec with every amount that a resize may change taken out."""
    spec = dict(pod["spec"])
    for field in ("containers", "initContainers"):
        spec[field] = [{**c, "resources": _rest(c.get("resources") or {})} for c in spec.get(field) or ()]
    return spec


def _rest(resources: Object) -> Object:
    out = {k: v for k, v in resources.items() if k not in ("requests", "limits")}
    for kind in ("requests", "limits"):
        kept = {k: v for k, v in (resources.get(kind) or {}).items() if k not in _RESIZABLE}
        if kept:
            out[kind] = kept
    return out


def validate_resize(faults: Faults, new: Object, old: Object) -> None:
    if pod_facts.is_static(old):
        faults.forbidden("", "static pods cannot be resized")
        return
    if _without_resizable(new) != _without_resizable(old):
        faults.forbidden("spec", "only cpu and memory resources are mutable")
        return
    if pod_facts.qos_class(new) != pod_facts.qos_class(old):
        why = "Pod QOS Class may not change as a result of resizing"
        faults.invalid("spec", pod_facts.qos_class(new), why)
    for field in ("containers", "initContainers"):
        before = _by_name(old, field)
        for i, c in enumerate(new["spec"].get(field) or ()):
            at = f"spec.{field}[{i}].resources"
            pods.resources(faults, at, c.get("resources") or {})
            for kind in ("requests", "limits"):
                had = ((before.get(c.get("name", "")) or {}).get("resources") or {}).get(kind) or {}
                lost = [r for r in had if r in _RESIZABLE and r not in ((c.get("resources") or {}).get(kind) or {})]
                if lost:
                    faults.forbidden(f"{at}.{kind}", f"resource {kind} cannot be removed")
