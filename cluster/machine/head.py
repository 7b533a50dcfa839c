"""Which machine is Ray's head. Pure, but for the record: a small file on each machine's disk.

The configuration names the first head (generation 0). When that machine stays silent, the leading Supervisor gives the
role to another control plane: one transaction under its lease, with the next generation, so there is one head a
generation. It tells every machine; each believes the highest generation it heard of and writes it down, and a machine
that believes to be the head asks the others when it boots. A head that was cut off meanwhile goes on for itself, which
harms nobody: Ray's metadata is disposable, and what its actors may do is decided by the store. When it hears of its
successor it joins as a worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from cluster.machine.config import ClusterConfig
from cluster.machine.files import write_atomic
from cluster.machine.machine_config import MachineConfig

log = logging.getLogger(__name__)

ANSWERED_S = 15.0
"""Who answered within that time may become the head."""


@dataclass(frozen=True, slots=True)
class Head:
    machine: str
    generation: int = 0

    @classmethod
    def of(cls, raw: Any, names: Sequence[str]) -> Head | None:
        """From JSON; None for what names no control plane."""
        try:
            head = cls(str(raw["machine"]), int(raw["generation"]))
        except (KeyError, TypeError, ValueError):
            return None
        return head if head.machine in names and head.generation >= 0 else None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def successor(
    head: Head, planes: Sequence[str], last_heard: Mapping[str, float], now: float, patience_s: float
) -> Head | None:
    """Who follows a head that has been silent for `patience_s`; None when it has not, or nobody can.

    `last_heard`: when each machine's sk8-machine answered last, on the clock of `now`. The next control plane in the
    order of the configuration, so that two who decide from the same sights decide alike.
    """
    if patience_s <= 0 or now - last_heard.get(head.machine, now) < patience_s:
        return None
    at = planes.index(head.machine) if head.machine in planes else -1
    for name in (*planes[at + 1 :], *planes[: max(at, 0)]):
        if name in last_heard and now - last_heard[name] < ANSWERED_S:
            return Head(name, head.generation + 1)
    return None


def effective(config: ClusterConfig, head: Head) -> ClusterConfig:
    """The configuration with the head that is, instead of the first one."""
    return replace(config, ray_head=head.machine)


def _file(machine: MachineConfig) -> Path:
    return machine.disk / "ray-head.json"


def _read(config: ClusterConfig, machine: MachineConfig) -> Head:
    names = [spec.name for spec in config.control_planes]
    try:
        found = Head.of(orjson.loads(_file(machine).read_bytes()), names)
    except (OSError, orjson.JSONDecodeError):
        found = None
    return found or Head(config.ray_head)


def current(config: ClusterConfig, machine: MachineConfig) -> ClusterConfig:
    """`config` as that machine knows it now: for its short-lived helpers."""
    return effective(config, _read(config, machine))


def newest(config: ClusterConfig) -> Head:
    """Of all machines' records on this box (local machines' disks are directories)."""
    records = [_read(config, config.machine(spec.name)) for spec in config.machines]
    return max(records, key=lambda head: head.generation)


class HeadRecord:
    """What this machine believes; `changed` is set when it learns better."""

    def __init__(self, config: ClusterConfig, machine: MachineConfig) -> None:
        self._config = config
        self._machine = machine
        self.head = _read(config, machine)
        self.changed = asyncio.Event()

    @property
    def config(self) -> ClusterConfig:
        return effective(self._config, self.head)

    def learn(self, raw: Any) -> None:
        """From what another machine said; only a higher generation is news."""
        head = Head.of(raw, [spec.name for spec in self._config.control_planes])
        if head is None or head.generation <= self.head.generation:
            return
        log.warning(
            "Ray's head is %s now, no longer %s (generation %d)", head.machine, self.head.machine, head.generation
        )
        write_atomic(_file(self._machine), orjson.dumps(head.to_json()))
        self.head = head
        self.changed.set()
