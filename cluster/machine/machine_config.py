"""What one machine knows of itself: its own `machine.json`, and where things are on its disk.

Pure, except the load and save functions at the end (atomic replace, mode 0600).

Invariant: `state_member_id` says which State member it is. Member ids are never reused: a machine whose disk was wiped
comes back with 0 and gets a new one from the members that still know the cluster.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from cluster.machine.checks import DEFAULT_PREFIX
from cluster.machine.config_json import FORMAT, ConfigError, read_object
from cluster.machine.files import write_atomic

DEFAULT_ZONE = "local"


def container_label(prefix: str, machine: str) -> str:
    """Two clusters on one box may share one container engine, and both have an m1."""
    return machine if prefix == DEFAULT_PREFIX else f"{prefix}-{machine}"


@dataclass(frozen=True, slots=True)
class StateMember:
    """One voter of the first State membership."""

    id: int
    name: str
    ip: str


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """Every path of its disk is derived from `base_dir`.

    `state_bootstrap` is true only between `sk8 up` making a new cluster and this machine's State directory being
    written for the first time: an empty directory alone never bootstraps.
    """

    name: str
    ip: str
    control_plane: bool
    index: int
    base_dir: str = "/var/lib/sk8"
    prefix: str = DEFAULT_PREFIX
    zone: str = DEFAULT_ZONE
    cluster_id: str = ""
    state_member_id: int = 0
    state_members: tuple[StateMember, ...] = ()
    state_bootstrap: bool = False

    @property
    def disk(self) -> Path:
        return Path(self.base_dir) / "machines" / self.name

    @property
    def pki(self) -> Path:
        return self.disk / "pki"

    @property
    def state_dir(self) -> Path:
        return self.disk / "state"

    @property
    def kubelet_dir(self) -> Path:
        return self.disk / "kubelet"

    @property
    def ray_dir(self) -> Path:
        return self.disk / "ray"

    @property
    def log_dir(self) -> Path:
        return self.disk / "log"

    @property
    def ray_token(self) -> Path:
        return self.pki / "ray.token"

    @property
    def netns(self) -> str:
        return f"{self.prefix}-{self.name}"

    @property
    def container_label(self) -> str:
        """Value of `sk8.machine` on this machine's containers: its name; with the prefix in a second cluster."""
        return container_label(self.prefix, self.name)

    @property
    def ray_resource(self) -> str:
        """The custom resource that pins an actor to this machine."""
        return f"sk8:{self.name}"

    def to_json(self) -> bytes:
        return orjson.dumps({"format": FORMAT, **asdict(self)}, option=orjson.OPT_INDENT_2) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> MachineConfig:
        raw = read_object(data, "machine.json", cls)
        raw["state_members"] = tuple(StateMember(**member) for member in raw.get("state_members", ()))
        return cls(**raw)


def load_machine(base_dir: str | Path, name: str) -> MachineConfig:
    """Raises FileNotFoundError when that machine's disk is empty."""
    return MachineConfig.from_json((Path(base_dir) / "machines" / name / "machine.json").read_bytes())


def only_machine(base_dir: str | Path) -> str:
    """The name of the machine that a VM is. Raises ConfigError where there is none, or where there are several."""
    names = sorted(path.parent.name for path in (Path(base_dir) / "machines").glob("*/machine.json"))
    if len(names) != 1:
        raise ConfigError(f"{base_dir} has {len(names)} machines, not one: name it with --machine")
    return names[0]


def save_machine(machine: MachineConfig) -> None:
    write_atomic(machine.disk / "machine.json", machine.to_json())
