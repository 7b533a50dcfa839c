#!/usr/bin/env python3
"""The reference's section 5 on the running cluster: deploy three tiers with stock kubectl and show when what happened.

Every step has the time since kubectl sent its request and the store's revision; the Performance Summary has what was
measured beside what the reference says. Standard library only; in a namespace of its own, which it removes.

    python3 infra/walkthrough.py [--json] [--prefix sk8]

IO: kubectl's current context. Where the machines are local (network namespaces <prefix>-<node>, root), it is also seen
when each of them can reach the Service and resolve its name; elsewhere those rows say that they were not looked at.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watching import Seen, Timeline, Watcher, condition, kubectl, proxy, ready_addresses

Phases = dict[str, tuple[float | None, float | None]]
"""By name: when it ended and how long it took, in milliseconds; None: not known."""

MANIFESTS = Path(__file__).resolve().parent / "manifests"
NAMESPACE = "walkthrough"
REPLICAS = 3
_POST = re.compile(r"I\d{4} (\d\d):(\d\d):(\d\d\.\d+) .*?(POST http|Response Status: 201)")
_LOOK = """
import random, socket, struct, sys, time
dns, name, address = sys.stdin.readline().split()
question = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\\0\\0\\1\\0\\1"
limit, found = time.time() + 60, {}
while time.time() < limit and len(found) < 2:
    if "rules" not in found:
        try:
            socket.create_connection((address, 80), 0.5).close()
            found["rules"] = time.time()
        except OSError:
            pass
    if "name" not in found:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(0.5)
            try:
                s.sendto(struct.pack(">6H", random.randrange(65536), 256, 1, 0, 0, 0) + question, (dns, 53))
                if socket.inet_aton(address) in s.recv(512):
                    found["name"] = time.time()
            except OSError:
                pass
    time.sleep(0.001)
print(found.get("rules", 0), found.get("name", 0))
"""
_ASK = """
import socket, time, urllib.request
t = time.perf_counter(); socket.getaddrinfo("api-service", 80); dns = time.perf_counter() - t
t = time.perf_counter(); who = urllib.request.urlopen("http://api-service/users", timeout=10).headers["X-Served-By"]
print(dns * 1e3, (time.perf_counter() - t) * 1e3, who)
"""


def apply(manifest: dict[str, Any]) -> tuple[float, float]:
    """When kubectl sent its POST, and when it was answered."""
    text = kubectl("apply", "-v=7", "-f", "-", stdin=json.dumps(manifest)).stderr
    today = time.strftime("%Y-%m-%d ")
    times = []
    for hour, minute, second, _ in _POST.findall(text):
        whole = time.mktime(time.strptime(today + f"{hour}:{minute}:00", "%Y-%m-%d %H:%M:%S"))
        times.append(whole + float(second))
    return times[0], times[-1]


def manifest_of(path: str, kind: str, name: str) -> dict[str, Any]:
    """A manifest of the reference, for our namespace."""
    text = kubectl("create", "--dry-run=client", "-o", "json", "-f", str(MANIFESTS / path)).stdout
    decoder = json.JSONDecoder()
    while text := text.strip():
        item, end = decoder.raw_decode(text)
        if (item["kind"], item["metadata"]["name"]) == (kind, name):
            item["metadata"]["namespace"] = NAMESPACE
            return dict(item)
        text = text[end:]
    raise SystemExit(f"walkthrough: {path} has no {kind} {name}")


def prepare() -> None:
    """The database with its volume, and the frontend: what is there before the API is deployed."""
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")
    kubectl("create", "namespace", NAMESPACE)
    password = f"--from-literal=password={secrets.token_urlsafe(24)}"
    kubectl("create", "secret", "generic", "postgres", "-n", NAMESPACE, password)
    kubectl("apply", "-n", NAMESPACE, "-f", str(MANIFESTS / "demo" / "10-database.yaml"))
    sleep = ("--image=mycompany/api:v1.2.3", f"--replicas={REPLICAS}", "--", "sleep", "3600")
    kubectl("create", "deployment", "frontend", "-n", NAMESPACE, *sleep)
    for name in ("postgres", "frontend"):
        kubectl("rollout", "status", f"deployment/{name}", "-n", NAMESPACE, "--timeout=150s")


class Machines:
    """Local machines, each with a process that waits to be told what to look for."""

    def __init__(self, prefix: str) -> None:
        nodes = kubectl("get", "nodes", "-l", "sk8.io/hollow!=true", "-o", "name").stdout.split()
        names = [name.removeprefix("node/") for name in nodes]
        self._waiting = {
            name: subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{prefix}-{name}", sys.executable, "-c", _LOOK],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in names
            if Path(f"/run/netns/{prefix}-{name}").exists()
        }
        service = kubectl("get", "service", "kube-dns", "-n", "kube-system", "-o", "jsonpath={.spec.clusterIP}")
        self._dns = service.stdout

    def look_for(self, address: str) -> None:
        for process in self._waiting.values():
            assert process.stdin is not None
            process.stdin.write(f"{self._dns} api-service.{NAMESPACE}.svc.cluster.local {address}\n")
            process.stdin.flush()

    def found(self) -> dict[str, tuple[float, float]]:
        """When the machine reached the Service and knew its name; 0: not within a minute."""
        out = {}
        for name, process in self._waiting.items():
            text, _ = process.communicate(timeout=90)
            rules, known = map(float, text.split())
            out[name] = rules, known
        return out

    def close(self) -> None:
        for process in self._waiting.values():
            process.kill()
            process.wait()


def check(reached: dict[str, tuple[float, float]], address: str) -> None:
    """Every machine has seen both."""
    missing = [f"{name} does not reach {address}:80" for name, (rules, _) in reached.items() if not rules]
    missing += [f"{name} does not resolve the Service's name" for name, (_, known) in reached.items() if not known]
    if missing:
        raise SystemExit(f"walkthrough: not within 60 s: {'; '.join(sorted(missing))}")


def is_pod(seen: Seen) -> bool:
    return seen.resource == "pods" and seen.name.startswith("api-")


def span(seen: list[Seen]) -> str:
    revisions = sorted({s.revision for s in seen})
    return ", ".join(map(str, revisions))


def walk(base: str, prefix: str) -> tuple[Timeline, Phases]:
    """The timeline, and the phases of the summary."""
    ping_ms = min(_ping(base) for _ in range(20)) * 1e3
    watcher = Watcher(base, NAMESPACE)
    watcher.start()
    deployment = manifest_of("demo/20-api.yaml", "Deployment", "api")
    deployment["spec"]["replicas"] = REPLICAS
    began, answered = apply(deployment)
    line = Timeline(began)
    line.add(1, began, "kubectl sends POST /apis/apps/v1/deployments")
    line.add(2, answered, "the API server answers 201: authenticated, authorized, admitted, validated, stored")
    pods = follow_deployment(line, watcher)
    service = follow_service(line, watcher, prefix)
    request_ms = first_request(line)
    return line, summary(ping_ms, pods, service, request_ms)


@dataclass(frozen=True, slots=True)
class DeploymentDone:
    """When each step of the Deployment's way was done, in milliseconds since kubectl's request."""

    stored: float
    replica_set: float
    pods: float
    bound: float
    ready: float


@dataclass(frozen=True, slots=True)
class ServiceDone:
    """When each step of the Service's way was done, in the same milliseconds; None: nobody could look."""

    asked: float
    endpoints: float
    rules: float | None
    names: float | None


def follow_deployment(line: Timeline, watcher: Watcher) -> DeploymentDone:
    """Steps 2 to 6: from the Deployment that is stored to its pods that are Ready."""
    last = watcher.until
    (stored,) = last("the Deployment", lambda s: s.resource == "deployments" and s.name == "api")
    sets = last("the ReplicaSet", lambda s: s.resource == "replicasets" and s.name.startswith("api-"))
    made = last("its pods", lambda s: is_pod(s), REPLICAS)
    bound = last("their machines", lambda s: is_pod(s) and "nodeName" in s.obj["spec"], REPLICAS)
    connected = last("their networks", lambda s: is_pod(s) and condition(s, "PodReadyToStartContainers"), REPLICAS)
    running = last("Running", lambda s: is_pod(s) and s.obj["status"].get("phase") == "Running", REPLICAS)
    ready = last("Ready", lambda s: is_pod(s) and condition(s, "Ready"), REPLICAS)

    for seen in connected:
        line.add(6, seen.at, f"{seen.name}: sandbox and network", span([seen]))
    for seen in running:
        line.add(6, seen.at, f"{seen.name}: Running at {seen.obj['status'].get('podIP')}", span([seen]))
    nodes = ", ".join(sorted(s.obj["spec"]["nodeName"] for s in bound))
    return DeploymentDone(
        stored=line.add(2, stored.at, f"Deployment {stored.name} is stored", span([stored])),
        replica_set=line.add(3, sets[0].at, f"ReplicaSet {sets[0].name} is created", span(sets)),
        pods=line.add(4, max(s.at for s in made), f"{len(made)} Pods are created", span(made)),
        bound=line.add(5, max(s.at for s in bound), f"they are bound to {nodes}", span(bound)),
        ready=max(line.add(6, seen.at, f"{seen.name}: Ready", span([seen])) for seen in ready),
    )


def follow_service(line: Timeline, watcher: Watcher, prefix: str) -> ServiceDone:
    """Steps 7 to 9: from the Service to machines that reach it by address and by name."""
    last = watcher.until
    machines = Machines(prefix)
    try:
        asked, _ = apply(manifest_of("demo/20-api.yaml", "Service", "api-service"))
        (service,) = last("the Service", lambda s: s.resource == "services" and s.name == "api-service")
        address = service.obj["spec"]["clusterIP"]
        machines.look_for(address)
        slices = last("the EndpointSlice", lambda s: s.resource == "endpointslices" and ready_addresses(s) == REPLICAS)
        reached = machines.found()
    finally:
        machines.close()
    check(reached, address)
    line.add(7, service.at, f"Service api-service has {address}", span([service]))
    rules = [line.add(8, at, f"{name}: {address}:80 leads to the pods") for name, (at, _) in sorted(reached.items())]
    names = [line.add(9, at, f"{name}: the name resolves") for name, (_, at) in sorted(reached.items())]
    return ServiceDone(
        asked=line.add(7, asked, "kubectl sends POST /api/v1/services"),
        endpoints=line.add(7, slices[0].at, f"EndpointSlice with {REPLICAS} endpoints", span(slices)),
        rules=max(rules, default=None),
        names=max(names, default=None),
    )


def first_request(line: Timeline) -> float:
    """Step 10: a pod of the frontend asks the API by its name. Milliseconds that the request took."""
    pod = kubectl("get", "pods", "-n", NAMESPACE, "-l", "app=frontend", "-o", "name").stdout.split()[0]
    dns_ms, request_ms, who = kubectl("exec", "-n", NAMESPACE, pod, "--", "python3", "-c", _ASK).stdout.split()
    line.add(10, time.time(), f"{pod}: api-service resolved in {float(dns_ms):.1f} ms; {who} answered GET /users")
    return float(request_ms)


def summary(ping_ms: float, pods: DeploymentDone, service: ServiceDone, request_ms: float) -> Phases:
    """The phases of the reference's table. The pods need no Service to start, so its time is added to theirs."""
    rules, names = service.rules, service.names
    total = None if rules is None else pods.ready + (rules - service.asked)
    return {
        "kubectl → API server": (0.0, ping_ms),
        "API validation + etcd write": (pods.stored, pods.stored - ping_ms),
        "Controller creates ReplicaSet": (pods.replica_set, pods.replica_set - pods.stored),
        "Controller creates Pods": (pods.pods, pods.pods - pods.replica_set),
        "Scheduler assigns nodes": (pods.bound, pods.bound - pods.pods),
        "kubelet starts containers": (pods.ready, pods.ready - pods.bound),
        "Service created": (service.endpoints, service.endpoints - service.asked),
        "kube-proxy programs rules": (rules, None if rules is None else rules - service.endpoints),
        "DNS registration": (names, None if names is None else names - service.endpoints),
        "**Total to application ready**": (total, None),
        "First request served": (None, request_ms),
    }


REFERENCE = {
    "kubectl → API server": ("t=0ms", "5ms"),
    "API validation + etcd write": ("t=5ms", "20ms"),
    "Controller creates ReplicaSet": ("t=25ms", "10ms"),
    "Controller creates Pods": ("t=35ms", "15ms"),
    "Scheduler assigns nodes": ("t=50ms", "15ms"),
    "kubelet starts containers": ("t=65ms", "2.2s"),
    "Service created": ("t=2.5s", "10ms"),
    "kube-proxy programs rules": ("t=2.55s", "50ms"),
    "DNS registration": ("t=2.6s", "at once"),
    "**Total to application ready**": ("**t=2.6s**", "—"),
    "First request served": ("t=3s+", "15ms"),
}


def table(phases: Phases) -> Iterator[str]:
    yield "| Phase | Reference: timing | latency | Here: done at | latency |"
    yield "|:------|:------------------|:--------|:--------------|:--------|"
    for phase, (timing, latency) in REFERENCE.items():
        done, took = phases[phase]
        yield f"| {phase} | {timing} | {latency} | {_in_ms(done, 't=')} | {_in_ms(took)} |"


def _in_ms(value: float | None, before: str = "") -> str:
    return "—" if value is None else f"{before}{value:.1f}ms" if value < 100 else f"{before}{value / 1e3:.2f}s"


def _ping(base: str) -> float:
    began = time.perf_counter()
    urllib.request.urlopen(f"{base}/livez/ping", timeout=10).read()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the phases' milliseconds and the steps, for programs")
    parser.add_argument("--prefix", default="sk8", help="of local machines' network namespaces")
    options = parser.parse_args()
    prepare()
    try:
        with proxy() as base:
            line, phases = walk(base, options.prefix)
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=true")
    if options.json:
        print(json.dumps({"phases": phases, "rows": sorted(line.rows)}))
        return
    print("\n".join(line.show()))
    print("\nPerformance Summary (reference, section 5) beside what was measured here\n")
    print("\n".join(table(phases)))


if __name__ == "__main__":
    main()
