"""What the kubelet writes to the API: pod statuses, the Node, admission's verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.api.errors import ApiError, conflict, not_found
from cluster.node.admission import reject
from cluster.node.config import ConfigError, KubeletConfig
from cluster.node.exec_stream import status_of
from cluster.node.logs import LogQuery
from cluster.node.node_status import Health, MachineFacts, capacity, node_status, without_heartbeats
from cluster.node.object_cache import ObjectCache
from cluster.node.prober import port_number
from cluster.node.status_writer import StatusWriter, timed_conditions

FACTS = MachineFacts(4, 8 << 30, 100 << 30, "mid", "uuid", "boot", "6.1", "Debian", "amd64")
POD = {"metadata": {"name": "p", "namespace": "ns", "uid": "u1", "resourceVersion": "1"}}


def status(ready: str, phase: str = "Running", **more: Any) -> dict[str, Any]:
    return {"phase": phase, "conditions": [{"type": "Ready", "status": ready}], **more}


class FakeApi:
    """Remembers patches; `fail` may raise first."""

    def __init__(self) -> None:
        self.patches: list[dict[str, Any]] = []
        self.fail: list[ApiError] = []
        self.reads = 0
        self.objects: dict[str, dict[str, Any]] = {}

    async def patch(self, resource: str, name: str, patch: Any, namespace: str = "", **_: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.fail:
            raise self.fail.pop(0)
        self.patches.append(patch)
        return {"metadata": {"resourceVersion": str(10 + len(self.patches))}}

    async def get(self, resource: str, name: str, namespace: str = "") -> dict[str, Any]:
        self.reads += 1
        await asyncio.sleep(0)
        if name not in self.objects:
            raise not_found(resource, name)
        return self.objects[name]


def writer(api: FakeApi, clock: Callable[[], float] = lambda: 1000.0) -> StatusWriter:
    return StatusWriter(api, clock)  # type: ignore[arg-type]


def ready_of(patch: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in patch["status"]["conditions"] if c["type"] == "Ready")


async def test_the_newest_status_wins_and_uid_guards_it() -> None:
    api = FakeApi()
    w = writer(api)
    w.set(POD, status("False"))
    w.set(POD, status("True"))
    await w.flush("u1")
    assert [ready_of(p)["status"] for p in api.patches] == ["True"]
    assert api.patches[0]["metadata"] == {"uid": "u1"}


async def test_a_failed_write_is_tried_again() -> None:
    api = FakeApi()
    api.fail = [ApiError(503, "ServiceUnavailable", "away")]
    w = writer(api)
    w.set(POD, status("True"))
    await w.flush("u1")
    assert len(api.patches) == 1


async def test_a_status_of_a_pod_that_is_gone_is_dropped() -> None:
    api = FakeApi()
    api.fail = [conflict("pods", "p", "uid")]
    w = writer(api)
    w.set(POD, status("True"))
    await w.flush("u1")
    assert api.patches == []


async def test_what_others_changed_is_written_again() -> None:
    api = FakeApi()
    w = writer(api)
    w.set(POD, status("True"))
    await w.flush("u1")
    stale = {"metadata": {**POD["metadata"], "resourceVersion": "5"}, "status": status("False")}
    w.seen(stale)
    await w.flush("u1")
    assert len(api.patches) == 1, "older than our write"
    newer = {"metadata": {**POD["metadata"], "resourceVersion": "50"}, "status": status("False")}
    w.seen(newer)
    await w.flush("u1")
    assert ready_of(api.patches[-1])["status"] == "True" and len(api.patches) == 2


async def test_an_address_that_changed_is_replaced_in_a_merge_by_address() -> None:
    api = FakeApi()
    w = writer(api)
    w.set(POD, status("True", podIPs=[{"ip": "a"}]))
    await w.flush("u1")
    w.set(POD, status("True", podIPs=[{"ip": "b"}]))
    await w.flush("u1")
    assert api.patches[-1]["status"]["podIPs"] == [{"ip": "b"}, {"ip": "a", "$patch": "delete"}]


def test_transition_times_move_with_the_status_alone() -> None:
    known = {"Ready": {"type": "Ready", "status": "False", "lastTransitionTime": "then"}}
    by_type, listed = timed_conditions([{"type": "Ready", "status": "False", "reason": "new"}], known, 5.0)
    assert listed[0]["lastTransitionTime"] == "then" and listed[0]["message"] is None
    _, listed = timed_conditions([{"type": "Ready", "status": "True"}], by_type, 5.0)
    assert listed[0]["lastTransitionTime"] == "1970-01-01T00:00:05Z" and listed[0]["reason"] is None


async def test_the_cache_shares_reads_and_never_keeps_an_absence() -> None:
    api, now = FakeApi(), [0.0]
    cache = ObjectCache(api, ttl_s=5, clock=lambda: now[0])  # type: ignore[arg-type]
    assert await cache.get("configmaps", "ns", "c") is None
    api.objects["c"] = {"x": 1}
    both = await asyncio.gather(cache.get("configmaps", "ns", "c"), cache.get("configmaps", "ns", "c"))
    assert both == [{"x": 1}, {"x": 1}] and api.reads == 2
    await cache.get("configmaps", "ns", "c")
    assert api.reads == 2
    now[0] = 6
    await cache.get("configmaps", "ns", "c")
    assert api.reads == 3


def make_config(tmp_path: Path, **settings: Any) -> KubeletConfig:
    for name in ("crt", "key", "ca"):
        (tmp_path / name).touch()
    return KubeletConfig(
        "m1",
        "10.89.0.11",
        str(tmp_path),
        str(tmp_path / "crt"),
        str(tmp_path / "key"),
        str(tmp_path / "ca"),
        **settings,
    )


def test_config_says_everything_that_is_wrong(tmp_path: Path) -> None:
    make_config(tmp_path).validate()
    with pytest.raises(ConfigError) as err:
        make_config(tmp_path, cpu="lots", max_pods=0, node_lease_renew_s=9.0).validate()
    for field in ("cpu", "max_pods", "node_lease_renew_s"):
        assert field in str(err.value)


def test_node_object(tmp_path: Path) -> None:
    config = make_config(tmp_path, cpu="1500m", memory="4Gi", control_plane=True, zone="z1")
    labels = config.labels()
    assert labels["node-role.kubernetes.io/control-plane"] == "" and labels["topology.kubernetes.io/zone"] == "z1"
    has = capacity(config, FACTS)
    assert (has["cpu"], has["memory"], has["pods"]) == ("1500m", "4Gi", "110")

    def build(health: Health, previous: list[dict[str, Any]], now: float) -> dict[str, Any]:
        return node_status(
            config,
            FACTS,
            runtime_version="docker://1",
            health=health,
            images=[],
            volumes_in_use=["v"],
            previous=previous,
            now=now,
        )

    first = build(Health(), [], 100.0)
    ready = next(c for c in first["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "KubeletReady")
    later = build(Health(), first["conditions"], 200.0)
    assert without_heartbeats(first) == without_heartbeats(later)
    bad = build(Health(network="no pod range"), later["conditions"], 300.0)
    ready = next(c for c in bad["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", "KubeletNotReady", "no pod range")
    assert first["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250


def pod(cpu: str = "", **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "resources": {"requests": {"cpu": cpu}} if cpu else {}}
    return {"metadata": {"name": "p"}, "spec": {"containers": [container], **spec}}


def test_admission() -> None:
    room = {"cpu": 1000, "memory": 1 << 30, "pods": 2}
    assert reject(pod("400m"), [pod("600m")], room, {}) is None
    verdict = reject(pod("401m"), [pod("600m")], room, {})
    assert verdict is not None
    assert verdict == (
        "OutOfcpu",
        "Node didn't have enough resource: cpu, requested: 401, used: 600, capacity: 1000",
    )
    done = {**pod("600m"), "status": {"phase": "Succeeded"}}
    assert reject(pod("401m"), [done], room, {}) is None
    assert (reject(pod(), [pod(), pod()], room, {}) or ("",))[0] == "OutOfpods"
    assert (reject(pod(nodeSelector={"disk": "ssd"}), [], room, {"disk": "hdd"}) or ("",))[0] == "NodeAffinity"


def test_admission_leaves_what_the_machine_does_not_know_to_the_scheduler() -> None:
    """Regression: an extended resource that somebody wrote on the Node kept every pod out that asked for it."""
    wanted = {"example.com/licence": "2"}
    asking = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {"requests": wanted}}]}}
    room = {"cpu": 1000, "pods": 2}
    assert reject(asking, [], room, {}) is None
    refused = reject(asking, [], room | {"example.com/licence": 1}, {})
    assert refused is not None and refused[0] == "OutOfexample.com/licence"


def with_port(**port: object) -> dict[str, Any]:
    return {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, **port}]}]},
    }


def test_two_pods_cannot_have_one_port_of_the_machine() -> None:
    room = {"pods": 9}
    taken = [with_port(hostPort=80), with_port(hostPort=81, hostIP="10.0.0.1")]
    for clash in (with_port(hostPort=80), with_port(hostPort=80, hostIP="10.0.0.1"), with_port(hostPort=81)):
        assert (reject(clash, taken, room, {}) or ("",))[0] == "NodePorts"
    for fine in (with_port(hostPort=80, protocol="UDP"), with_port(hostPort=81, hostIP="10.0.0.2"), with_port()):
        assert reject(fine, taken, room, {}) is None


def test_unsafe_sysctls_are_refused() -> None:
    def asking(name: str, **spec: object) -> dict[str, Any]:
        return pod(securityContext={"sysctls": [{"name": name, "value": "1"}]}, **spec)

    room = {"pods": 9}
    verdict = reject(asking("kernel.msgmax"), [], room, {})
    assert verdict == ("SysctlForbidden", 'forbidden sysctl: "kernel.msgmax" not allowlisted')
    assert reject(asking("kernel.msgmax"), [], room, {}, ("kernel.msg*",)) is None
    assert reject(asking("net.ipv4.tcp_syncookies"), [], room, {}) is None
    assert "host net" in (reject(asking("net/ipv4/tcp_syncookies", hostNetwork=True), [], room, {}) or ("", ""))[1]
    assert "host ipc" in (reject(asking("kernel.shm_rmid_forced", hostIPC=True), [], room, {}) or ("", ""))[1]


def test_exec_status() -> None:
    assert status_of(0)["status"] == "Success"
    failed = status_of(3)
    assert failed["reason"] == "NonZeroExitCode" and failed["details"]["causes"][0]["message"] == "3"


def test_log_queries() -> None:
    query = LogQuery.parse({"follow": "true", "tailLines": "5", "sinceSeconds": "10", "limitBytes": "7"}, 100.0)
    assert query.options.follow and query.options.tail == 5 and query.options.since == 90.0
    assert query.limit_bytes == 7
    for bad in ({"tailLines": "-1"}, {"limitBytes": "0"}, {"sinceTime": "x"}):
        with pytest.raises(ApiError):
            LogQuery.parse(bad, 0.0)


def test_ports_by_name() -> None:
    container = {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}
    assert [port_number(p, container) for p in (80, "81", "web")] == [80, 81, 8080]
    with pytest.raises(ValueError, match="couldn't find port"):
        port_number("nope", container)
