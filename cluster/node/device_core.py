"""Which devices of the machine belong to which container.

Pure. A resource (`nvidia.com/gpu`) has devices, healthy or not; a container that asks for n of it gets n healthy ones
for as long as its pod lives, the same again after a restart. An init container that is over shares its devices with
the containers of its pod that come after it, so a device may have several holders of one pod, of which one runs.
Source: Kubernetes' device manager (KEP-3573): capacity counts all devices, allocatable the healthy ones; a resource
whose plugin is gone keeps its capacity as 0 allocatable.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.api.pods import is_extended
from cluster.api.quantity import parse_quantity

Obj = dict[str, Any]
Holder = tuple[str, str]  # pod uid, container


class NoDevices(Exception):
    """There are fewer healthy devices free than a container asks for."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a container gets with its devices (ContainerAllocateResponse)."""

    envs: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[tuple[str, str, bool], ...] = ()  # container path, host path, read-only
    devices: tuple[tuple[str, str, str], ...] = ()  # container path, host path, permissions


@dataclass(slots=True)
class DeviceTable:
    """`health`: by resource, each device's id and whether it is healthy. `held`: by resource, each holder's devices."""

    health: dict[str, dict[str, bool]] = field(default_factory=dict)
    held: dict[str, dict[Holder, list[str]]] = field(default_factory=dict)

    def announce(self, resource: str, devices: Mapping[str, bool]) -> bool:
        """A plugin's list; whether something changed."""
        changed = self.health.get(resource) != dict(devices)
        self.health[resource] = dict(devices)
        return changed

    def lose(self, resource: str) -> bool:
        """The plugin is gone: nothing more is given out, what containers have stays theirs."""
        known = self.health.get(resource) or {}
        return self.announce(resource, dict.fromkeys(known, False))

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """(capacity, allocatable) by resource."""
        capacity = {resource: len(devices) for resource, devices in self.health.items()}
        return capacity, {resource: sum(devices.values()) for resource, devices in self.health.items()}

    def take(self, holder: Holder, resource: str, count: int, ended: Collection[str] = ()) -> list[str]:
        """The devices of a container: those it has, then healthy ones of its pod's `ended` containers, then free ones,
        up to `count`. Raises NoDevices.
        """
        held = self.held.setdefault(resource, {})
        over = {(holder[0], name) for name in ended}
        left = {device for who in over for device in held.get(who, ())}
        kept = {device for who, devices in held.items() if who not in over for device in devices}
        healthy = (device for device, ok in (self.health.get(resource) or {}).items() if ok)
        free = sorted((device not in left, device) for device in healthy if device not in kept)
        own = held.get(holder, [])
        missing = max(count - len(own), 0)
        if missing > len(free):
            why = (
                f"requested number of devices unavailable for {resource}. Requested: {missing}, Available: {len(free)}"
            )
            raise NoDevices(why)
        if missing:
            held[holder] = own = own + [device for _, device in free[:missing]]
        return list(own)

    def free(self, uid: str) -> None:
        """All of a pod's."""
        for resource, held in self.held.items():
            self.held[resource] = {who: devices for who, devices in held.items() if who[0] != uid}

    def to_json(self) -> Obj:
        """By resource: [pod uid, container, devices] of each holder."""
        return {r: [[*who, devices] for who, devices in held.items()] for r, held in self.held.items() if held}

    def recall(self, saved: Mapping[str, Any], living: Iterable[str]) -> None:
        """What an earlier kubelet had given out (to_json), for the pods that are still here. Raises ValueError,
        TypeError or AttributeError for what is of another shape.
        """
        alive = set(living)
        for resource, held in saved.items():
            self.held[resource] = {
                (uid, name): [str(d) for d in devices] for uid, name, devices in held if uid in alive
            }


def ended_before(pod: Obj, container: str) -> list[str]:
    """The init containers that are over when a container starts: all before it in order, but sidecars, which go on."""
    inits = itertools.takewhile(lambda init: init["name"] != container, pod["spec"].get("initContainers") or ())
    return [init["name"] for init in inits if init.get("restartPolicy") != "Always"]


def requested(container: Obj) -> dict[str, int]:
    """Extended resources that a container asks for; their limits are their requests."""
    limits = (container.get("resources") or {}).get("limits") or {}
    return {k: int(parse_quantity(v)) for k, v in sorted(limits.items()) if is_extended(k)}
