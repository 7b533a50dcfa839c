"""All controllers in one world, killed right after their n-th write, and their successors, who start from the store.

A kill is final: what the dead instance still had under way writes nothing any more, and all it knew is gone. Successors
are new objects over the same store, as a standby's process is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from cluster.api.errors import internal
from cluster.cloud.local_balancers import AddressPool
from cluster.controllers.env import Outside
from cluster.controllers.manager import CONTROLLERS
from cluster.machinery.client import Client, Obj
from tests.support.controller_world import World

_WRITES = ("create", "create_all", "update", "patch", "delete", "bind")
_RANDOM = re.compile(r"-(?:[bcdfghjklmnpqrstvwxz2456789]{5}|[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64})$")
"""Of a pod of a template, a volume of a claim, an attachment."""
_COUNTS = ("replicas", "readyReplicas", "availableReplicas", "updatedReplicas", "succeeded", "failed", "active",
           "numberReady", "updatedNumberScheduled", "desiredNumberScheduled", "completedIndexes", "failedIndexes",
           "disruptionsAllowed", "phase", "loadBalancer", "used")  # fmt: skip
_SHOWN = ("pods", "replicasets.apps", "deployments.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch",
          "controllerrevisions.apps", "persistentvolumeclaims", "services", "endpoints", "namespaces", "configmaps",
          "endpointslices.discovery.k8s.io", "serviceaccounts", "poddisruptionbudgets.policy",
          "resourcequotas", "replicationcontrollers", "cronjobs.batch", "persistentvolumes", "nodes",
          "volumeattachments.storage.k8s.io", "clusterroles.rbac.authorization.k8s.io",
          "servicecidrs.networking.k8s.io")  # fmt: skip

Step = Callable[[World], Awaitable[None]]


class Killed(BaseException):
    """Nobody handles it: the process is gone."""


class Life:
    """Ends with the `last` write (Events do not count); 0 is for ever."""

    def __init__(self, last: int = 0) -> None:
        self._last = last
        self.writes = 0
        self.dead = False

    def wrap(self, client: Client) -> Any:
        life = self

        class Mortal:
            def __getattr__(self, name: str) -> Any:
                inner = getattr(client, name)
                if name == "watch":
                    return inner

                async def call(*args: Any, **kwargs: Any) -> Any:
                    if life.dead and args[0] == "events":
                        raise internal("its task may still run, and nobody hears of its end")
                    if life.dead:
                        raise Killed
                    result = await inner(*args, **kwargs)
                    if name in _WRITES and args[0] != "events":
                        life.writes += 1
                        if life.writes == life._last:
                            life.dead = True
                            raise Killed
                    return result

                return call

        return Mortal()


async def play(steps: list[Step], last: int = 0) -> tuple[list[Counter[str]], int]:
    """What is at rest after each step, and how many writes the first instance made. `last`: the write after which it is
    killed; its successor takes over in the middle of that step."""
    life = Life(last)
    world = _world(life)
    rests: list[Counter[str]] = []
    try:
        async with world:
            for step in steps:
                await step(world)
                rests.append(await _settled(world))
    except Killed:
        async with _world(Life(), world) as successor:
            rests.append(await _settled(successor))
            for step in steps[len(rests) :]:
                await step(successor)
                rests.append(await _settled(successor))
    return rests, life.writes


async def _settled(w: World) -> Counter[str]:
    nodes = await w.items("nodes")
    free = [n["metadata"]["name"] for n in nodes if not (n.get("spec") or {}).get("taints")]
    await w.settle_with_kubelet(nodes=sorted(free) or ("n1", "n2"))
    return await _at_rest(w)


def _world(life: Life, before: World | None = None) -> World:
    pool = AddressPool(["10.9.0.1", "10.9.0.2"])
    if before is None:
        return World(*CONTROLLERS, wrap=life.wrap, outside=Outside(balancers=pool))
    outside, provider = Outside(balancers=pool), before.provider
    return World(
        *CONTROLLERS, wrap=life.wrap, outside=outside, store=before.store, clock=before.clock, provider=provider
    )


async def _at_rest(w: World) -> Counter[str]:
    found: Counter[str] = Counter()
    for resource in _SHOWN:
        found.update(_shape(resource, obj) for obj in await w.items(resource))
    return found


def _shape(resource: str, obj: Obj) -> str:
    """What two runs must agree on: not random names, uids, times, addresses."""
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    containers = (spec.get("template") or {}).get("spec", spec).get("containers") or ()
    owners = [f"{r['kind']}/{_RANDOM.sub('', r['name'])}" for r in meta.get("ownerReferences") or ()]
    ends = sorted(f"{c['type']}={c['status']}" for c in status.get("conditions") or ())
    counts = {k: v if isinstance(v := status[k], (int, str, dict)) else len(v) for k in _COUNTS if status.get(k)}
    endpoints = len(obj.get("endpoints") or obj.get("subsets") or ())
    parts: list[Any] = [resource, meta.get("namespace", ""), _RANDOM.sub("", meta["name"]), owners, ends, counts]
    parts += [spec.get("replicas"), [c["image"] for c in containers], meta.get("finalizers"), endpoints]
    parts += [[t["key"] for t in spec.get("taints") or ()], status.get("capacity"), obj.get("rules")]
    parts += [status.get("lastScheduleTime")]
    return repr([*parts, "deletionTimestamp" in meta])
