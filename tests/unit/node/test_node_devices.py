"""Devices: who has which, and the device plugin API spoken with a real plugin over gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster.node import device_wire as wire
from cluster.node.device_core import DeviceTable, Grant, NoDevices, ended_before, requested
from cluster.node.device_plugins import DevicePlugins
from cluster.node.pod_config import with_devices
from cluster.node.pod_env import ConfigError
from cluster.node.runtime import ContainerConfig, Device, Mount, PodRef
from tests.support.device_plugin import GPU, Plugin

Obj = dict[str, Any]
CHECKPOINT = "kubelet_internal_checkpoint"


def asks(count: int) -> Obj:
    return {"name": "app", "resources": {"limits": {GPU: str(count), "cpu": "1"}}}


def pod(uid: str, *inits: Obj) -> Obj:
    return {"metadata": {"uid": uid}, "spec": {"initContainers": list(inits), "containers": [asks(1)]}}


def test_a_container_keeps_its_devices_and_nobody_else_gets_them() -> None:
    table = DeviceTable()
    table.announce(GPU, {"a": True, "b": True, "c": False})
    assert table.counts() == ({GPU: 3}, {GPU: 2})
    assert table.take(("u1", "app"), GPU, 1) == ["a"]
    assert table.take(("u1", "app"), GPU, 1) == ["a"], "its next run"
    assert table.take(("u2", "app"), GPU, 1) == ["b"]
    with pytest.raises(NoDevices, match=r"unavailable for example.com/gpu. Requested: 1, Available: 0"):
        table.take(("u3", "app"), GPU, 1)
    table.free("u1")
    assert table.take(("u3", "app"), GPU, 1) == ["a"]


def test_a_plugin_that_is_gone_leaves_its_devices_unhealthy() -> None:
    table = DeviceTable()
    table.announce(GPU, {"a": True})
    assert table.lose(GPU) and table.counts() == ({GPU: 1}, {GPU: 0})


def test_a_restarted_kubelet_recalls_what_living_pods_have() -> None:
    table, again = DeviceTable(), DeviceTable()
    table.announce(GPU, {"a": True, "b": True})
    table.take(("u1", "app"), GPU, 1)
    table.take(("u2", "app"), GPU, 1)
    again.recall(table.to_json(), ["u2"])
    again.announce(GPU, {"a": True, "b": True})
    assert again.take(("u2", "app"), GPU, 1) == ["b"]
    assert again.take(("u3", "app"), GPU, 1) == ["a"]


def test_containers_take_over_what_init_containers_that_are_over_had() -> None:
    table = DeviceTable()
    table.announce(GPU, {"a": True, "b": True})
    assert table.take(("u0", "app"), GPU, 1) == ["a"]
    assert table.take(("u1", "first"), GPU, 1) == ["b"]
    assert table.take(("u1", "second"), GPU, 1, ["first"]) == ["b"]
    table.free("u0")
    assert table.take(("u1", "app"), GPU, 1, ["first", "second"]) == ["b"], "before a device that is free"
    assert table.take(("u1", "other"), GPU, 1, ["first", "second"]) == ["a"], "what one container took, no other gets"
    with pytest.raises(NoDevices):
        table.take(("u2", "app"), GPU, 1)
    assert table.take(("u1", "first"), GPU, 1) == ["b"], "a new sandbox begins with the same"
    again = DeviceTable()
    again.recall(table.to_json(), ["u1"])
    assert again == DeviceTable(held=table.held)
    table.free("u1")
    assert table.take(("u2", "app"), GPU, 2) == ["a", "b"]


def test_an_init_containers_device_that_fell_ill_is_not_handed_on() -> None:
    table = DeviceTable()
    table.announce(GPU, {"a": True, "b": True})
    table.take(("u1", "init"), GPU, 1)
    table.announce(GPU, {"a": False, "b": True})
    assert table.take(("u1", "app"), GPU, 1, ["init"]) == ["b"]


def test_sidecars_and_later_init_containers_are_not_over() -> None:
    made = pod("u1", {"name": "first"}, {"name": "sidecar", "restartPolicy": "Always"}, {"name": "second"})
    assert ended_before(made, "app") == ["first", "second"]
    assert ended_before(made, "second") == ["first"]
    assert ended_before(made, "first") == []


def test_only_extended_resources_are_devices() -> None:
    assert requested(asks(2)) == {GPU: 2}
    own = {"cpu": "1", "x.kubernetes.io/y": "500m", GPU: "1k"}
    assert requested({"resources": {"limits": own}}) == {GPU: 1000}


def test_a_message_cut_short_is_refused() -> None:
    with pytest.raises(ValueError, match="ends within a field"):
        wire.devices(wire.allocate_request(["abc"])[:-1])


@pytest.fixture
async def plugins(tmp_path: Path) -> AsyncIterator[tuple[DevicePlugins, Plugin, asyncio.Event]]:
    changed = asyncio.Event()
    served = DevicePlugins(tmp_path, changed.set)
    task = asyncio.create_task(served.run())
    plugin = Plugin(tmp_path)
    await plugin.start()
    yield served, plugin, changed
    await plugin.stop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until_counts(served: DevicePlugins, changed: asyncio.Event, usable: int) -> None:
    async with asyncio.timeout(30):
        while served.counts()[1].get(GPU) != usable:
            await changed.wait()
            changed.clear()


async def test_a_plugin_registers_announces_allocates_and_leaves(
    plugins: tuple[DevicePlugins, Plugin, asyncio.Event],
) -> None:
    served, plugin, changed = plugins
    await plugin.register()
    await until_counts(served, changed, 2)
    (granted,) = await served.grants(pod("u1"), asks(1))
    assert granted == Grant({"VISIBLE": "0"}, (("/lib/gpu", "/opt", True),), (("/dev/gpu0", "/dev/null", "rw"),))
    assert plugin.asked == [wire.allocate_request(["gpu-0"])]
    with pytest.raises(ConfigError, match="Requested: 2, Available: 1"):
        await served.grants(pod("u2"), asks(2))
    plugin.ill.set()
    await until_counts(served, changed, 1)
    await plugin.stop()
    await until_counts(served, changed, 0)
    assert served.counts()[0] == {GPU: 2}


async def test_an_init_container_and_its_app_may_ask_for_the_only_device(
    plugins: tuple[DevicePlugins, Plugin, asyncio.Event],
) -> None:
    served, plugin, changed = plugins
    await plugin.register()
    await until_counts(served, changed, 2)
    both = pod("u1", {**asks(2), "name": "init"})
    for container in (*both["spec"]["initContainers"], asks(2)):
        await served.grants(both, container)
    assert plugin.asked == [wire.allocate_request(["gpu-0", "gpu-1"])] * 2


async def test_pods_that_come_and_go_at_once_leave_a_whole_checkpoint(
    plugins: tuple[DevicePlugins, Plugin, asyncio.Event], tmp_path: Path
) -> None:
    served, plugin, changed = plugins
    await plugin.register()
    await until_counts(served, changed, 2)
    await served.grants(pod("old"), asks(1))
    work = [served.free(f"other-{i}") for i in range(20)]
    await asyncio.gather(served.grants(pod("u1"), asks(1)), served.free("old"), *work)
    await served.grants(pod("u2"), asks(1))
    assert json.loads((tmp_path / CHECKPOINT).read_text()) == {
        GPU: [["u1", "app", ["gpu-1"]], ["u2", "app", ["gpu-0"]]],
    }


async def test_a_checkpoint_that_was_not_written_is_written_by_the_next_try(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_text(json.dumps({GPU: [["u1", "app", ["a"]]]}))
    served = DevicePlugins(tmp_path, lambda: None)
    await served.recall(["u1"])
    fresh = (tmp_path / CHECKPOINT).with_suffix(".new")
    fresh.mkdir()
    with pytest.raises(IsADirectoryError):
        await served.free("u1")
    fresh.rmdir()
    await served.free("u1")
    assert (tmp_path / CHECKPOINT).read_text() == "{}"


@pytest.mark.parametrize("text", ["{", "[]", '{"example.com/gpu": {"a": ["u1", "app"]}}', '{"example.com/gpu": 1}'])
async def test_a_checkpoint_of_another_shape_does_not_stop_the_kubelet(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CHECKPOINT).write_text(text)
    await DevicePlugins(tmp_path, lambda: None).recall(["u1"])
    assert "who has which device is not known" in caplog.text


async def test_another_version_is_refused(plugins: tuple[DevicePlugins, Plugin, asyncio.Event]) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="is not supported by kubelet"):
        await plugins[1].register(b"v1")


def test_what_a_device_brings_reaches_the_container() -> None:
    plain = ContainerConfig(PodRef("d", "p", "u"), "app", 0, "s", "img", env=("VISIBLE=mine",))
    grant = Grant({"VISIBLE": "0", "N": "1"}, (("/lib/gpu", "/opt/gpu", True),), (("/dev/gpu0", "/dev/null", "rw"),))
    made = with_devices(plain, [grant])
    assert made.env == ("VISIBLE=mine", "N=1")
    assert made.mounts == (Mount("/opt/gpu", "/lib/gpu", True),)
    assert made.devices == (Device("/dev/null", "/dev/gpu0", "rw"),)
