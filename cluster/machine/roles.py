"""Which parts run on which machine. Pure.

Every machine has a Kubelet and a Proxy; every control plane a State and an ApiServer besides. Scheduler, Controllers
and Supervisor lead by lease, one at a time; they run on a majority of the control planes, so that one is left whenever
the store has its quorum. Counted from the last: Ray's head, which is the first, has the most to do already.
"""

from __future__ import annotations

from typing import Literal

from cluster.machine.config import ClusterConfig

Role = Literal["state", "apiserver", "scheduler", "controllers", "supervisor", "kubelet", "proxy"]


def roles_of(machine: str, config: ClusterConfig) -> tuple[Role, ...]:
    """The machine's parts, in the order in which they are best started."""
    planes = [spec.name for spec in config.control_planes]
    roles: list[Role] = []
    if machine in planes:
        roles += ["state", "apiserver"]
    if machine in planes[-(len(planes) // 2 + 1) :]:
        roles += ["scheduler", "controllers", "supervisor"]
    return (*roles, "kubelet", "proxy")


def actor_name(role: Role, machine: str) -> str:
    return f"{role}-{machine}"
