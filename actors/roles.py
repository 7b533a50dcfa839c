"""Which parts run on which machine. Pure.

Every machine has a Kubelet and a Proxy; every control plane a State and an ApiServer besides. Scheduler, Controllers
and Supervisor need one leader and one warm standby, so they run on the last two control planes: Ray's head, which is
the first, is the machine with the most to do already.
"""

from __future__ import annotations

from typing import Literal

from cluster.machine.config import ClusterConfig

Role = Literal["state", "apiserver", "scheduler", "controllers", "supervisor", "kubelet", "proxy"]

LEADERS = 2


def roles_of(machine: str, config: ClusterConfig) -> tuple[Role, ...]:
    """The machine's parts, in the order in which they are best started."""
    planes = [spec.name for spec in config.control_planes]
    roles: list[Role] = []
    if machine in planes:
        roles += ["state", "apiserver"]
    if machine in planes[-LEADERS:]:
        roles += ["scheduler", "controllers", "supervisor"]
    return (*roles, "kubelet", "proxy")


def actor_name(role: Role, machine: str) -> str:
    return f"{role}-{machine}"
