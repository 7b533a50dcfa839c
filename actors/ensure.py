"""Make this machine's actors exist: a short-lived Ray driver that sk8-machine runs when its raylet is up.

    python -m actors.ensure --machine m1 --base /var/lib/sk8          exit 0: all there; 1: not yet, try again
    python -m actors.ensure --machine m1 --base /var/lib/sk8 --stop   stop them in good order, for a planned stop

Level-based: it creates what is missing and leaves what is there. Actors are detached, restarted by Ray without limit,
and pinned by the machine's own custom resource, which follows a raylet that comes back under another node id.
Each machine makes its own actors, so there is nothing to place from afar and a rebuilt Ray fills up by itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray

from actors import ray_nodes
from actors.part import CLASSES
from cluster.machine import head
from cluster.machine.config import ClusterConfig, load_cluster
from cluster.machine.machine_config import MachineConfig, load_machine
from cluster.machine.roles import Role, actor_name, roles_of

NAMESPACE = "sk8"
START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 8.0


def connect(cluster: ClusterConfig, machine: MachineConfig) -> None:
    """Join Ray as a driver through this machine's raylet."""
    ray.init(
        address=cluster.gcs_address,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address=machine.ip,
    )


def forget_earlier_lives(cluster: ClusterConfig, machine: MachineConfig) -> None:
    """What Ray still believes of this machine from before it was restarted."""
    own = ray.get_runtime_context().get_node_id()
    token = machine.ray_token.read_text().strip()
    for node_id in ray_nodes.forget_earlier_lives(cluster.gcs_address, token, machine.name, own):
        print(f"told Ray that node {node_id} is no more", file=sys.stderr)


def create(role: Role, machine: MachineConfig) -> Any:
    """The role's actor on this machine, made if it is missing."""
    options = {
        "name": actor_name(role, machine.name),
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_concurrency": 4,
        "num_cpus": 0,
        "resources": {machine.ray_resource: 1},
    }
    return ray.remote(CLASSES[role]).options(**options).remote(role, machine.name, machine.base_dir)


def ensure(cluster: ClusterConfig, machine: MachineConfig) -> bool:
    """Whether every actor of this machine answers within the time-out."""
    forget_earlier_lives(cluster, machine)
    calls = {create(role, machine).health.remote(): role for role in roles_of(machine.name, cluster)}
    waiting, deadline, ok = list(calls), time.monotonic() + START_TIMEOUT_S, True
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=max(deadline - time.monotonic(), 0.1))
        if not ready:
            print(f"no answer from {', '.join(calls[call] for call in waiting)}", file=sys.stderr)
            return False
        for call in ready:
            try:
                ray.get(call)
            except ray.exceptions.RayError as error:
                print(f"{calls[call]}: {str(error).splitlines()[0]}", file=sys.stderr)
                ok = False
    return ok


def stop(cluster: ClusterConfig, machine: MachineConfig) -> bool:
    """Stop every part in good order (leadership handed over, disks synced), then let Ray forget the actors."""
    actors = {}
    for role in roles_of(machine.name, cluster):
        try:
            actors[role] = ray.get_actor(actor_name(role, machine.name))
        except ValueError:
            continue
    stopping: list[Any] = [actor.stop.remote(STOP_TIMEOUT_S) for actor in actors.values()]
    if stopping:
        ray.wait(stopping, num_returns=len(stopping), timeout=STOP_TIMEOUT_S + 2)
    for actor in actors.values():
        ray.kill(actor, no_restart=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m actors.ensure", description=__doc__)
    parser.add_argument("--machine", required=True)
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--stop", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    machine = load_machine(args.base, args.machine)
    cluster = head.current(load_cluster(args.base), machine)
    connect(cluster, machine)
    work = stop if args.stop else ensure
    return 0 if work(cluster, machine) else 1


if __name__ == "__main__":
    sys.exit(main())
