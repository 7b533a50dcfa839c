"""`sk8 machine forget`: the node and the name in the ledger, each of which may be there without the other."""

from __future__ import annotations

import argparse
import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.api.forgotten import NAME as FORGOTTEN
from cluster.api.meta import parse_time, rfc3339
from cluster.cli import vm_members
from cluster.cli.output import CommandError, Output
from cluster.machine.config import ClusterConfig, MachineSpec
from cluster.machine.join_ledger import JoinLedger

NODE = {"metadata": {"name": "w2"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.3"}]}}


class Api:
    """`marked`: the ConfigMap of the forgotten."""

    def __init__(self, deleted: list[str], marked: dict[str, str]) -> None:
        self._deleted = deleted
        self._marked = marked

    async def create(self, path: str, obj: dict[str, Any]) -> bool:
        assert (path, obj["metadata"]["name"]) == ("/api/v1/namespaces/kube-system/configmaps", FORGOTTEN)
        return False  # it is there

    async def merge(self, path: str, patch: dict[str, Any]) -> None:
        assert path.endswith(f"/kube-system/configmaps/{FORGOTTEN}") and not self._deleted, "a mark comes first"
        for name, when in patch["data"].items():
            if when is None:
                del self._marked[name]
            else:
                self._marked[name] = when

    async def get(self, path: str) -> dict[str, Any]:
        return {"data": dict(self._marked)} if path.endswith(FORGOTTEN) else {"items": [NODE]}

    async def delete(self, path: str) -> None:
        self._deleted.append(path)


@pytest.fixture
def config(tmp_path: Path) -> ClusterConfig:
    made = replace(ClusterConfig.local(1, 1), base_dir=str(tmp_path))
    ledger = JoinLedger(made)
    ledger.invite_founders("m1")
    token = ledger.add_token()
    for name, ip in (("w1", "10.0.0.2"), ("w2", "10.0.0.3")):
        ledger.admit(token, MachineSpec(name, ip, False), {}, ip, 0.0)
    return made


async def forget(
    config: ClusterConfig, name: str, monkeypatch: pytest.MonkeyPatch, marked: dict[str, str] | None = None
) -> tuple[list[str], str]:
    """What was deleted, and what was said."""
    deleted: list[str] = []
    marks = {} if marked is None else marked
    monkeypatch.setattr(vm_members, "_vms", lambda _: config)
    monkeypatch.setattr(vm_members, "AdminApi", lambda _: Api(deleted, marks))
    out = io.StringIO()
    args = argparse.Namespace(base=config.base, name=name)
    assert await vm_members._forget(args, Output(out=out, err=out)) == 0
    return deleted, out.getvalue()


@pytest.mark.parametrize("name", ["w1", "10.0.0.2"])
async def test_a_name_whose_node_is_gone_is_freed(
    config: ClusterConfig, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted, said = await forget(config, name, monkeypatch)
    assert not deleted and "the name w1 is free again" in said
    assert JoinLedger(config).machines().keys() == {"m1", "w2"}


async def test_a_node_and_its_name_go_together(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = int(time.time())
    marked = {"w1": rfc3339(before - 86400), "w0": "2025-01-01T00:00:00Z"}
    deleted, said = await forget(config, "10.0.0.3", monkeypatch, marked)
    assert before <= parse_time(marked["w2"]) <= time.time()
    assert marked.keys() == {"w1", "w2"}, "no certificate of w0's from before its mark is good any more"
    assert deleted == ["/api/v1/nodes/w2"] and "node w2 is deleted" in said
    assert JoinLedger(config).machines().keys() == {"m1", "w1"}


async def test_what_nobody_is_called_changes_nothing(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted, said = await forget(config, "w9", monkeypatch)
    assert not deleted and "no machine joined as that" in said
    with pytest.raises(CommandError, match="m1 is a control plane"):
        await forget(config, "m1", monkeypatch)
    assert JoinLedger(config).machines().keys() == {"m1", "w1", "w2"}
