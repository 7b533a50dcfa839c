"""`sk8 status` on a control plane of a cluster of VMs: the machines are the API's Nodes; there is no host agent."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import doctor, status
from cluster.cli.api import ApiUnavailable
from cluster.cli.doctor_judge import judge
from cluster.cli.output import Output
from cluster.machine.config import ClusterConfig, MachineSpec


def node(name: str, ready: str = "True", **labels: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready}]
    addresses = [{"type": "InternalIP", "address": f"10.0.0.{name[-1]}"}, {"type": "Hostname", "address": name}]
    return {"metadata": {"name": name, "labels": labels}, "status": {"conditions": conditions, "addresses": addresses}}


STORE = {
    "leader": "cp1", "revision": 900, "alarms": [],
    "members": [{"name": "cp1", "id": 1, "learner": False, "answers": True, "role": "leader", "term": 1,
                 "revision": 900, "keys": 1, "db_size_bytes": 1 << 20}],
}  # fmt: skip


class Api:
    """`nodes` None: it does not answer."""

    nodes: list[dict[str, Any]] | None

    def __init__(self, _: ClusterConfig) -> None:
        pass

    async def get(self, path: str) -> dict[str, Any]:
        if self.nodes is None:
            raise ApiUnavailable(path)
        return {"items": self.nodes if path == "/api/v1/nodes" else []}

    async def leaders(self) -> dict[str, str]:
        return {"kube-scheduler": "cp1"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterConfig:
    async def store(_: ClusterConfig) -> dict[str, Any]:
        return STORE

    for module in (status, doctor):
        monkeypatch.setattr(module, "AdminApi", Api)
        monkeypatch.setattr(module, "store_status", store)
    base = replace(ClusterConfig.local(), base_dir=str(tmp_path / "base"), run_dir=str(tmp_path / "run"))
    base.base.mkdir()
    return replace(base, provider="vm", machines=(MachineSpec("cp1", "10.0.0.1", True),), ray_head="cp1")


async def test_the_machines_are_its_nodes(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Api, "nodes", [node("cp1"), node("w2"), node("w3", "Unknown")], raising=False)
    seen = await status.look(config)
    rows = [(row["name"], row["state"], row["node"], row["address"], row["role"]) for row in seen["machines"]]
    assert rows == [
        ("cp1", "running", "Ready", "10.0.0.1", "control-plane,ray-head"),
        ("w2", "running", "Ready", "10.0.0.2", "worker"),
        ("w3", "unknown", "NotReady", "10.0.0.3", "worker"),
    ]
    assert not seen["healthy"] and seen["store"]["leader"] == "cp1"
    assert "w3     unknown   NotReady" in status.render(config, seen)
    monkeypatch.setattr(Api, "nodes", [node("cp1"), node("w2")])
    assert (await status.look(config))["healthy"]
    out = io.StringIO()
    await status.show_machines(config, Output(out=out), as_json=True)
    assert [row["name"] for row in json.loads(out.getvalue())] == ["cp1", "w2"]


async def test_without_the_api_the_store_is_shown_all_the_same(
    config: ClusterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it said that the host agent does not answer, which such a cluster does not have."""
    monkeypatch.setattr(Api, "nodes", None, raising=False)
    said = status.render(config, await status.look(config))
    assert "host agent" not in said and "journalctl -u sk8-machine" in said and "does not answer" in said
    assert "cp1" in said and "leader" in said


async def test_the_doctor_misses_no_host_agent(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Api, "nodes", [node("cp1")], raising=False)
    assert not [finding for finding in judge(await doctor.gather(config)) if "host agent" in finding.message]
