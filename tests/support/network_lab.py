"""Two machines, pods on them and a stranger, as network namespaces; real nftables, routes and DNS under them.

Layout (all names begin with sk8t-net): a bridge in its own namespace joins machine a (10.89.77.11), machine b (.12)
and the stranger (.1). Machine a has pods a1 (10.244.1.2) and a2 (10.244.1.3), b has b1 (10.244.2.2). Each machine runs
a NetworkAgent on a loop in a thread that has entered its namespace; they watch one in-memory API. A dual-stack lab has
IPv6 addresses besides, with the same numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import pytest
import uvloop
from dnslib import DNSRecord
from prometheus_client import CollectorRegistry
from pyroute2 import IPRoute

from benchmarks import _namespaces
from cluster.machinery.client import ObjectList, WatchEvent
from cluster.network.agent import NetworkAgent
from cluster.network.config import DnsConfig, FirewallConfig, NetworkConfig, ProxyConfig, RouteConfig
from cluster.node.cni_ipv6 import connect_machine, connect_pod, prepare_machine

T = TypeVar("T")
Obj = dict[str, Any]
PREFIX = "sk8t-net-"
MACHINES = {"a": ("10.89.77.11", "10.244.1"), "b": ("10.89.77.12", "10.244.2")}
STRANGER = "10.89.77.1"
PODS = {"a1": ("a", "10.244.1.2"), "a2": ("a", "10.244.1.3"), "b1": ("b", "10.244.2.2")}
STRANGER_IPV6 = "fd00:10:89::1"
MACHINES_IPV6 = {"a": "fd00:10:89::11", "b": "fd00:10:89::12"}
RANGES_IPV6 = {"a": "fd00:10:244:1::/64", "b": "fd00:10:244:2::/64"}
PODS_IPV6 = {"a1": "fd00:10:244:1::2", "a2": "fd00:10:244:1::3", "b1": "fd00:10:244:2::2"}
POD_RANGE_IPV6, SERVICE_RANGE_IPV6 = "fd00:10:244::/56", "fd00:10:96::/112"
DNS = "10.96.0.10"
SLICES = "endpointslices.discovery.k8s.io"


def _network_config(name: str, address: str) -> NetworkConfig:
    """A machine's, without the ports that the lab's machines could not all have."""
    return NetworkConfig(
        proxy=ProxyConfig(node_name=name, node_ip=address, local_dns_ip=DNS),
        routes=RouteConfig(node_name=name, node_ip=address),
        dns=DnsConfig(node_ip=address, listen_ip=DNS, node_name=name),
        firewall=FirewallConfig(machine_cidrs=("10.89.77.0/28",)),
    )


def enter(namespace: str) -> None:
    """Move this thread into a network namespace."""
    _namespaces.enter(f"{PREFIX}{namespace}")


def inside(namespace: str, func: Callable[[], T]) -> T:
    """`func()` in a namespace; sockets it makes stay there."""
    return _namespaces.inside(f"{PREFIX}{namespace}", func)


def ip(*args: str, ns: str = "") -> None:
    _namespaces.ip(*args, ns=f"{PREFIX}{ns}" if ns else "")


def nft(namespace: str, command: str) -> str:
    """nft run by somebody else than the agent."""
    args = ["nsenter", f"--net=/run/netns/{PREFIX}{namespace}", "nft", command]
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout


def eventually(check: Callable[[], bool], why: str, timeout_s: float = 8.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


class Api:
    """Lists and watches in memory, for clients on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revision = 1
        self._objects: dict[str, dict[tuple[str, str], Obj]] = {}
        self._watches: list[tuple[str, asyncio.AbstractEventLoop, asyncio.Queue[WatchEvent]]] = []

    def put(self, resource: str, obj: Obj) -> None:
        with self._lock:
            self._revision += 1
            obj["metadata"]["resourceVersion"] = str(self._revision)
            key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
            known = self._objects.setdefault(resource, {})
            kind = "MODIFIED" if key in known else "ADDED"
            known[key] = obj
            self._tell(resource, WatchEvent(kind, obj))

    def remove(self, resource: str, namespace: str, name: str) -> None:
        with self._lock:
            self._revision += 1
            obj = self._objects[resource].pop((namespace, name))
            gone = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._revision)}}
            self._tell(resource, WatchEvent("DELETED", gone))

    def _tell(self, resource: str, event: WatchEvent) -> None:
        for name, loop, queue in self._watches:
            if name == resource and not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, event)

    async def list(self, resource: str, namespace: str = "", **_: str) -> ObjectList:
        with self._lock:
            return ObjectList(list(self._objects.get(resource, {}).values()), str(self._revision))

    async def watch(self, resource: str, namespace: str = "", **options: str) -> AsyncIterator[WatchEvent]:
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        with self._lock:
            entry = (resource, asyncio.get_running_loop(), queue)
            self._watches.append(entry)
            since = int(options["resource_version"])
            missed = [
                WatchEvent("MODIFIED", obj)
                for obj in self._objects.get(resource, {}).values()
                if int(obj["metadata"]["resourceVersion"]) > since
            ]
        try:
            for event in missed:
                yield event
            while True:
                yield await queue.get()
        finally:
            self._watches.remove(entry)


class Machine:
    """A NetworkAgent in a machine's namespace."""

    def __init__(self, name: str, api: Api, *, dual_stack: bool = False) -> None:
        self.name = name
        self._dual_stack = dual_stack
        self.agent: NetworkAgent | None = None
        self._api = api
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._work)
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()
        eventually(self.ready, f"machine {self.name} is not ready")

    def ready(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.agent is not None and bool(self.agent.health()["ready"])

    def stop(self) -> None:
        if self._loop is not None and self._task is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        try:
            enter(self.name)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run())
        except BaseException as err:  # looked at by the test's thread
            self.error = err

    async def _run(self) -> None:
        address = MACHINES[self.name][0]
        config = _network_config(self.name, address)
        if self._dual_stack:
            config = config.dual_stack(MACHINES_IPV6[self.name], POD_RANGE_IPV6, SERVICE_RANGE_IPV6)
        # A registry each: two machines of one process may not share their DNS servers' metrics.
        agent = NetworkAgent(config, self._api, registry=CollectorRegistry())  # type: ignore[arg-type]
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(agent.run())
        self.agent = agent
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class Echo:
    """A TCP and UDP server in a namespace that answers `name client-address`."""

    def __init__(self, namespace: str, port: int, *, address: str = "0.0.0.0") -> None:
        self._name = namespace
        self._tcp, self._udp = inside(namespace, lambda: self._bind(address, port))
        self._threads = [threading.Thread(target=self._serve_tcp), threading.Thread(target=self._serve_udp)]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _bind(address: str, port: int) -> tuple[socket.socket, socket.socket]:
        family = _family_of(address)
        tcp = socket.create_server((address, port), backlog=128, family=family)
        udp = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:  # IPv4 has a server of its own
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        udp.bind((address, port))
        return tcp, udp

    def _serve_tcp(self) -> None:
        while True:
            try:
                conn, peer = self._tcp.accept()
            except OSError:
                return
            with conn, contextlib.suppress(OSError):
                conn.sendall(f"{self._name} {peer[0]}".encode())

    def _serve_udp(self) -> None:
        while True:
            try:
                data, peer = self._udp.recvfrom(1000)
            except OSError:
                return
            if not data:
                return
            self._udp.sendto(f"{self._name} {peer[0]}".encode(), peer)

    def close(self) -> None:
        for sock in (self._tcp, self._udp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._tcp.close()
        self._udp.close()


def _family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp(namespace: str, address: str, port: int, timeout_s: float = 2.0) -> str:
    """What a server there says, or the name of the error."""

    def ask() -> str:
        try:
            with socket.create_connection((address, port), timeout_s) as conn:
                return conn.recv(200).decode()
        except OSError as err:
            return type(err).__name__

    return inside(namespace, ask)


def udp_ask(sock: socket.socket, address: str, port: int) -> str:
    try:
        sock.sendto(b"?", (address, port))
        return sock.recv(200).decode()
    except OSError as err:
        return type(err).__name__


def udp(namespace: str, address: str, port: int, timeout_s: float = 2.0) -> str:
    sock = inside(namespace, lambda: socket.socket(_family_of(address), socket.SOCK_DGRAM))
    with sock:
        sock.settimeout(timeout_s)
        sock.connect((address, port))
        return udp_ask(sock, address, port)


def dns(namespace: str, name: str, qtype: str = "A") -> DNSRecord:
    sock = inside(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.settimeout(2.0)
        sock.sendto(DNSRecord.question(name, qtype).pack(), (DNS, 53))
        return DNSRecord.parse(sock.recv(4096))


def _is_idle(agent: Any) -> bool:
    proxy = agent.proxy
    return not (proxy._dirty or proxy._wake.is_set() or proxy._syncing)


class Lab:
    def __init__(self, api: Api, *, dual_stack: bool = False) -> None:
        self.api = api
        self._dual_stack = dual_stack
        self.machines: dict[str, Machine] = {}
        self.servers: list[Echo] = []

    def build(self) -> None:
        for namespace in ("sw", "out", *MACHINES, *PODS):
            ip("netns", "add", f"{PREFIX}{namespace}")
            ip("link", "set", "lo", "up", ns=namespace)
        ip("link", "add", "br0", "type", "bridge", ns="sw")
        ip("link", "set", "br0", "up", ns="sw")
        for namespace, address in (("out", STRANGER), *((m, MACHINES[m][0]) for m in MACHINES)):
            ip("link", "add", "eth0", "type", "veth", "peer", "name", namespace, "netns", f"{PREFIX}sw", ns=namespace)
            ip("link", "set", "dev", namespace, "master", "br0", "up", ns="sw")
            ip("addr", "add", f"{address}/24", "dev", "eth0", ns=namespace)
            ip("link", "set", "eth0", "up", ns=namespace)
        ip("addr", "add", "10.89.77.200/24", "dev", "eth0", ns="out")  # outside machine_cidrs
        for machine in MACHINES:
            ip("route", "add", "default", "via", STRANGER, ns=machine)
        for pod, (machine, address) in PODS.items():
            gateway = f"{MACHINES[machine][1]}.1"
            ip(
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                f"veth{pod}",
                "netns",
                f"{PREFIX}{machine}",
                ns=pod,
            )
            ip("addr", "add", f"{address}/32", "dev", "eth0", ns=pod)
            ip("link", "set", "eth0", "up", ns=pod)
            ip("route", "add", "default", "via", gateway, "dev", "eth0", "onlink", ns=pod)
            ip("addr", "add", f"{gateway}/32", "dev", f"veth{pod}", ns=machine)
            ip("link", "set", f"veth{pod}", "up", ns=machine)
            ip("route", "add", f"{address}/32", "dev", f"veth{pod}", ns=machine)
        if self._dual_stack:
            self._build_ipv6()
        for machine, (address, prefix) in MACHINES.items():
            made = node(machine, address, f"{prefix}.0/24")
            if self._dual_stack:
                made["spec"]["podCIDRs"].append(RANGES_IPV6[machine])
                made["status"]["addresses"].append({"type": "InternalIP", "address": MACHINES_IPV6[machine]})
            self.api.put("nodes", made)

    def _build_ipv6(self) -> None:
        for namespace, address in (("out", STRANGER_IPV6), *MACHINES_IPV6.items()):
            ip("addr", "add", f"{address}/64", "dev", "eth0", "nodad", ns=namespace)
        for machine in MACHINES:
            ip("-6", "route", "add", "default", "via", STRANGER_IPV6, ns=machine)
        for pod, address in PODS_IPV6.items():
            connect_ipv6(PODS[pod][0], pod, address, RANGES_IPV6[PODS[pod][0]])

    def start(self, name: str) -> Machine:
        machine = self.machines[name] = Machine(name, self.api, dual_stack=self._dual_stack)
        machine.start()
        return machine

    def serve(self, namespace: str, port: int) -> None:
        for address in ("0.0.0.0", "::") if self._dual_stack else ("0.0.0.0",):
            self.servers.append(Echo(namespace, port, address=address))

    def wait(self) -> None:
        """Until both machines have applied everything there is to know."""
        for machine in self.machines.values():
            agent = machine.agent
            assert agent is not None
            wanted = str(self.api._revision)
            eventually(
                lambda a=agent, w=wanted: (
                    max(  # type: ignore[misc]
                        int(i.resource_version) for i in a.informers._informers.values()
                    )
                    >= int(w)
                ),
                "events do not arrive",
            )
        # One informer has seen the newest revision; the others may still be handing over older ones.
        time.sleep(0.3)
        for machine in self.machines.values():
            eventually(lambda m=machine: _is_idle(m.agent), "still busy")  # type: ignore[misc]

    def tear_down(self) -> None:
        with contextlib.ExitStack() as stack:
            for namespace in ("sw", "out", *MACHINES, *PODS):
                stack.callback(
                    subprocess.run, ["ip", "netns", "del", f"{PREFIX}{namespace}"], check=False, capture_output=True
                )
            for server in self.servers:
                stack.callback(server.close)
            for machine in self.machines.values():
                stack.callback(machine.stop)


def node(name: str, address: str, cidr: str) -> Obj:
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def service(name: str, cluster_ip: str, **spec: Any) -> Obj:
    spec.setdefault("ports", [{"name": "p", "port": 80, "protocol": "TCP"}])
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": cluster_ip, **spec}}


def endpoints(name: str, pods: list[str], port: int = 8080, protocol: str = "TCP", port_name: str = "p") -> Obj:
    return {
        "metadata": {
            "name": f"{name}-{protocol.lower()}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": port, "protocol": protocol}],
        "endpoints": [
            {"addresses": [PODS[pod][1]], "nodeName": PODS[pod][0], "conditions": {"ready": True}} for pod in pods
        ],
    }


def connect_ipv6(machine: str, pod: str, address: str, cidr: str) -> None:
    """The IPv6 half of a pod's link, as the machine's kubelet makes it."""
    gateway, link = cidr.replace("::/64", "::1"), f"veth{pod}"
    _netlink(machine, "lo", lambda ipr, index: prepare_machine(ipr, index, cidr, gateway))
    _netlink(machine, link, lambda ipr, index: connect_machine(ipr, link, index, address, gateway))
    _netlink(pod, "eth0", lambda ipr, index: connect_pod(ipr, index, address))


def _netlink(namespace: str, link: str, work: Callable[[Any, int], None]) -> None:
    """`work` with that link's index, in the namespace."""

    def there() -> None:
        with IPRoute() as ipr:
            work(ipr, ipr.link_lookup(ifname=link)[0])

    inside(namespace, there)


@contextlib.contextmanager
def running_lab(*, dual_stack: bool = False) -> Iterator[Lab]:
    """Both machines run, every pod answers on port 8080."""
    if os.geteuid():
        pytest.skip("needs root")
    for left in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split():
        if left.startswith(PREFIX):
            subprocess.run(["ip", "netns", "del", left], check=True)
    made = Lab(Api(), dual_stack=dual_stack)
    try:
        made.build()
        for machine in MACHINES:
            made.start(machine)
        for pod in PODS:
            made.serve(pod, 8080)
        yield made
    finally:
        made.tear_down()
