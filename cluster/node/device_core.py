"""Which devices of the machine belong to which container.

Pure. A resource (`nvidia.com/gpu`) has devices, healthy or not; a container that asks for n of it gets n healthy ones
for as long as its pod lives, the same again after a restart. Source: Kubernetes' device manager (KEP-3573): capacity
counts all devices, allocatable the healthy ones; a resource whose plugin is gone keeps its capacity as 0 allocatable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
    """`health`: by resource, each device's id and whether it is healthy. `held`: by resource, who has which device."""

    health: dict[str, dict[str, bool]] = field(default_factory=dict)
    held: dict[str, dict[str, Holder]] = field(default_factory=dict)

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

    def take(self, holder: Holder, resource: str, count: int) -> list[str]:
        """The devices of a container: those it has, and free healthy ones up to `count`. Raises NoDevices."""
        held = self.held.setdefault(resource, {})
        own = sorted(device for device, who in held.items() if who == holder)
        healthy = self.health.get(resource) or {}
        free = sorted(device for device, ok in healthy.items() if ok and device not in held)
        missing = count - len(own)
        if missing > len(free):
            why = (
                f"requested number of devices unavailable for {resource}. Requested: {missing}, Available: {len(free)}"
            )
            raise NoDevices(why)
        for device in free[: max(missing, 0)]:
            held[device] = holder
        return own + free[: max(missing, 0)]

    def free(self, uid: str) -> bool:
        """All of a pod's; whether it had any."""
        had = False
        for resource, held in self.held.items():
            kept = {device: who for device, who in held.items() if who[0] != uid}
            had = had or len(kept) != len(held)
            self.held[resource] = kept
        return had

    def to_json(self) -> Obj:
        return {resource: {d: list(who) for d, who in held.items()} for resource, held in self.held.items() if held}

    def recall(self, saved: Mapping[str, Any], living: Iterable[str]) -> None:
        """What an earlier kubelet had given out, for the pods that are still here."""
        alive = set(living)
        for resource, held in saved.items():
            kept = {device: (str(uid), str(name)) for device, (uid, name) in held.items() if uid in alive}
            self.held[resource] = kept


def requested(container: Obj) -> dict[str, int]:
    """Extended resources that a container asks for; their limits are their requests."""
    limits = (container.get("resources") or {}).get("limits") or {}
    return {k: int(v) for k, v in sorted(limits.items()) if "/" in k and not k.startswith("kubernetes.io/")}
