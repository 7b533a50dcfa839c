"""The dashboards where a Grafana looks for them; kubectl is a stand-in that keeps what it is given."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import yaml

MONITORING = Path(__file__).resolve().parents[3] / "infra" / "monitoring"
KUBECTL = """#!/bin/bash
case $1 in apply) cat >>"$APPLIED" ;; label) cat ;; *) echo "- $3" ;; esac
"""


def provision(tmp_path: Path, target: Path) -> str:
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    env = os.environ | {"PATH": f"{kubectl.parent}:{os.environ['PATH']}", "APPLIED": str(tmp_path / "applied")}
    command = [str(MONITORING / "grafana.sh")]
    done = subprocess.run(
        command, env=env | {"GRAFANA_PROVISIONING": str(target)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_grafana_there_are_config_maps_for_one_in_the_cluster(tmp_path: Path) -> None:
    assert "No Grafana on this box" in provision(tmp_path, tmp_path / "none")
    wanted = {f"- sk8-dashboard-{path.stem}" for path in (MONITORING / "dashboards").glob("*.json")}
    assert set((tmp_path / "applied").read_text().splitlines()) == wanted


def test_an_installed_grafana_gets_files_and_a_data_source(tmp_path: Path) -> None:
    target = tmp_path / "provisioning"
    target.mkdir()
    provision(tmp_path, target)
    [provider] = yaml.safe_load((target / "dashboards" / "sk8.yaml").read_text())["providers"]
    found = sorted(Path(provider["options"]["path"]).glob("*.json"))
    assert len(found) == 5 and all(json.loads(path.read_text())["panels"] for path in found)
    [source] = yaml.safe_load((target / "datasources" / "sk8.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9090")
