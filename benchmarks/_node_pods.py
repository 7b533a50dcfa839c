"""Pods of one kubelet on this box's container engine: until they run, until they are gone, and what the kubelet costs.

A network namespace is the machine. In it run, as processes, one State member with fsync, an ApiServer, the forwarder
and the Kubelet, wired as they are shipped; this process is the client that creates the pods and watches them. Not
there: Ray, the scheduler (a pod names its node) and the network agent. A pod is the pause image twice, once as its
sandbox and once as its container; beside it, in turn with it, `docker run` starts the same two without a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import _fleet, _namespaces, _stack
from benchmarks._stack import Process, Target
from benchmarks._watched import Watched, watching
from benchmarks.frame import Bench, percentile
from cluster.cloud import cgroups
from cluster.machine.machine_config import MachineConfig
from cluster.machinery.client import Client, Obj
from cluster.machinery.http_client import HttpClient
from cluster.machinery.pod_logs import remove_machine_logs

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGE = "sk8/pause:1"
CIDR = "10.244.77.0/24"
GRACE_S = 1
BENCH_LABEL = "sk8.bench=node"
TIMEOUT_S = 165.0
IN_TURN_S = 60.0
COMMAND_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """`in_turn`: pods one after the other, fewer when they have taken a minute; `at_once`: pods together."""

    in_turn: int
    at_once: int
    settle_s: float
    idle_s: float


FULL, SMOKE = Sizes(30, 30, 10.0, 20.0), Sizes(2, 3, 0.5, 1.0)


class Unavailable(RuntimeError):
    """Why this box cannot run pods."""


def measure(bench: Bench) -> None:
    """Raises Unavailable without an engine, RuntimeError when the machine does not do its part in time."""
    _need_engine()
    with tempfile.TemporaryDirectory(prefix="sk8-bench-", ignore_cleanup_errors=True) as directory:
        base = Path(directory)
        machine = _stack.cluster_of(base, 1).first_machine("m1")
        with _running(base, machine) as target:
            try:
                uvloop.run(_measure(bench, target, base))
            except Exception as err:
                print(target.part("kubelet").told(), file=sys.stderr)
                if isinstance(err, TimeoutError):
                    raise RuntimeError(f"not done after {TIMEOUT_S:g} s: what follows the last row is missing") from err
                raise


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _need_engine() -> None:
    try:
        docker("info")
        subprocess.run([str(REPOSITORY / "infra/images/pause/build.sh")], check=True, capture_output=True, timeout=120)
    except (OSError, RuntimeError, subprocess.SubprocessError) as err:
        raise Unavailable(f"no container engine answers, or the pause image cannot be built: {err}") from None


@contextlib.contextmanager
def _running(base: Path, machine: MachineConfig) -> Iterator[Target]:
    """The machine with its parts; nothing of it is left in the engine, the kernel or /var/log."""
    labels = (BENCH_LABEL, f"sk8.machine={machine.container_label}")
    with contextlib.ExitStack() as stack:
        stack.callback(cgroups.remove_empty, machine.netns)
        _remove_containers(*labels)  # of a run that was killed
        stack.enter_context(_namespaces.made(machine.netns))
        stack.enter_context(_namespaces.entered(machine.netns))
        stack.callback(_remove_containers, *labels)
        stack.callback(remove_machine_logs, machine.kubelet_dir)
        target = _stack.start(base, 1, scheduler=False, kubelet=True)
        stack.callback(target.stop)
        yield target


def _remove_containers(*labels: str) -> None:
    for label in labels:
        if left := docker("ps", "-aq", "--filter", f"label={label}").split():
            docker("rm", "-f", *left)


# ---------------------------------------------------------------- what is measured


async def _measure(bench: Bench, target: Target, base: Path) -> None:
    sizes = SMOKE if bench.smoke else FULL
    kubelet = target.part("kubelet")
    async with HttpClient(_fleet.config_of(target, base)) as client, asyncio.timeout(TIMEOUT_S):
        nodes, pods = Watched(client, "nodes"), Watched(client, "pods")
        async with watching(nodes, pods):
            node = await _ready_node(client, nodes)
            machine = Machine(client, pods, node)
            await _in_turn(bench, machine, sizes.in_turn)
            names = [f"batch-{number}" for number in range(sizes.at_once)]
            await _at_once(bench, machine, names)
            await _at_rest(bench, kubelet, len(names), sizes)
            await _all_gone(bench, machine, names)


async def _ready_node(client: Client, nodes: Watched) -> str:
    """Its name; what a controller would do for it is done here: it gets its range of addresses."""
    await nodes.until(bool)
    name = str(nodes.informer.items()[0]["metadata"]["name"])
    await client.patch("nodes", name, {"spec": {"podCIDR": CIDR, "podCIDRs": [CIDR]}})
    await nodes.until(lambda found: _condition(found[0], "Ready"))
    return name


def _condition(obj: Obj, kind: str) -> bool:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def _is_running(pod: Obj) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running"


def _is_ready(pod: Obj) -> bool:
    return _condition(pod, "Ready")


class Machine:
    """The pods of one node, by name."""

    def __init__(self, client: Client, pods: Watched, node: str) -> None:
        self._client = client
        self._pods = pods
        self._node = node

    async def create(self, name: str) -> None:
        spec = {
            "nodeName": self._node,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": GRACE_S,
            "containers": [{"name": "app", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        await self._client.create("pods", pod, "default")

    async def until(self, names: list[str], reached: Callable[[Obj], bool]) -> None:
        wanted = set(names)
        await self._pods.until(lambda pods: wanted <= {p["metadata"]["name"] for p in pods if reached(p)})

    async def delete(self, names: list[str]) -> None:
        """Returns when the API knows none of them."""
        await asyncio.gather(*(self._client.delete("pods", name, "default") for name in names))
        gone = set(names)
        await self._pods.until(lambda pods: not gone & {p["metadata"]["name"] for p in pods})


async def _in_turn(bench: Bench, machine: Machine, count: int) -> None:
    """A pod, then `docker run`, and so on: each has the machine to itself."""
    ours: list[float] = []
    theirs: list[float] = []
    names: list[str] = []
    began = time.perf_counter()
    while len(names) < count and time.perf_counter() - began < IN_TURN_S:
        names.append(f"turn-{len(names)}")
        before = time.perf_counter()
        await machine.create(names[-1])
        await machine.until(names[-1:], _is_running)
        ours.append((time.perf_counter() - before) * 1e3)
        theirs.append(await asyncio.to_thread(_docker_run_ms))
    for percent in (50, 99):
        value, peer = percentile(ours, percent), percentile(theirs, percent)
        goal = peer + 100 if percent == 50 else 1500.0
        what = f"pod create to Running, p{percent} (peer: docker run)"
        bench.add(what, value, "ms", samples=len(ours), peer=peer, goal=round(goal, 1))
    await machine.delete(names)


def _docker_run_ms() -> float:
    before = time.perf_counter()
    sandbox = docker("run", "-d", f"--label={BENCH_LABEL}", "--network=none", "--ipc=shareable", IMAGE)
    shared = (f"--network=container:{sandbox}", f"--ipc=container:{sandbox}")
    container = docker("run", "-d", f"--label={BENCH_LABEL}", *shared, IMAGE)
    took = (time.perf_counter() - before) * 1e3
    docker("rm", "-f", container, sandbox)
    return took


async def _at_once(bench: Bench, machine: Machine, names: list[str]) -> None:
    began = time.perf_counter()
    await asyncio.gather(*map(machine.create, names))
    await machine.until(names, _is_ready)
    took = time.perf_counter() - began
    bench.add(f"{len(names)} pods on one node, create to all Ready", took, "s", samples=1, goal=15.0)


async def _at_rest(bench: Bench, kubelet: Process, pods: int, sizes: Sizes) -> None:
    await asyncio.sleep(sizes.settle_s)
    before, began = kubelet.cpu_s(), time.perf_counter()
    await asyncio.sleep(sizes.idle_s)
    used = 100 * (kubelet.cpu_s() - before) / (time.perf_counter() - began)
    bench.add(f"idle kubelet with {pods} pods, share of a core", used, "cpu_percent", samples=1, goal=1.0)
    memory = kubelet.pss_mib() * 1.048576
    bench.add(f"kubelet with {pods} pods, PSS, without Ray", memory, "MB", samples=1, goal=60.0)


async def _all_gone(bench: Bench, machine: Machine, names: list[str]) -> None:
    began = time.perf_counter()
    await machine.delete(names)
    took = time.perf_counter() - began
    bench.add(f"{len(names)} pods deleted, grace {GRACE_S} s", took, "s", samples=1, goal=10.0 + GRACE_S)
