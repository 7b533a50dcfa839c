"""`sk8 configure`: in which order machines begin anew, and what is in force after one of them does not come back."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import configure
from cluster.cli.going_over import Failed, GoingOver
from cluster.cli.output import CommandError, Output
from cluster.machine.changes import changed
from cluster.machine.config import ClusterConfig, load_cluster, parse_settings, save_cluster


class Host:
    """The host agent: it writes settings down."""

    def __init__(self, base: Path) -> None:
        self._base = base

    async def configure(self, settings: Mapping[str, Any]) -> None:
        save_cluster(changed(load_cluster(self._base), parse_settings(settings)))


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Each machine that began anew, and the most pods it then allows. With a slow kubelet m3 is not healthy."""
    found: list[tuple[str, int]] = []
    config = replace(ClusterConfig.local(4, 3), base_dir=str(tmp_path))
    save_cluster(config)

    async def again(going: GoingOver) -> None:
        now = load_cluster(tmp_path)
        found.append((going.machine.name, now.max_pods))
        if now.kubelet.get("nodeStatusUpdateFrequency") == "1m" and going.machine.name == "m3":
            raise Failed("was not healthy")

    async def healthy(*_: object) -> None:
        return None

    monkeypatch.setattr(GoingOver, "again", again)
    monkeypatch.setattr(configure, "need_healthy", healthy)
    monkeypatch.setattr(configure, "LocalProvider", lambda _: Host(tmp_path))
    return found


async def run(base: Path, text: str) -> str:
    """What is said."""
    file, out = base / "new.yaml", io.StringIO()
    file.write_text(text)
    assert await configure._run(argparse.Namespace(base=base, file=file, timeout=1.0), Output(out=out, err=out)) == 0
    return out.getvalue()


async def test_control_planes_first_and_the_head_the_last_of_them(tmp_path: Path, begun: list[tuple[str, int]]) -> None:
    assert "changed: max_pods" in await run(tmp_path, "max_pods: 30\n")
    assert begun == [("m2", 30), ("m3", 30), ("m1", 30), ("m4", 30)]
    assert "Nothing was changed" in await run(tmp_path, "max_pods: 30\n")
    assert len(begun) == 4


async def test_settings_that_make_a_machine_sick_are_taken_back(tmp_path: Path, begun: list[tuple[str, int]]) -> None:
    with pytest.raises(CommandError, match="m3 was not healthy; the former settings are in force again"):
        await run(tmp_path, "max_pods: 30\nkubelet: {nodeStatusUpdateFrequency: 1m}\n")
    assert begun == [("m2", 30), ("m3", 30), ("m3", 110), ("m2", 110)]
    assert load_cluster(tmp_path).max_pods == 110 and load_cluster(tmp_path).kubelet == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pod_cidr: 10.1.0.0/16\n", "pod_cidr: decided when a cluster is made"),
        ("kubelet: {maxPods: many}\n", "maxPods"),
        ("colour: red\n", "unknown setting colour"),
    ],
)
async def test_what_is_refused_changes_nothing(
    tmp_path: Path, begun: list[tuple[str, int]], text: str, why: str
) -> None:
    before = load_cluster(tmp_path)
    with pytest.raises(CommandError, match=why):
        await run(tmp_path, text)
    assert not begun and load_cluster(tmp_path) == before
