"""`sk8 top`, `events` and `status`: what they make of what the API says."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import time
from typing import Any

import pytest

from cluster.cli import events, live, top
from cluster.cli.main import main
from cluster.cli.output import CommandError, Output, paint
from cluster.cli.status import pods_by_node


def node(name: str, ready: str = "True") -> dict[str, Any]:
    status = {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "110"}}
    return {"metadata": {"name": name}, "status": status | {"conditions": [{"type": "Ready", "status": ready}]}}


def pod(name: str, on: str = "", phase: str = "Running") -> dict[str, Any]:
    spec = {"nodeName": on} if on else {}
    return {"metadata": {"namespace": "d", "name": name}, "spec": spec, "status": {"phase": phase}}


def use(name: str, cpu: str, memory: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "d", "name": name}, "containers": [{"usage": {"cpu": cpu, "memory": memory}}] * 2}


def test_top_shows_the_hungriest_first_and_who_was_not_measured() -> None:
    node_use = [{"metadata": {"name": "m1"}, "usage": {"cpu": "500m", "memory": "256Mi"}}]
    pods = [pod("a", "m1"), pod("b", "m1"), pod("over", "m1", "Succeeded")]
    pod_use = [use("a", "1m", "50Mi"), use("b", "7m", "1Mi"), use("gone", "1", "1")]
    found = top.joined([node("m1"), node("m2", "Unknown")], pods, node_use, pod_use)
    text = top.render(found, most=1, by="cpu")
    rows = [line.split() for line in text.splitlines()]
    assert rows[1] == ["m1", "Ready", "500m", "25%", "256Mi", "25%", "2/110"]
    assert rows[2] == ["m2", "NotReady", "unknown", "unknown", "0/110"]
    assert rows[5] == ["d", "b", "m1", "14m", "2Mi", "0"]
    assert text.endswith("(1 more; --pods 0 shows all)")
    assert top.render(found, most=0, by="memory").splitlines()[5].split()[1] == "a"


def test_pods_are_counted_where_they_are() -> None:
    pods = [pod("a", "m1"), pod("b", "m1", "Pending"), pod("c", "", "Pending"), pod("d", "m1", "Failed")]
    assert pods_by_node(pods) == {"m1": {"running": 1, "all": 2}, "": {"running": 0, "all": 1}}


def test_a_field_selector_of_what_one_asks_about() -> None:
    assert events.selector_of("", warnings=True) == "type=Warning"
    assert events.selector_of("pod/web-1", warnings=False) == "involvedObject.kind=Pod,involvedObject.name=web-1"
    assert events.selector_of("sts/db", warnings=False).startswith("involvedObject.kind=StatefulSet,")
    with pytest.raises(CommandError, match="is not KIND/NAME") as refused:
        events.selector_of("web-1", warnings=False)
    assert refused.value.code == 2


def test_events_in_columns_with_their_age_and_count() -> None:
    who = {"kind": "Pod", "name": "web"}
    one = {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "involvedObject": who, "reason": "BackOff",
           "type": "Warning", "message": "again", "count": 3, "lastTimestamp": "2026-01-01T00:10:00Z"}  # fmt: skip
    line = events.render([one], events.last_seen(one) + 300).splitlines()[1]
    assert line.split() == ["5m", "(x3)", "Warning", "BackOff", "pod/web", "again"]
    assert events.render([], 0) == "there are no events"
    assert [events.age(s) for s in (5, 119, 3599, 86400, 86400 * 3)] == ["5s", "119s", "59m", "24h", "3d"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
async def test_a_watch_draws_until_it_is_ended_and_clears_terminals_only(stream: type[io.StringIO]) -> None:
    screen, drawn = stream(), asyncio.Event()
    count = 0

    async def draw() -> tuple[str, int]:
        nonlocal count
        count += 1
        if count == 3:
            drawn.set()
        return f"picture {count}", 3

    args = argparse.Namespace(watch=True, every_s=0.001)
    task = asyncio.create_task(live.show(Output(out=screen), draw, args))
    await drawn.wait()
    task.cancel()
    assert await task == 3
    assert "picture 1" in screen.getvalue() and "picture 2" in screen.getvalue()
    assert ("\033[" in screen.getvalue()) == screen.isatty()


def test_what_takes_long_is_told_on_a_terminal_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.cli.output._PATIENCE_S", 0.001)
    screen, pipe = Terminal(), io.StringIO()
    with Output(err=screen).waiting("asking the cluster"):
        deadline = time.monotonic() + 60
        while "asking the cluster" not in screen.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert screen.getvalue().endswith("\r\033[K")
    with Output(err=pipe).waiting("asking the cluster"):
        pass
    assert pipe.getvalue() == ""


def test_no_colours_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint("x", "red", Terminal()) == "\033[31mx\033[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"


def test_lists_are_also_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chaos", "list", "-o", "json"]) == 0
    assert "kill-machine" in json.loads(capsys.readouterr().out)
    assert main(["version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"]
