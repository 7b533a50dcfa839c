"""The provider of machines that are there already; SSH is played."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from actors import onprem
from actors.onprem import OnPremNodeProvider

MACHINES = {"head": ["10.0.0.1"], "control-plane": ["10.0.0.2"], "worker": ["10.0.0.3", "10.0.0.4"]}


def configuration(**machines: list[str]) -> dict[str, Any]:
    return {
        "cluster_name": "test",
        "auth": {"ssh_user": "admin", "ssh_private_key": "/none"},
        "provider": {"type": "external", "machines": MACHINES | machines},
        "head_node_type": "head",
        "max_workers": 100,
        "available_node_types": {name: {"node_config": {}, "resources": {}} for name in MACHINES},
    }


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    commands: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(
            f"{command[-2].rpartition('@')[2]}: {command[-1]}" if command[0] == "ssh" else " ".join(command)
        )
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(onprem.subprocess, "run", run)
    monkeypatch.setattr(onprem, "_TORN_DOWN", {})
    return commands


def provider(*, on_head: bool, **machines: list[str]) -> OnPremNodeProvider:
    config = OnPremNodeProvider.bootstrap_config(configuration(**machines))
    return OnPremNodeProvider(config["provider"] | ({"on_head": True} if on_head else {}), "test")


def worker(kind: str) -> dict[str, str]:
    return {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_USER_NODE_TYPE: kind}


def test_there_are_as_many_nodes_of_a_type_as_machines() -> None:
    config = OnPremNodeProvider.bootstrap_config(configuration())
    counts = {name: kind["min_workers"] for name, kind in config["available_node_types"].items()}
    assert counts == {"head": 0, "control-plane": 1, "worker": 2}
    assert config["max_workers"] == 3
    with pytest.raises(ValueError, match="one machine of type head"):
        OnPremNodeProvider.bootstrap_config(configuration(head=[]))


def test_a_node_is_a_free_machine_of_its_type(said: list[str]) -> None:
    on_head = provider(on_head=True)
    assert on_head.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD}) == ["10.0.0.1"]
    on_head.create_node({}, worker("worker"), 1)
    on_head.create_node({}, worker("worker"), 5)
    on_head.create_node({}, worker("control-plane"), 1)
    assert on_head.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: "worker"}) == ["10.0.0.3", "10.0.0.4"]
    on_head.set_node_tags("10.0.0.3", {"a": "b"})
    assert provider(on_head=True).node_tags("10.0.0.3")["a"] == "b", "it is kept in a file"
    assert not said


def test_a_machine_that_is_no_longer_named_is_cleaned_and_its_node_forgotten(said: list[str]) -> None:
    provider(on_head=True).create_node({}, worker("worker"), 2)
    smaller = provider(on_head=True, worker=["10.0.0.4"])
    assert smaller.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_WORKER}) == ["10.0.0.4"]
    assert said == [f"10.0.0.3: {onprem.TEARDOWN}", f"{onprem.FORGET} 10.0.0.3"]


def test_a_machine_is_let_go_though_the_api_is_silent(
    said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_head = provider(on_head=True)
    on_head.create_node({}, worker("worker"), 1)
    cleans = onprem.subprocess.run

    def silent(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[0] == "sudo":
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return cleans(command, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(onprem.subprocess, "run", silent)
    on_head.terminate_node("10.0.0.3")
    assert on_head.is_terminated("10.0.0.3")
    assert "the Node of 10.0.0.3 could not be deleted" in capsys.readouterr().out


def test_ray_down_cleans_machines_that_it_never_saw_start_the_head_last(said: list[str]) -> None:
    down = provider(on_head=False)
    found = down.nodes_for_teardown({TAG_RAY_NODE_KIND: NODE_KIND_HEAD})
    found += down.nodes_for_teardown({TAG_RAY_NODE_KIND: NODE_KIND_WORKER})
    down.terminate_nodes(found)
    assert [line.partition(":")[0] for line in said] == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.1"]
    assert not down.nodes_for_teardown({}), "Ray asks until nothing is left"
