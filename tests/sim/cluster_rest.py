"""What must hold: always (one machine at most for each identity, budgets), and at rest (desired equals actual).

Reads the store alone, and what runs on the machines. Every violation is one sentence.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.api.pods import is_ready, is_terminal
from cluster.api.selectors import from_label_selector
from cluster.machinery.client import Obj
from cluster.registry.codec import Codec
from tests.sim.cluster_world import Sim
from tests.support.memory_store import Batch

_NOISE = (b"/registry/coordination.k8s.io/", b"/registry/core/events/", b"/registry/core/nodes/", b"/sk8/")
_OWNED = ("pods", "replicasets.apps", "controllerrevisions.apps", "endpointslices.discovery.k8s.io", "jobs.batch")
_BUDGETS = b"/registry/policy/poddisruptionbudgets/"
_PODS = b"/registry/core/pods/"


class Always:
    """Looks at every commit, and, when asked to, at the machines."""

    def __init__(self, sim: Sim) -> None:
        self._sim = sim
        self.violations: list[str] = []
        self.changed_at = 0.0
        self.evictions = 0
        self._codec = Codec(())
        self._pods: dict[bytes, Obj] = {}
        self._lost: list[tuple[float, Obj]] = []
        self._judged_at: dict[bytes, float] = {}
        sim.watchers.append(self.committed)

    def say(self, text: str) -> None:
        if text not in self.violations:
            self._sim.note(f"VIOLATION: {text}")
            self.violations.append(text)

    # ---- identities

    def look_at_machines(self) -> None:
        places: dict[str, list[str]] = {}
        for machine in self._sim.machines:
            for name in set(machine.running().values()):
                places.setdefault(name, []).append(machine.node)
        for name, nodes in sorted(places.items()):
            if len(nodes) > 1 and "/db-" in name:
                self.say(f"{name} runs on {' and '.join(nodes)}")

    # ---- commits

    def committed(self, batch: Batch) -> None:
        now = self._sim.loop.time()
        for event in batch.events:
            key = event.kv.key
            if not key.startswith(_NOISE):
                self.changed_at = now
            if key.startswith(_PODS):
                self._pod(key, self._obj(event.kv) if event.type == 0 else None, now)
            elif key.startswith(_BUDGETS) and event.type == 0 and event.prev_kv is not None:
                self._budget(key, self._obj(event.prev_kv), self._obj(event.kv), now)

    def _obj(self, kv: Any) -> Obj:
        return self._codec.decode(kv.key, kv.value, kv.mod_revision).obj

    def _pod(self, key: bytes, pod: Obj | None, now: float) -> None:
        old = self._pods.pop(key, None)
        if pod is not None:
            self._pods[key] = pod
        if old is not None and _healthy(old) and (pod is None or not _healthy(pod)):
            self._lost.append((now, old))

    def _budget(self, key: bytes, old: Obj, new: Obj, now: float) -> None:
        """An eviction was granted when disruptedPods grew and disruptionsAllowed shrank; else the status is the
        controller's, who may have missed what was lost in the moment before it wrote."""
        before, after = old.get("status") or {}, new.get("status") or {}
        fresh = set(after.get("disruptedPods") or {}) - set(before.get("disruptedPods") or {})
        granted = fresh and int(after.get("disruptionsAllowed") or 0) < int(before.get("disruptionsAllowed") or 0)
        if not granted:
            self._judged_at[key] = now
            return
        self.evictions += 1
        disrupted = after["disruptedPods"]
        selector, namespace = from_label_selector(new["spec"]["selector"]), new["metadata"]["namespace"]

        def covered(pod: Obj) -> bool:
            meta = pod["metadata"]
            return meta["namespace"] == namespace and selector.matches(meta.get("labels") or {})

        left = sum(covered(p) and _healthy(p) and p["metadata"]["name"] not in disrupted for p in self._pods.values())
        since = self._judged_at.get(key, 0.0) - 2.0
        unseen = sum(covered(p) and p["metadata"]["name"] not in disrupted for at, p in self._lost if at >= since)
        if left + unseen < int(after.get("desiredHealthy") or 0):
            text = f"{new['metadata']['name']} granted {sorted(fresh)} with {left} left of {after['desiredHealthy']}"
            self.say(f"budget {namespace}/{text}")


def _healthy(pod: Obj) -> bool:
    return is_ready(pod) and "deletionTimestamp" not in pod["metadata"] and not is_terminal(pod)


class AtRest:
    """All violations of the state of rest."""

    def __init__(self, sim: Sim) -> None:
        self._sim = sim
        self._all: dict[str, list[Obj]] = {}
        self._found: list[str] = []

    async def violations(self) -> list[str]:
        names = ("namespaces", "nodes", "services", "endpointslices.discovery.k8s.io", "deployments.apps")
        names += ("statefulsets.apps", "daemonsets.apps", *_OWNED)
        for resource in dict.fromkeys(names):
            self._all[resource] = (await self._sim.client.list(resource)).items
        self._orphans()
        self._machines()
        for check in (self._deployment, self._stateful_set, self._daemon_set, self._job, self._service):
            resource = _RESOURCES[check.__name__]
            for obj in self._all[resource]:
                self._where = f"{resource} {obj['metadata'].get('namespace')}/{obj['metadata']['name']}"
                check(obj)
        return self._found

    def _hold(self, condition: object, text: str) -> None:
        if not condition:
            self._found.append(text)

    def _equal(self, what: str, found: object, wanted: object) -> None:
        self._hold(found == wanted, f"{self._where}: {what} is {found!r}, not {wanted!r}")

    def _pods_of(self, owner: Obj) -> list[Obj]:
        uid = owner["metadata"]["uid"]
        return [
            p for p in self._all["pods"] if any(r["uid"] == uid for r in p["metadata"].get("ownerReferences") or ())
        ]

    # ---- everything

    def _orphans(self) -> None:
        uids = {o["metadata"]["uid"] for objects in self._all.values() for o in objects}
        spaces = {n["metadata"]["name"] for n in self._all["namespaces"]}
        for resource, objects in self._all.items():
            for obj in objects:
                meta = obj["metadata"]
                where = f"{resource} {meta.get('namespace', '')}/{meta['name']}"
                self._hold("deletionTimestamp" not in meta, f"{where} is still being deleted")
                self._hold(meta.get("namespace", "default") in spaces, f"{where} outlives its namespace")
                for ref in meta.get("ownerReferences") or ():
                    self._hold(ref["uid"] in uids, f"{where} outlives its owner {ref['kind']} {ref['name']}")

    def _machines(self) -> None:
        for node in self._all["nodes"]:
            self._hold(is_ready(node), f"node {node['metadata']['name']} is not Ready")
            self._hold(not node["spec"].get("taints"), f"node {node['metadata']['name']}: {node['spec'].get('taints')}")
        for machine in self._sim.machines:
            wanted = {
                p["metadata"]["uid"]
                for p in self._all["pods"]
                if p["spec"].get("nodeName") == machine.node and not is_terminal(p)
            }
            running = machine.running()
            self._hold(set(running) == wanted, f"{machine.node} runs {sorted(running)}, wanted are {sorted(wanted)}")
        for pod in self._all["pods"]:
            meta = pod["metadata"]
            self._hold(is_ready(pod) or is_terminal(pod), f"pod {meta['namespace']}/{meta['name']} is not Ready")

    # ---- each kind

    def _counts(self, obj: Obj, replicas: int, *fields: str) -> None:
        status = obj.get("status") or {}
        self._equal("observedGeneration", status.get("observedGeneration"), obj["metadata"]["generation"])
        for field in fields:
            self._equal(field, int(status.get(field) or 0), replicas)

    def _deployment(self, obj: Obj) -> None:
        replicas = obj["spec"]["replicas"]
        self._counts(obj, replicas, "replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        sets = [
            s
            for s in self._all["replicasets.apps"]
            if any(r["uid"] == obj["metadata"]["uid"] for r in s["metadata"].get("ownerReferences") or ())
        ]
        images = Counter(p["spec"]["containers"][0]["image"] for s in sets for p in self._pods_of(s))
        wanted = {obj["spec"]["template"]["spec"]["containers"][0]["image"]: replicas} if replicas else {}
        self._equal("images of its pods", dict(images), wanted)
        old = [s for s in sets if not s["spec"]["replicas"]]
        self._hold(len(old) <= obj["spec"]["revisionHistoryLimit"] + 1, f"{self._where}: {len(old)} old ReplicaSets")

    def _stateful_set(self, obj: Obj) -> None:
        replicas, name = obj["spec"]["replicas"], obj["metadata"]["name"]
        self._counts(obj, replicas, "replicas", "readyReplicas", "availableReplicas", "updatedReplicas")
        found = sorted(p["metadata"]["name"] for p in self._pods_of(obj))
        self._equal("its pods", found, [f"{name}-{i}" for i in range(replicas)])
        images = {p["spec"]["containers"][0]["image"] for p in self._pods_of(obj)}
        self._hold(images <= {obj["spec"]["template"]["spec"]["containers"][0]["image"]}, f"{self._where}: {images}")

    def _daemon_set(self, obj: Obj) -> None:
        nodes = sorted(n["metadata"]["name"] for n in self._all["nodes"])
        fields = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled")
        self._counts(obj, len(nodes), *fields)
        self._equal("its nodes", sorted(p["spec"].get("nodeName", "") for p in self._pods_of(obj)), nodes)

    def _job(self, obj: Obj) -> None:
        spec, status = obj["spec"], obj.get("status") or {}
        ends = {c["type"] for c in status.get("conditions") or () if c["status"] == "True"}
        self._hold("Complete" in ends, f"{self._where}: its conditions are {sorted(ends)}")
        self._equal("succeeded", status.get("succeeded"), spec["completions"])
        self._equal("active", int(status.get("active") or 0), 0)
        left = status.get("uncountedTerminatedPods") or {}
        self._hold(not any(left.values()), f"{self._where}: uncounted {left}")

    def _service(self, obj: Obj) -> None:
        meta, selector = obj["metadata"], obj["spec"].get("selector")
        if not selector:
            return
        wanted = {
            p["status"]["podIP"]
            for p in self._all["pods"]
            if p["metadata"]["namespace"] == meta["namespace"]
            and selector.items() <= (p["metadata"].get("labels") or {}).items()
            and is_ready(p)
            and not is_terminal(p)
        }
        found = Counter(
            e["addresses"][0]
            for s in self._all["endpointslices.discovery.k8s.io"]
            if s["metadata"]["namespace"] == meta["namespace"]
            and (s["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == meta["name"]
            for e in s.get("endpoints") or ()
            if e["conditions"]["ready"]
        )
        self._equal("its endpoints", dict(found), dict.fromkeys(wanted, 1))


_RESOURCES = {
    "_deployment": "deployments.apps",
    "_stateful_set": "statefulsets.apps",
    "_daemon_set": "daemonsets.apps",
    "_job": "jobs.batch",
    "_service": "services",
}
