"""Users who change their minds: create, scale, roll, roll back, pause, drain and delete, at random and without waiting.

What they are told may be an error or nothing at all; they go on. Whatever the API holds in the end is what they want.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cluster.api.errors import ApiError
from cluster.machinery.client import Obj
from cluster.node.hollow.parts import RUN_SECONDS
from tests.sim.cluster_world import Sim

NAMESPACES = ("default", "team")
BRIEF = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20}
    for key in ("not-ready", "unreachable")
]


def template(app: str, image: str, run_s: float | None = None, **spec: object) -> Obj:
    meta: Obj = {"labels": {"app": app}}
    if run_s is not None:
        meta["annotations"] = {RUN_SECONDS: f"{run_s}"}
    container = {"name": "main", "image": image, "resources": {"requests": {"cpu": "100m"}}}
    return {"metadata": meta, "spec": {"containers": [container], "tolerations": BRIEF, **spec}}


def workload(name: str, image: str, **spec: object) -> Obj:
    body = {"selector": {"matchLabels": {"app": name}}, "template": template(name, image), **spec}
    return {"metadata": {"name": name}, "spec": body}


class User:
    def __init__(self, sim: Sim) -> None:
        self._sim = sim
        self._client = sim.client
        self._rng = sim.stream("what users want")
        self._acts: list[tuple[int, Callable[[], Awaitable[str]]]] = [
            (6, self._deployment),
            (4, self._stateful_set),
            (2, self._daemon_set),
            (3, self._job),
            (2, self._service),
            (2, self._budget),
            (3, self._delete_pod),
            (3, self._drain),
            (2, self._delete_something),
            (1, self._namespace),
        ]
        self.done = 0

    async def run(self) -> None:
        """Until cancelled."""
        weights = [w for w, _ in self._acts]
        while True:
            await asyncio.sleep(self._rng.uniform(0.5, 12))
            (act,) = self._rng.choices([a for _, a in self._acts], weights)
            try:
                what = await act()
            except ApiError as err:
                what = f"{act.__name__}: {err.code} {err.message}"
            self.done += 1
            self._sim.note(f"user: {what}")

    async def tidy(self) -> None:
        """No machine stays cordoned, no rollout paused: what is left has to come to rest."""
        for node in (await self._client.list("nodes")).items:
            if node["spec"].get("unschedulable"):
                await self._client.patch("nodes", node["metadata"]["name"], {"spec": {"unschedulable": None}})
        for found in (await self._client.list("deployments.apps")).items:
            if found["spec"].get("paused"):
                meta = found["metadata"]
                await self._client.patch(
                    "deployments.apps", meta["name"], {"spec": {"paused": False}}, meta["namespace"]
                )

    # ---- what they do

    def _image(self) -> str:
        return f"app:{self._rng.randint(1, 3)}"

    def _where(self) -> str:
        return self._rng.choices(NAMESPACES, (3, 1))[0]

    async def _make_or_change(self, resource: str, body: Obj, change: Obj) -> str:
        namespace, name = self._where(), body["metadata"]["name"]
        try:
            await self._client.patch(resource, name, {"spec": change}, namespace)
            return f"patch {resource} {namespace}/{name} {change}"
        except ApiError as err:
            if err.code != 404:
                raise
        await self._client.create(resource, body, namespace)
        return f"create {resource} {namespace}/{name}"

    async def _deployment(self) -> str:
        rng, name = self._rng, f"web{self._rng.randint(0, 1)}"
        strategy: Obj = rng.choice(
            [
                {"type": "Recreate", "rollingUpdate": None},
                {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": "25%"}},
            ]
        )
        change: Obj = rng.choice(
            [
                {"replicas": rng.randint(0, 5)},
                {"template": {"spec": {"containers": template(name, self._image())["spec"]["containers"]}}},
                {"strategy": strategy},
                {"paused": rng.random() < 0.5},
                {"revisionHistoryLimit": rng.randint(0, 2)},
            ]
        )
        return await self._make_or_change("deployments.apps", workload(name, self._image(), replicas=3), change)

    async def _stateful_set(self) -> str:
        rng = self._rng
        body = workload(
            "db",
            self._image(),
            replicas=3,
            serviceName="db",
            podManagementPolicy=rng.choice(["OrderedReady", "Parallel"]),
        )
        change: Obj = rng.choice(
            [
                {"replicas": rng.randint(0, 4)},
                {"template": {"spec": {"containers": template("db", self._image())["spec"]["containers"]}}},
            ]
        )
        return await self._make_or_change("statefulsets.apps", body, change)

    async def _daemon_set(self) -> str:
        rolling = self._rng.choice([{"maxSurge": 0, "maxUnavailable": 1}, {"maxSurge": 1, "maxUnavailable": 0}])
        body = workload("agent", self._image(), updateStrategy={"type": "RollingUpdate", "rollingUpdate": rolling})
        change = {"template": {"spec": {"containers": template("agent", self._image())["spec"]["containers"]}}}
        return await self._make_or_change("daemonsets.apps", body, change)

    async def _job(self) -> str:
        rng, name = self._rng, f"work{self._rng.randint(0, 9)}"
        spec: Obj = {
            "completions": rng.randint(1, 5),
            "parallelism": rng.randint(1, 3),
            "completionMode": rng.choice(["Indexed", "NonIndexed"]),
            "backoffLimit": 1000,
            "template": template(name, "batch:1", rng.choice([1, 5, 30]), restartPolicy="Never"),
        }
        if rng.random() < 0.3:
            spec["ttlSecondsAfterFinished"] = 20
        namespace = self._where()
        await self._client.create("jobs.batch", {"metadata": {"name": name}, "spec": spec}, namespace)
        return f"create job {namespace}/{name}"

    async def _service(self) -> str:
        app = self._rng.choice(["web0", "web1", "db"])
        body: Obj = {"metadata": {"name": app}, "spec": {"selector": {"app": app}, "ports": [{"port": 80}]}}
        return await self._make_or_change("services", body, {"selector": {"app": self._rng.choice([app, "agent"])}})

    async def _budget(self) -> str:
        app = self._rng.choice(["web0", "db"])
        spec: Obj = {"minAvailable": self._rng.choice([1, 2, "50%"]), "selector": {"matchLabels": {"app": app}}}
        return await self._make_or_change(
            "poddisruptionbudgets.policy", {"metadata": {"name": app}, "spec": spec}, spec
        )

    async def _pods(self) -> list[Obj]:
        return [p for p in (await self._client.list("pods")).items if "deletionTimestamp" not in p["metadata"]]

    async def _delete_pod(self) -> str:
        pods = await self._pods()
        if not pods:
            return "no pod to delete"
        meta = self._rng.choice(pods)["metadata"]
        await self._client.delete("pods", meta["name"], meta["namespace"], grace_period_s=self._rng.choice([None, 5]))
        return f"delete pod {meta['namespace']}/{meta['name']}"

    async def _drain(self) -> str:
        """`kubectl drain` of one machine, which is given up soon; then `kubectl uncordon`."""
        node = self._rng.choice(self._sim.machines).node
        await self._client.patch("nodes", node, {"spec": {"unschedulable": True}})
        evicted = refused = 0
        for pod in await self._pods():
            meta = pod["metadata"]
            if pod["spec"].get("nodeName") != node or meta.get("labels", {}).get("app") == "agent":
                continue
            body = {"metadata": {"name": meta["name"]}}
            try:
                await self._client.create("pods", body, meta["namespace"], subresource="eviction", name=meta["name"])
                evicted += 1
            except ApiError as err:
                if err.code != 429:
                    raise
                refused += 1
        if self._rng.random() < 0.7:
            await self._client.patch("nodes", node, {"spec": {"unschedulable": None}})
        return f"drain {node}: {evicted} evicted, {refused} refused"

    async def _delete_something(self) -> str:
        kinds = ("deployments.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch", "services")
        resource = self._rng.choice(kinds)
        found = (await self._client.list(resource)).items
        if not found:
            return f"no {resource} to delete"
        meta = self._rng.choice(found)["metadata"]
        how = self._rng.choice(["Background", "Foreground", "Background", "Orphan"])
        await self._client.delete(resource, meta["name"], meta["namespace"], propagation=how)
        return f"delete {resource} {meta['namespace']}/{meta['name']} {how}"

    async def _namespace(self) -> str:
        try:
            await self._client.create("namespaces", {"metadata": {"name": "team"}})
            return "create namespace team"
        except ApiError as err:
            if err.reason != "AlreadyExists":
                raise
        await self._client.delete("namespaces", "team")
        return "delete namespace team"
