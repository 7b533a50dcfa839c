"""The Ray actors: one class a role, all the same but for their names, which `ps` and Ray's own tools show.

Its arguments are names only: Ray persists them, so no key may be among them.
"""

from __future__ import annotations

import importlib

from actors.host import Build, Host
from cluster.machine.config import ClusterConfig, load_cluster
from cluster.machine.machine_config import MachineConfig, load_machine
from cluster.machine.roles import Role, actor_name

NICENESS: dict[Role, int] = {"state": -10, "apiserver": -5}
"""Below zero runs before containers; the store's heartbeats must not queue behind a busy pod."""


class PartActor:
    """Made by `ensure`. Loads its role's module of `actors.wiring` and no other: memory."""

    def __init__(self, role: Role, machine: str, base_dir: str) -> None:
        cluster = load_cluster(base_dir)
        own = load_machine(base_dir, machine)
        self._host = Host(
            actor_name(role, machine),
            _builder(role, cluster, own),
            log_dir=own.log_dir,
            niceness=NICENESS.get(role, 0),
        )

    def health(self) -> dict[str, object]:
        return self._host.health()

    def stop(self, timeout_s: float) -> bool:
        return self._host.stop(timeout_s)


class State(PartActor):
    pass


class ApiServer(PartActor):
    pass


class Scheduler(PartActor):
    pass


class Controllers(PartActor):
    pass


class Supervisor(PartActor):
    pass


class Kubelet(PartActor):
    pass


class Proxy(PartActor):
    pass


CLASSES: dict[Role, type[PartActor]] = {
    "state": State,
    "apiserver": ApiServer,
    "scheduler": Scheduler,
    "controllers": Controllers,
    "supervisor": Supervisor,
    "kubelet": Kubelet,
    "proxy": Proxy,
}


def _builder(role: Role, cluster: ClusterConfig, machine: MachineConfig) -> Build:
    module = importlib.import_module(f"actors.wiring.{role}")
    build: Build = lambda: module.build(cluster, machine)  # noqa: E731
    return build
