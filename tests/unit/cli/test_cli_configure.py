"""`sk8 configure`: in which order machines begin anew, and what is in force after one of them does not come back."""

from __future__ import annotations

import argparse
import asyncio
import io
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import configure, upgrade
from cluster.cli.going_over import Failed, GoingOver
from cluster.cli.output import CommandError, Output
from cluster.machine.changes import changed, digest
from cluster.machine.config import ClusterConfig, load_cluster, parse_settings, save_cluster

SICK = "max_pods: 30\nkubelet: {nodeStatusUpdateFrequency: 1m}\n"


class Box:
    """Four machines and their host agent. `began`: each machine that began anew, and the most pods it then allows. With
    a slow kubelet m3 does not get well; those that are `deaf` do not come back, either."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.config = replace(ClusterConfig.local(4, 3), base_dir=str(base))
        save_cluster(self.config)
        self.began: list[tuple[str, int]] = []
        self.digests = {m.name: digest(self.config) for m in self.config.machines}
        self.deaf: Collection[str] = ()
        self.interrupted_at = ""
        self.sick: Collection[str] = ()

    async def configure(self, settings: Mapping[str, Any]) -> None:
        save_cluster(changed(load_cluster(self.base), parse_settings(settings)))

    async def look(self, _: ClusterConfig) -> dict[str, Any]:
        nodes = {name: "NotReady" if name in self.sick else "Ready" for name in self.digests}
        rows = [{"name": name, "state": "running", "node": node} for name, node in nodes.items()]
        return {"api": True, "machines": rows, "store": {"leader": "m1", "members": []}}

    async def begin(self, name: str) -> None:
        now = load_cluster(self.base)
        self.began.append((name, now.max_pods))
        if name == self.interrupted_at:
            raise asyncio.CancelledError
        self.digests[name] = digest(now)
        if now.kubelet.get("nodeStatusUpdateFrequency") == "1m" and name == "m3":
            raise Failed("was not healthy")


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    box = Box(tmp_path)

    async def again(going: GoingOver) -> None:
        await box.begin(going.machine.name)

    async def by_force(going: GoingOver, besides: Collection[str]) -> None:
        await box.begin(going.machine.name)
        box.sick = ()
        if going.machine.name in box.deaf:
            raise Failed("did not begin anew")

    async def settings(going: GoingOver) -> str | None:
        return box.digests[going.machine.name]

    monkeypatch.setattr(GoingOver, "again", again)
    monkeypatch.setattr(GoingOver, "again_by_force", by_force)
    monkeypatch.setattr(GoingOver, "settings", settings)
    for module in (configure, upgrade):
        monkeypatch.setattr(module, "look", box.look)
    monkeypatch.setattr(configure, "LocalProvider", lambda _: box)
    return box


async def run(box: Box, text: str) -> str:
    """What is said."""
    file, out = box.base / "new.yaml", io.StringIO()
    file.write_text(text)
    args = argparse.Namespace(base=box.base, file=file, timeout=1.0)
    assert await configure._run(args, Output(out=out, err=out)) == 0
    return out.getvalue()


async def test_control_planes_first_and_the_head_the_last_of_them(box: Box) -> None:
    assert "changed: max_pods" in await run(box, "max_pods: 30\n")
    assert box.began == [("m2", 30), ("m3", 30), ("m1", 30), ("m4", 30)]
    assert "Nothing was changed" in await run(box, "max_pods: 30\n")
    assert len(box.began) == 4


async def test_settings_that_make_a_machine_sick_are_taken_back(box: Box) -> None:
    with pytest.raises(CommandError, match="m3 was not healthy; the former settings are in force again"):
        await run(box, SICK)
    assert box.began == [("m2", 30), ("m3", 30), ("m3", 110), ("m2", 110)]
    assert load_cluster(box.base).max_pods == 110 and load_cluster(box.base).kubelet == {}


async def test_a_machine_that_does_not_come_back_keeps_no_other_from_it(box: Box) -> None:
    box.deaf = ["m3"]
    with pytest.raises(CommandError, match="the former settings are written down again, but m3 did not begin") as told:
        await run(box, SICK)
    assert box.began[-2:] == [("m3", 110), ("m2", 110)]
    assert "sk8 machine kill m3 and sk8 machine start m3" in told.value.fix and "m2" not in told.value.fix


async def test_said_again_it_goes_over_the_machines_that_were_left_when_it_was_interrupted(box: Box) -> None:
    box.interrupted_at = "m3"
    with pytest.raises(CommandError, match="interrupted; not taken up by m3, m1, m4") as told:
        await run(box, "max_pods: 30\n")
    assert told.value.fix == "the same command goes on there"
    box.interrupted_at = ""
    box.began.clear()
    assert "not taken up by m3, m1, m4" in await run(box, "max_pods: 30\n")
    assert box.began == [("m3", 30), ("m1", 30), ("m4", 30)]
    assert "Nothing was changed" in await run(box, "max_pods: 30\n")


async def test_a_machine_that_fails_when_it_is_said_again_has_nothing_to_go_back_to(box: Box) -> None:
    await box.configure({"kubelet": {"nodeStatusUpdateFrequency": "1m"}})
    with pytest.raises(CommandError, match="m3 was not healthy; the settings from before are not known any more"):
        await run(box, "kubelet: {nodeStatusUpdateFrequency: 1m}\n")
    assert [name for name, _ in box.began] == ["m2", "m3"]


async def test_a_machine_that_was_left_sick_by_an_interruption_goes_back_first(box: Box) -> None:
    """Regression: no settings could be given to a cluster that its settings had made sick."""
    await box.configure({"kubelet": {"nodeStatusUpdateFrequency": "1m"}})
    box.digests["m3"], box.sick = digest(load_cluster(box.base)), ("m3",)
    with pytest.raises(CommandError, match="the cluster is not healthy"):
        await run(box, "kubelet: {nodeStatusUpdateFrequency: 1m}\n")
    await run(box, "kubelet: {}\n")
    assert [name for name, _ in box.began] == ["m3", "m2", "m1", "m4"] and not box.sick


async def test_a_cluster_that_is_not_healthy_is_left_alone(box: Box) -> None:
    box.sick = ("m3",)
    with pytest.raises(CommandError, match="the cluster is not healthy"):
        await run(box, "max_pods: 30\n")
    assert not box.began and load_cluster(box.base) == box.config


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pod_cidr: 10.1.0.0/16\n", "pod_cidr: decided when a cluster is made"),
        ("kubelet: {maxPods: many}\n", "maxPods"),
        ("colour: red\n", "unknown setting colour"),
    ],
)
async def test_what_is_refused_changes_nothing(box: Box, text: str, why: str) -> None:
    with pytest.raises(CommandError, match=why):
        await run(box, text)
    assert not box.began and load_cluster(box.base) == box.config
