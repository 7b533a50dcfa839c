"""What a load balancer of AWS should be, whichever kind it is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "service.beta.kubernetes.io/aws-load-balancer-"
TYPE = PREFIX + "type"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a Service asks for. `health_port`: its healthCheckNodePort, 0 where its node ports are what is asked."""

    name: str
    service: str
    ports: tuple[tuple[str, int, int], ...]  # protocol, port, node port
    instances: frozenset[str]
    subnets: tuple[str, ...]
    internal: bool
    sources: tuple[str, ...]
    health_port: int = 0
