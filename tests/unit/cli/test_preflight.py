"""Preflight's facts: read from a box as it is, without root, and without trusting what programs print."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli import preflight
from cluster.cli.preflight import Facts, gather, judge
from cluster.machine.config import ClusterConfig
from cluster.machine.processes import ProcessId

CONFIG = ClusterConfig.local()
BAD = Facts(
    platform="linux",
    root=True,
    missing=("nft", "ray", "kubectl"),
    port_owner="nginx (process 7)",
    disk_free_bytes=0,
    memory_free_bytes=0,
    routes=("10.0.0.0/8",),
    namespaces=False,
    forbidden=("CAP_SYS_ADMIN",),
    loop=False,
    engine=False,
)


def test_everything_wrong_is_said_at_once_errors_before_warnings() -> None:
    levels = [finding.level for finding in judge(BAD, CONFIG)]
    assert levels.count("error") == 8 and levels.count("warning") == 2
    assert all(finding.message and not finding.message.endswith(".") for finding in judge(BAD, CONFIG))
    assert all(finding.fix for finding in judge(BAD, CONFIG) if finding.level == "error")


def test_not_linux_and_not_root_hide_the_rest() -> None:
    assert len(judge(replace(BAD, root=False), CONFIG)) == 1
    assert len(judge(replace(BAD, platform="darwin"), CONFIG)) == 1


def test_the_facts_of_this_box(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = replace(CONFIG, base_dir=str(tmp_path / "not" / "yet"), api_port=taken.getsockname()[1])
        facts = gather(config)
    assert "process" in facts.port_owner
    assert facts.disk_free_bytes > 0 and facts.memory_free_bytes > 0


def test_an_engine_is_one_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "engine.sock"
    assert not preflight._answers(str(path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert not preflight._answers(str(path))  # left by one that died
        server.listen()
        assert preflight._answers(str(path))


@pytest.mark.parametrize(
    ("effective", "lacking"),
    [
        ("000001ffffffffff", ()),
        ("00000000a80425fb", ("CAP_NET_ADMIN", "CAP_SYS_ADMIN")),  # root in a container, by default
        ("00000000a80435fb", ("CAP_SYS_ADMIN",)),
    ],
)
def test_root_without_its_capabilities(effective: str, lacking: tuple[str, ...]) -> None:
    assert preflight._forbidden(f"Name:\tsk8\nCapPrm:\t0\nCapEff:\t{effective}\n") == lacking


@pytest.fixture
def kubectl(tmp_path: Path) -> Callable[[str], str]:
    def make(script: str) -> str:
        path = tmp_path / "kubectl"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_kubectl_says_its_version(kubectl: Callable[[str], str]) -> None:
    assert preflight._kubectl_minor(kubectl("""echo '{"clientVersion": {"major": "1", "minor": "32+"}}'""")) == 32


@pytest.mark.parametrize("script", ["exit 1", "echo hello", "echo '{}'", "echo '[]'"])
def test_a_kubectl_that_says_nothing_of_use_is_no_finding(kubectl: Callable[[str], str], script: str) -> None:
    assert preflight._kubectl_minor(kubectl(script)) is None


@pytest.mark.parametrize(("base", "found"), [("/srv/other", "/srv/other"), (CONFIG.base_dir, "")])
def test_another_cluster_is_known_by_its_host_agent(base: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.agent, "process", lambda _: ProcessId(7, 1))
    command = ["python", "-m", "cluster.cli.main", "host-agent", "--base", base]
    monkeypatch.setattr(preflight, "command_line", lambda _: command)
    assert preflight._elsewhere(CONFIG) == found
