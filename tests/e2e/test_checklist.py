"""docs/production.md as somebody follows it: every command of it, in order, on the running cluster, none fails."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import BASE, ROOT, SK8, Cluster, eventually
from tests.support.doc_commands import blocks, commands

pytestmark = [pytest.mark.cluster, pytest.mark.root, pytest.mark.engine, pytest.mark.timeout(900)]

# The cluster of the tests may be another than the default one.
SHELL = f"""set -o pipefail
sk8() {{ case " $* " in *" --base "*) {SK8} "$@" ;; *) {SK8} "$@" --base {BASE} ;; esac; }}
"""


def run(cluster: Cluster, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", SHELL + command], cwd=ROOT, env=cluster.env, capture_output=True, text=True, timeout=360
    )


@pytest.fixture
def tidied(cluster: Cluster) -> Iterator[Cluster]:
    """Nothing of the page is left, wherever it stopped: its last block once more."""
    try:
        yield cluster
    finally:
        for command in (*blocks("production.md")[-1], "rm -f /tmp/checklist.*"):
            run(cluster, command)


def test_every_command_of_the_checklist_works(tidied: Cluster) -> None:
    found = commands("production.md")
    assert len(found) > 25
    eventually(lambda: tidied.sk8("status"), within_s=120, what="nothing is left of what an earlier test did")
    for command in found:
        done = run(tidied, command)
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_every_line_of_the_references_checklist_is_there() -> None:
    page = (ROOT / "docs" / "production.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")][:6] == [
        "## 1. Control plane high availability",
        "## 2. Store backup and recovery",
        "## 3. Resource quotas and limit ranges",
        "## 4. Network policies (default deny)",
        "## 5. Monitoring and alerting",
        "## 6. Cluster autoscaler",
    ]
