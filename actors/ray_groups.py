"""Machines from Ray's autoscaler: the cluster autoscaler's `NodeGroups` over `ray up`'s node types.

IO: Ray's SDK, and the cluster's file that `ray up` leaves on the head (~/ray_bootstrap_config.yaml), which says what
types there are. A type takes part when its resources have `sk8-type:<its name>: 1`: to ask for n machines of it is to
ask Ray for n of that resource, and Ray's own bin-packing cannot answer with another type. Ray takes a machine away when
nothing runs on it for idle_timeout_minutes; as sk8's actors run on every machine, only one whose actors were stopped by
`release` goes. Ray's calls block, and wait for its head: each has a deadline, and a thread of their own, so that a head
that does not answer keeps one thread and not those of the other controllers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import ray
import yaml
from ray.autoscaler.sdk import request_resources

from cluster.machine.roles import Role, actor_name
from cluster.machinery.provider import NodeType, ProviderError

_T = TypeVar("_T")
_MARK = "sk8-type:"
_MACHINE = "sk8:"
_ANSWER_S = 30.0
_WORKER_ROLES: tuple[Role, ...] = ("kubelet", "proxy")


def machine_of(node: Mapping[str, Any]) -> str:
    """The machine that a raylet is on, by its custom resource; "" for one that is no machine of ours (yet)."""
    return next((r.removeprefix(_MACHINE) for r in node["Resources"] if r.startswith(_MACHINE)), "")


def type_of(node: Mapping[str, Any]) -> str:
    return next((r.removeprefix(_MARK) for r in node["Resources"] if r.startswith(_MARK)), "")


def types_in(config: Mapping[str, Any], max_pods: int) -> list[NodeType]:
    """The types of a Ray cluster's file that take part. Raises ProviderError for one whose size it does not say."""
    found = []
    for name, kind in sorted((config.get("available_node_types") or {}).items()):
        resources = kind.get("resources") or {}
        if resources.get(_MARK + name) != 1:
            continue
        if not resources.get("CPU") or not resources.get("memory"):
            raise ProviderError(f"node type {name}: its resources must say CPU and memory, too", retriable=False)
        allocatable = {"cpu": int(resources["CPU"] * 1000), "memory": int(resources["memory"]), "pods": max_pods}
        labels = {str(k): str(v) for k, v in (kind.get("labels") or {}).items()}
        if instance := (kind.get("node_config") or {}).get("InstanceType"):
            labels["node.kubernetes.io/instance-type"] = str(instance)
        most = int(kind.get("max_workers", config.get("max_workers", 2)))
        found.append(NodeType(name, allocatable, labels, (), int(kind.get("min_workers", 0)), most))
    return found


class RayNodeGroups:
    """Fulfils NodeGroups; in a process that is part of Ray. `name_of` names the Node of a raylet."""

    def __init__(
        self,
        config_file: str,
        max_pods: int,
        *,
        name_of: Callable[[Mapping[str, Any]], str] = machine_of,
        stop: Callable[[str], None] | None = None,
    ) -> None:
        self._file = Path(config_file)
        self._max_pods = max_pods
        self._name_of = name_of
        self._stop = stop or stop_actors
        self._thread = ThreadPoolExecutor(1, "ray-autoscaler")
        self._call: Future[Any] | None = None

    async def types(self) -> Sequence[NodeType]:
        try:
            raw = yaml.safe_load(await asyncio.to_thread(self._file.read_text))
        except (OSError, yaml.YAMLError) as err:
            raise ProviderError(f"the Ray cluster's file {self._file} cannot be read: {err}") from err
        return types_in(raw or {}, self._max_pods)

    async def nodes(self) -> Mapping[str, str]:
        found = await self._ask(ray.nodes)
        alive = [n for n in found if n["Alive"] and type_of(n) and self._name_of(n)]
        return {self._name_of(n): type_of(n) for n in alive}

    async def scale(self, counts: Mapping[str, int]) -> None:
        """Ray keeps the last request until the next, also over our restart."""
        bundles = [{_MARK + name: 1} for name, count in sorted(counts.items()) for _ in range(count)]
        await self._ask(lambda: request_resources(bundles=bundles))

    async def release(self, node: str) -> None:
        await self._ask(lambda: self._stop(node))

    async def _ask(self, work: Callable[[], _T]) -> _T:
        if self._call is not None and not self._call.done():
            raise ProviderError("Ray's head has not answered the last call yet")
        self._call = call = self._thread.submit(work)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.wrap_future(call)
        except TimeoutError as err:
            raise ProviderError(f"Ray's head did not answer within {_ANSWER_S:g} s") from err
        except ray.exceptions.RayError as err:
            raise ProviderError(f"Ray: {err}") from err


def stop_actors(machine: str) -> None:
    """Those of a machine without control plane; Ray starts them no more, and finds the machine idle."""
    for role in _WORKER_ROLES:
        try:
            actor = ray.get_actor(actor_name(role, machine))
        except ValueError:
            continue
        ray.kill(actor, no_restart=True)
