"""What Docker is asked for a sandbox, and how its network namespace is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.node.docker_spec import Box, from_inspect, sandbox_body
from cluster.node.machine_netns import engine_proc
from cluster.node.runtime import PodRef, SandboxConfig

POD = PodRef("default", "web", "u1")


@pytest.mark.parametrize(
    ("host_network", "box", "own"),
    [
        (False, Box(), True),
        (False, Box(proc=""), False),
        (True, Box(), False),
        (True, Box(netns="/run/netns/m1"), True),
    ],
)
def test_who_makes_the_namespace(host_network: bool, box: Box, own: bool) -> None:
    """The runtime, where the process can be seen; the engine for a namespace that is the engine's own."""
    config = SandboxConfig(POD, 0, "web", "pause", {"net.ipv6.conf.all.disable_ipv6": "0"}, host_network=host_network)
    body = sandbox_body("m1", config, box)
    assert body["NetworkDisabled"] is own
    off = {"net.ipv6.conf.default.disable_ipv6": "1"} if own else {}
    assert body["HostConfig"]["Sysctls"] == {"net.ipv6.conf.all.disable_ipv6": "0", **off}


def test_no_setting_of_ipv6_where_the_kernel_has_none() -> None:
    assert sandbox_body("m1", SandboxConfig(POD, 0, "web", "pause"), Box(ipv6=False))["HostConfig"]["Sysctls"] == {}


def inspected(pid: int, key: str = "") -> dict[str, object]:
    return {"Id": "c1", "State": {"Status": "running", "Pid": pid}, "NetworkSettings": {"SandboxKey": key}}


def test_the_namespace_is_the_engines_or_that_of_the_running_process() -> None:
    assert from_inspect(inspected(7)).netns == "/proc/7/ns/net"
    assert from_inspect(inspected(7), "/run/sk8.proc").netns == "/run/sk8.proc/7/ns/net"
    for proc in ("", "/proc", "/run/sk8.proc"):  # one of an earlier release's sandboxes has both
        assert from_inspect(inspected(7, "/run/docker/netns/a"), proc).netns == "/run/docker/netns/a"
    assert from_inspect(inspected(0)).netns == from_inspect(inspected(7), "").netns == ""


def test_a_local_machine_sees_the_engines_processes_in_what_was_kept_for_it(tmp_path: Path) -> None:
    assert engine_proc("", tmp_path) == "/proc"
    assert engine_proc("/run/netns/m1", tmp_path) == ""
    (tmp_path / "1").mkdir()
    assert engine_proc("/run/netns/m1", tmp_path) == str(tmp_path)
