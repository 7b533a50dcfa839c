"""Rules, alerts and dashboards, checked and run by Debian's promtool; every series they read is one of ours."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.monitoring_files import MONITORING, dashboard_queries, series_read
from tests.support.node_world import engine_answers

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "prom/prometheus:v2.42.0"

pytestmark = [
    pytest.mark.root,
    pytest.mark.engine,
    pytest.mark.skipif(not engine_answers(), reason="needs a container engine"),
]


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    subprocess.run(["python3", str(ROOT / "infra" / "images" / "build.py"), IMAGE], check=True, timeout=300)


def promtool(*argv: str, directory: Path = MONITORING) -> str:
    command = ["docker", "run", "--rm", "--network=none", "-v", f"{directory}:/m:ro", "-w", "/m"]
    done = subprocess.run(
        [*command, "--entrypoint=/usr/bin/promtool", IMAGE, *argv], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_well_formed() -> None:
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml")


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yaml")
    tested = (MONITORING / "rules_test.yaml").read_text()
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["alert"] in tested or re.search(r"ApiServer\.\*", tested), rule["alert"]
                assert rule["annotations"]["runbook"] and rule["annotations"]["summary"]


def test_the_configuration_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    documents = yaml.safe_load_all((MONITORING / "prometheus.yaml").read_text())
    [config] = [d["data"]["prometheus.yml"] for d in documents if d["kind"] == "ConfigMap"]
    # The files of a pod that are not here: its token and authority.
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    (tmp_path / "prometheus.yml").write_text(config.replace(account, "/m").replace("/etc/prometheus/rules", "/m"))
    assert "/api/v1/nodes/${1}/proxy/metrics/parts/state" in config
    (tmp_path / "rules.yaml").write_text((MONITORING / "rules.yaml").read_text())
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("")
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml", directory=tmp_path)


def test_every_query_of_a_dashboard_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    """promtool checks rules, so each query becomes one."""
    rules = [{"record": f"q:{n}", "expr": query} for n, query in enumerate(dashboard_queries())]
    assert len(rules) > 50
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    assert "SUCCESS" in promtool("check", "rules", "queries.yaml", directory=tmp_path)


def test_every_series_that_a_rule_or_a_dashboard_reads_is_exported_by_a_part() -> None:
    """By the text of the code; tests/e2e/test_alerts.py asks the running parts."""
    names = series_read()
    assert len(names) > 60
    code = "\n".join(path.read_text() for room in ("raft", "cluster", "actors") for path in (ROOT / room).rglob("*.py"))
    texts = [text for text in re.findall(r'"([a-z][a-z0-9_{}]+)"', code) if "_" in text]
    spelt = re.compile("|".join(re.sub(r"\\{\w+\\}", "[a-z]+", re.escape(text)) for text in set(texts)))
    for name in sorted(names):
        bare = re.sub(r"_(bucket|sum|count|total)$", "", name)
        of_a_kind = re.sub(r"^kube_([a-z]+)_", "", name)
        assert any(spelt.fullmatch(form) for form in (name, bare, of_a_kind)), name
