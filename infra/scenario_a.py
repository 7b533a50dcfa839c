#!/usr/bin/env python3
"""The reference's scenario A on the running cluster of local machines: a machine falls silent, and what follows when.

Three pods of `api` behind a Service; the cable of a machine that has one of them is pulled. Every step is shown
beside the reference's clock, which `--grace` and `--eviction` set (seconds since the last heartbeat); with `--within`
a step that is later, or earlier than it may be, is a failure. Standard library only; the machine's cable is put back.

    python3 infra/scenario_a.py --grace 40 --eviction 300 --within 2

`--toleration S`: pods say so themselves (tolerationSeconds), for a cluster whose profile is `fast`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watching import Seen, Watcher, condition, kubectl, proxy, ready_addresses

NAMESPACE = "scenario-a"
REPLICAS = 3
SK8 = str(Path(sys.executable).with_name("sk8"))
_SILENT = ("not-ready", "unreachable")


@dataclass(frozen=True, slots=True)
class Step:
    """`reference_s`: when the reference has it; `exact`: not before that either (a time-out), or it may come sooner."""

    what: str
    at_s: float
    reference_s: float
    exact: bool

    def late_by(self, within_s: float) -> bool:
        return self.at_s > self.reference_s + within_s or (self.exact and self.at_s < self.reference_s - within_s)


def workload(toleration_s: int | None) -> list[dict[str, Any]]:
    labels = {"app": "api"}
    server = ["sh", "-c", "mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 3000 -h /www"]
    container = {
        "name": "api",
        "image": "busybox:1.36",
        "command": server,
        "readinessProbe": {"httpGet": {"path": "/", "port": 3000}, "periodSeconds": 1},
    }
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    spec: dict[str, Any] = {
        "containers": [container],
        "topologySpreadConstraints": [spread | {"labelSelector": {"matchLabels": labels}}],
        "terminationGracePeriodSeconds": 1,
    }
    if toleration_s is not None:
        spec["tolerations"] = [
            {
                "key": f"node.kubernetes.io/{key}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": toleration_s,
            }
            for key in _SILENT
        ]
    template = {"metadata": {"labels": labels}, "spec": spec}
    deployment = {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template}
    service = {"selector": labels, "ports": [{"port": 80, "targetPort": 3000}]}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"}, "spec": deployment},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api-service"}, "spec": service},
    ]


def prepare(toleration_s: int | None) -> None:
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")
    kubectl("create", "namespace", NAMESPACE)
    manifest = {"apiVersion": "v1", "kind": "List", "items": workload(toleration_s)}
    kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(manifest))
    kubectl("rollout", "status", "deployment/api", "-n", NAMESPACE, "--timeout=150s")


def victim() -> str:
    """A machine with a pod, on which neither the controllers nor kubectl's way to the API depend: whoever takes over as
    leader gives every machine a whole grace period anew."""
    holder = ("-o", "jsonpath={.spec.holderIdentity}")
    lease = kubectl("get", "lease", "kube-controller-manager", "-n", "kube-system", *holder)
    pods = json.loads(kubectl("get", "pods", "-n", NAMESPACE, "-o", "json").stdout)["items"]
    nodes = sorted({p["spec"]["nodeName"] for p in pods} - {lease.stdout.strip(), "m1"}, reverse=True)
    if not nodes:
        raise SystemExit("scenario A: no machine but the control plane's has a pod; use three machines")
    return str(nodes[0])


def cable(machine: str, state: str, base: str) -> None:
    subprocess.run([SK8, "link", state, machine, "--base", base], check=True, capture_output=True, timeout=30)


class Silence:
    """What is watched for since the machine fell silent."""

    def __init__(self, watcher: Watcher, machine: str, on_it: list[str], began: float, patience_s: float) -> None:
        self._watcher = watcher
        self._machine = machine
        self._on_it = on_it
        self._began = began
        self._patience_s = patience_s

    def _first(self, what: str, matches: Any, count: int = 1) -> float:
        seen = self._watcher.until(what, lambda s: s.at >= self._began and matches(s), count, self._patience_s)
        return max(s.at for s in seen) - self._began

    def not_ready(self) -> float:
        return self._first(
            "the node is NotReady",
            lambda s: s.resource == "nodes" and s.name == self._machine and not condition(s, "Ready"),
        )

    def out_of_endpoints(self) -> float:
        left = REPLICAS - len(self._on_it)
        return self._first(
            "its endpoints are gone", lambda s: s.resource == "endpointslices" and ready_addresses(s) == left
        )

    def terminating(self) -> float:
        return self._first(
            "its pods are marked for deletion",
            lambda s: s.resource == "pods" and s.name in self._on_it and "deletionTimestamp" in s.obj["metadata"],
            len(self._on_it),
        )

    def _replacement(self, seen: Seen) -> bool:
        return seen.resource == "pods" and seen.name not in self._on_it and seen.name not in self.before

    before: frozenset[str] = frozenset()

    def created(self) -> float:
        return self._first("replacements are created", self._replacement, len(self._on_it))

    def bound(self) -> float:
        return self._first(
            "they are bound", lambda s: self._replacement(s) and "nodeName" in s.obj["spec"], len(self._on_it)
        )

    def running(self) -> float:
        return self._first(
            "they run",
            lambda s: self._replacement(s) and s.obj["status"].get("phase") == "Running",
            len(self._on_it),
        )

    def ready(self) -> float:
        return self._first("they are Ready", lambda s: self._replacement(s) and condition(s, "Ready"), len(self._on_it))


def play(base: str, url: str, grace_s: float, eviction_s: float) -> tuple[list[Step], list[str]]:
    """The steps, and what the cluster's Events say of them."""
    machine = victim()
    pods = json.loads(kubectl("get", "pods", "-n", NAMESPACE, "-o", "json").stdout)["items"]
    on_it = [p["metadata"]["name"] for p in pods if p["spec"]["nodeName"] == machine]
    watcher = Watcher(url, NAMESPACE)
    watcher.start()
    watcher.follow("nodes", f"{url}/api/v1/nodes")
    watcher.follow("leases", f"{url}/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
    watcher.until("a heartbeat", lambda s: s.resource == "leases" and s.name == machine)
    cable(machine, "down", base)
    try:
        time.sleep(1)  # what was on its way
        began = max(s.at for s in watcher.seen if s.resource == "leases" and s.name == machine)
        silence = Silence(watcher, machine, on_it, began, eviction_s + 120)
        silence.before = frozenset(p["metadata"]["name"] for p in pods)
        e = eviction_s
        steps = [
            Step(f"node {machine} is NotReady", silence.not_ready(), grace_s, True),
            Step("its pods have left the endpoints", silence.out_of_endpoints(), grace_s, True),
            Step(f"its {len(on_it)} pods are Terminating", silence.terminating(), e, True),
            Step("the ReplicaSet has made new ones", silence.created(), e + 5, False),
            Step("they are bound to machines", silence.bound(), e + 10, False),
            Step("they run", silence.running(), e + 15, False),
            Step("they are Ready", silence.ready(), e + 17, False),
        ]
    finally:
        cable(machine, "up", base)
    return steps, said(machine, on_it)


def said(machine: str, pods: list[str]) -> list[str]:
    """The Events about the machine and its pods that say which timing did what."""
    out = []
    for namespace in ("default", NAMESPACE):
        for event in json.loads(kubectl("get", "events", "-n", namespace, "-o", "json").stdout)["items"]:
            about, reason = event["involvedObject"]["name"], event["reason"]
            if (about == machine and reason.startswith(("Machine", "NodeNotReady"))) or (
                about in pods and reason in ("NodeNotReady", "TaintManagerEviction")
            ):
                out.append(f"{reason}: {event['message']}")
    return sorted(set(out))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grace", type=float, default=40.0)
    parser.add_argument("--eviction", type=float, default=300.0)
    parser.add_argument("--within", type=float, help="seconds that a step may be beside the reference's clock")
    parser.add_argument("--toleration", type=int)
    parser.add_argument("--base", default="/var/lib/sk8")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    prepare(options.toleration)
    try:
        with proxy() as url:
            steps, events = play(options.base, url, options.grace, options.eviction)
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    late = [] if options.within is None else [s for s in steps if s.late_by(options.within)]
    if options.json:
        print(json.dumps({"steps": [[s.what, s.at_s, s.reference_s] for s in steps], "events": events}))
    else:
        print("   here  reference")
        for step in steps:
            print(f"{step.at_s:6.1f}s  {step.reference_s:7.0f}s  {step.what}{'   <-- not so' if step in late else ''}")
        print("\n".join(["", *events]))
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
