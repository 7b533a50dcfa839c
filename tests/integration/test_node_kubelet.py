"""The whole kubelet on the real engine: pods run, end, and leave nothing behind."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster.node.cgroup_plan import SANDBOX_BYTES
from tests.support.device_plugin import GPU, Plugin
from tests.support.node_world import IMAGE, NODE_TESTS, NodeWorld, condition, machine_namespace, sh

pytestmark = NODE_TESTS


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NodeWorld]:
    with machine_namespace("sk8t-node-kubelet"):
        w = NodeWorld(tmp_path)
        async with w:
            yield w
        assert w.leftovers() == []


async def test_a_pod_runs_is_ready_and_leaves_nothing(world: NodeWorld) -> None:
    began = time.monotonic()
    await world.run_pod("web", "echo hello; exec sleep 1000")
    status = await world.ready("web")
    took = time.monotonic() - began
    print(f"pod ready after {took:.3f} s")
    assert status["phase"] == "Running"
    assert status["podIP"].startswith("10.244.77.")
    assert status["containerStatuses"][0]["state"]["running"]
    assert sh("ping", "-c1", "-W1", status["podIP"]) if os.path.exists("/bin/ping") else True
    await world.told("web", "Pulled", "Created", "Started")
    await world.client.delete("pods", "web", "default")
    await world.gone("web")
    assert world.leftovers() == []


async def test_a_crashing_container_is_restarted_with_back_off(world: NodeWorld) -> None:
    await world.run_pod("crash", "echo bye > /dev/termination-log; exit 3")
    status = await world.status(
        "crash",
        lambda s: (
            s.get("containerStatuses")
            and s["containerStatuses"][0]["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
        ),
    )
    container = status["containerStatuses"][0]
    assert container["restartCount"] >= 1
    assert container["lastState"]["terminated"]["exitCode"] == 3
    assert container["lastState"]["terminated"]["message"] == "bye\n"


async def test_out_of_memory_is_137_and_said_so(world: NodeWorld) -> None:
    limits = {"resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "16Mi"}}}
    await world.run_pod("hog", "tail /dev/zero", container=limits, restartPolicy="Never")
    status = await world.status("hog", lambda s: s.get("phase") == "Failed")
    ended = status["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


async def test_a_restarted_kubelet_adopts_and_restarts_nothing(world: NodeWorld) -> None:
    await world.run_pod("keep")
    before = await world.ready("keep")
    await world.stop()
    await world.start()
    await world.run_pod("next")
    await world.ready("next")
    after = (await world.pod("keep"))["status"]
    assert after["containerStatuses"][0]["containerID"] == before["containerStatuses"][0]["containerID"]
    assert after["containerStatuses"][0]["restartCount"] == 0, world.story("keep")
    assert after["podIP"] == before["podIP"]
    assert after["conditions"] == before["conditions"]


async def test_what_died_or_was_deleted_while_the_kubelet_was_away(world: NodeWorld) -> None:
    for name in ("dead", "deleted"):
        await world.run_pod(name)
    status = await world.ready("dead")
    await world.ready("deleted")
    await world.stop()
    sh("docker", "kill", status["containerStatuses"][0]["containerID"].removeprefix("docker://"))
    await world.client.delete("pods", "deleted", "default", grace_period_s=0)
    await world.start()
    after = await world.status("dead", lambda s: s["containerStatuses"][0]["restartCount"] == 1)
    assert after["podIP"] == status["podIP"]
    uid_left = sh("docker", "ps", "-aq", "--filter", "label=io.kubernetes.pod.name=deleted")
    assert uid_left == ""


async def test_a_lost_sandbox_is_rebuilt(world: NodeWorld) -> None:
    await world.run_pod("rebuilt")
    await world.ready("rebuilt")
    pause = sh("docker", "ps", "-q", "--filter", "label=io.kubernetes.pod.name=rebuilt", "--filter", "name=k8s_POD")
    sh("docker", "kill", pause.strip())
    after = await world.status("rebuilt", lambda s: s["containerStatuses"][0]["restartCount"] == 1)
    assert after["phase"] == "Running"
    await world.ready("rebuilt")


async def test_init_containers_and_environment(world: NodeWorld) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": "v1", "f.txt": "file"}}
    await world.client.create("configmaps", config, "default")
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/s"}, {"name": "conf", "mountPath": "/c"}]}
    env = [
        {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "BOTH", "value": "$(K)-$(IP)"},
    ]
    await world.run_pod(
        "init",
        'cat /s/from-init; echo "$BOTH"; echo $(cat /c/f.txt); sleep 1000',
        container={"env": env, **mount},
        initContainers=[{"name": "i", "image": IMAGE, "command": ["sh", "-c", "echo first > /s/from-init"], **mount}],
        volumes=[{"name": "shared", "emptyDir": {}}, {"name": "conf", "configMap": {"name": "c"}}],
    )
    status = await world.ready("init")
    container = status["containerStatuses"][0]["containerID"].removeprefix("docker://")
    assert sh("docker", "logs", container) == f"first\nv1-{status['podIP']}\nfile\n"
    assert status["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
    await world.client.patch("configmaps", "c", {"data": {"f.txt": "changed"}}, "default")
    await world.until(lambda: sh("docker", "exec", container, "cat", "/c/f.txt") == "changed")


async def test_readiness_follows_the_probe(world: NodeWorld) -> None:
    probe = {"exec": {"command": ["test", "-e", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 1}
    await world.run_pod("probed", container={"readinessProbe": probe})
    status = await world.status("probed", lambda s: s.get("phase") == "Running")
    assert condition(status, "Ready") == "False"
    container = status["containerStatuses"][0]["containerID"].removeprefix("docker://")
    sh("docker", "exec", container, "touch", "/tmp/ok")
    await world.ready("probed")
    sh("docker", "exec", container, "rm", "/tmp/ok")
    await world.status("probed", lambda s: condition(s, "Ready") == "False")
    await world.told("probed", "Unhealthy")


async def test_what_cannot_run_says_why(world: NodeWorld) -> None:
    await world.run_pod("never", container={"image": "sk8t-node/absent:1", "imagePullPolicy": "Never"})
    await world.run_pod("noconf", container={"envFrom": [{"configMapRef": {"name": "absent"}}]})
    await world.run_pod("big", container={"resources": {"requests": {"cpu": "100"}}})

    def waits(reason: str):  # type: ignore[no-untyped-def]
        return lambda s: (
            s.get("containerStatuses") and s["containerStatuses"][0]["state"].get("waiting", {}).get("reason") == reason
        )

    await world.status("never", waits("ErrImageNeverPull"))
    await world.status("noconf", waits("CreateContainerConfigError"))
    assert (await world.status("big", lambda s: s.get("phase") == "Failed"))["reason"] == "OutOfcpu"


async def test_pods_have_control_groups_by_their_quality_of_service(world: NodeWorld) -> None:
    half = {"cpu": "500m", "memory": "64Mi"}
    await world.run_pod("guaranteed", container={"resources": {"limits": half, "requests": half}})
    await world.run_pod("burstable", container={"resources": {"requests": {"cpu": "250m"}}})
    await world.run_pod("besteffort")
    names = ("guaranteed", "burstable", "besteffort")
    pods = {name: (await world.ready(name), (await world.pod(name))["metadata"]["uid"]) for name in names}
    tiers = {"guaranteed": "", "burstable": "burstable/", "besteffort": "besteffort/"}

    def group(controller: str, name: str) -> Path:
        return Path(f"/sys/fs/cgroup/{controller}/{world.name}/kubepods/{tiers[name]}pod{pods[name][1]}")

    for name, (status, _) in pods.items():
        container = status["containerStatuses"][0]["containerID"].removeprefix("docker://")
        assert (group("memory", name) / container / "memory.usage_in_bytes").exists()
    assert (group("cpu", "guaranteed") / "cpu.cfs_quota_us").read_text() == "50000\n"
    assert (group("cpu", "guaranteed") / "cpu.shares").read_text() == "512\n"
    assert int((group("memory", "guaranteed") / "memory.limit_in_bytes").read_text()) == (64 << 20) + SANDBOX_BYTES
    assert (group("cpu", "besteffort") / "cpu.shares").read_text() == "2\n"
    assert (group("cpu", "burstable").parent / "cpu.shares").read_text() == "256\n"
    await world.client.delete("pods", "burstable", "default")
    await world.gone("burstable")
    assert not group("cpu", "burstable").exists()
    assert (group("cpu", "burstable").parent / "cpu.shares").read_text() == "2\n"


async def test_a_running_pod_is_resized_in_place_or_told_why_not(world: NodeWorld) -> None:
    def sized(cpu: str, memory: str) -> dict[str, Any]:
        amounts = {"cpu": cpu, "memory": memory}
        return {"resources": {"requests": amounts, "limits": amounts}}

    async def resize(cpu: str, memory: str) -> None:
        change = {"spec": {"containers": [{"name": "app", **sized(cpu, memory)}]}}
        await world.client.patch("pods", "sized", change, "default", kind="strategic", subresource="resize")

    await world.run_pod("sized", container=sized("200m", "64Mi"))
    await world.ready("sized")
    await resize("400m", "96Mi")
    wanted = {"cpu": "400m", "memory": "96Mi"}
    after = await world.status("sized", lambda s: s["containerStatuses"][0]["resources"].get("limits") == wanted)
    assert after["containerStatuses"][0]["restartCount"] == 0
    container = after["containerStatuses"][0]["containerID"].removeprefix("docker://")
    group = Path(f"/sys/fs/cgroup/memory/{world.name}/kubepods/pod{(await world.pod('sized'))['metadata']['uid']}")
    assert int((group / container / "memory.limit_in_bytes").read_text()) == 96 << 20
    assert int((group / "memory.limit_in_bytes").read_text()) == (96 << 20) + SANDBOX_BYTES
    await resize("64", "96Mi")
    waiting = await world.status("sized", lambda s: condition(s, "PodResizePending") == "True")
    pending = next(c for c in waiting["conditions"] if c["type"] == "PodResizePending")
    assert pending["reason"] == "Infeasible"
    assert pending["message"] == "Node didn't have enough capacity: cpu, requested: 64000, capacity: 2000"
    await resize("300m", "80Mi")
    await world.status("sized", lambda s: not condition(s, "PodResizePending"))
    smaller = {"cpu": "300m", "memory": "80Mi"}
    await world.status("sized", lambda s: s["containerStatuses"][0]["resources"].get("limits") == smaller)


async def test_a_runtime_class_names_one_of_the_engines_runtimes(world: NodeWorld) -> None:
    for name, handler in (("plain", "runc"), ("strange", "kata")):
        made = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler}
        await world.client.create("runtimeclasses.node.k8s.io", made)
    await world.run_pod("plain", runtimeClassName="plain")
    await world.run_pod("strange", runtimeClassName="strange")
    await world.ready("plain", 30)

    async def told() -> list[str]:
        events = (await world.client.list("events", "default")).items
        return [e["message"] for e in events if e["reason"] == "FailedCreatePodSandBox"]

    assert 'no runtime for "kata" is configured' in (await world.until(told, 30))[0]
    assert (await world.pod("strange"))["status"]["phase"] == "Pending"


async def test_a_device_of_a_plugin_reaches_the_container(world: NodeWorld) -> None:
    plugin = Plugin(world.root / "kubelet" / "device-plugins")
    await plugin.start()
    try:
        await plugin.register()

        async def announced() -> bool:
            return (await world.client.get("nodes", world.name))["status"]["allocatable"].get(GPU) == "2"

        await world.until(announced)
        await world.run_pod("gpu", container={"resources": {"limits": {GPU: "1"}}})
        status = await world.ready("gpu")
        container = status["containerStatuses"][0]["containerID"].removeprefix("docker://")
        assert sh("docker", "exec", container, "sh", "-c", "echo $VISIBLE; stat -c %F /dev/gpu0") == (
            "0\ncharacter special file\n"
        )
    finally:
        await plugin.stop()
