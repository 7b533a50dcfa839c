"""A cluster of local machines takes another worker, or gives one up: its configuration before, and after. Pure.

Workers alone: control planes are members of the store, and every part knows their addresses from its start. Nothing
that runs has to hear of a worker: it joins as at its first boot, and the others learn its address from its Node.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from itertools import count

from cluster.machine.config import ClusterConfig, MachineSpec
from cluster.machine.config_json import ConfigError
from cluster.machine.machine_config import DEFAULT_ZONE

_FIRST_HOST = 11
"""As `ClusterConfig.local` counts."""


def with_worker(config: ClusterConfig, name: str = "", zone: str = "") -> ClusterConfig:
    """With one more machine, the last of `machines`. Raises ConfigError: that is no free name, or there is no room."""
    taken = {m.name for m in config.machines}
    if name in taken:
        raise ConfigError(f"there is a machine {name} already; when it is off, sk8 machine start {name} boots it")
    named = name or next(free for n in count(len(taken) + 1) if (free := f"m{n}") not in taken)
    spec = MachineSpec(named, _free_address(config), False, zone or DEFAULT_ZONE)
    return replace(config, machines=(*config.machines, spec)).validate()


def without_worker(config: ClusterConfig, name: str) -> ClusterConfig:
    """Raises ConfigError: it is none, or a control plane."""
    spec = config.spec(name)
    if spec.control_plane:
        raise ConfigError(f"{name} is a control plane: a cluster keeps as many as it was made with")
    return replace(config, machines=tuple(m for m in config.machines if m is not spec))


def _free_address(config: ClusterConfig) -> str:
    """The first one of the machines' network that is neither a machine's nor for a Service of type LoadBalancer."""
    network = ipaddress.IPv4Network(config.node_cidr)
    used = {config.host_ip, *(m.ip for m in config.machines), *config.load_balancer_addresses}
    for number in range(_FIRST_HOST, network.num_addresses - 1):
        address = str(network.network_address + number)
        if address not in used:
            return address
    raise ConfigError(f"no address of node_cidr {network} is free for another machine")
