"""`sk8 chaos run` on the running cluster: every kind of actor killed once under load, and what was promised held."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster

SPEC = ("--seed", "3", "--writes-per-s", "20", "--requests-per-s", "20", "--transfers-per-s", "5")


@pytest.mark.timeout(600)
def test_every_kind_of_actor_is_killed_and_nothing_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    cluster.wait_demo()
    said = cluster.sk8("chaos", "run", "kill-actor", *SPEC, "--report", str(tmp_path), "-o", "json", timeout_s=500)
    report = json.loads(said)
    assert report["held"] and not report["problems"]
    assert [f["kind"] for f in report["faults"]] == [
        "kill-state", "kill-apiserver", "kill-scheduler", "kill-controllers", "kill-supervisor", "kill-kubelet",
        "kill-proxy",
    ]  # fmt: skip
    assert all(f["recovery_s"] is not None and not f["note"] for f in report["faults"])
    for client in ("api", "web", "bank"):
        assert report["requests"][client]["answered"] > report["seconds"]
    assert "sk8 chaos: kill-actor" in (tmp_path / "report.html").read_text()
