"""Which provider a cluster has, and what it offers: the one table that knows them all.

Nothing is asked of the provider when it is made. Which there are is said in `cluster.machine.cloud_choice`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.api.volumes import BLOCK, EBS, LOCAL_PATH
from cluster.cloud.local import LocalProvider
from cluster.cloud.local_balancers import AddressPool
from cluster.cloud.local_paths import LocalPathDisks
from cluster.machine import cloud_choice
from cluster.machine.config import ClusterConfig
from cluster.machinery.client import Obj
from cluster.machinery.provider import Disks, Instances, LoadBalancers, Routes

NodeOf = Callable[[str], Obj | None]


@dataclass(frozen=True, slots=True)
class Cloud:
    """What controllers are given of a provider. `disks` by CSI driver."""

    disks: Mapping[str, Disks] = field(default_factory=dict)
    balancers: LoadBalancers | None = None
    instances: Instances | None = None
    routes: Routes | None = None


def open_cloud(config: ClusterConfig, local: LocalProvider, node_of: NodeOf) -> Cloud:
    """Raises ValueError saying what is wrong with the settings."""
    if why := cloud_choice.problem(config.cloud_provider, config.aws):
        raise ValueError(why)
    directories = LocalPathDisks(f"{config.base_dir}/machines/{{node}}/local-path")
    disks: dict[str, Disks] = {BLOCK: local, LOCAL_PATH: directories}
    balancers: LoadBalancers = AddressPool(config.load_balancer_addresses)
    if not config.aws:
        return Cloud(disks, balancers)
    return _aws(config, disks, balancers, local, node_of)


def _aws(
    config: ClusterConfig, disks: dict[str, Disks], balancers: LoadBalancers, local: LocalProvider, node_of: NodeOf
) -> Cloud:
    """Volumes wherever AWS is configured; Nodes, load balancers and routes only where it is the provider."""
    from cluster.cloud.aws.api import Aws, AwsConfig
    from cluster.cloud.aws.balancers import AwsLoadBalancers
    from cluster.cloud.aws.ebs import EbsDisks
    from cluster.cloud.aws.instances import AwsInstances
    from cluster.cloud.aws.routes import AwsRoutes

    settings = AwsConfig.from_settings({"cluster_name": config.name, **config.aws})
    aws = Aws(settings)
    disks = {**disks, EBS: EbsDisks(aws, node_of, local if settings.block_backed else None)}
    if config.cloud_provider != "aws":
        return Cloud(disks, balancers)
    return Cloud(disks, AwsLoadBalancers(aws), AwsInstances(aws), AwsRoutes(aws, config.pod_cidr))
