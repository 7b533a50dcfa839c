"""Filters and scores of one's own: the documented example, plugins that look at load, and plugins that misbehave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.scheduler import configfile
from cluster.scheduler.config import DEFAULT, Profile
from cluster.scheduler.decide import Placement, Unschedulable, place
from cluster.scheduler.plugin import Plugin, PluginError
from tests.unit.scheduler.shell import Cluster
from tests.unit.scheduler.test_profiles import columns, node, pending, pod

EXAMPLE = Path(__file__).parents[3] / "infra/examples/scheduler-plugin"


def profile_with(instance: Any, weight: int = 100) -> Profile:
    plugin = Plugin("own:Plugin", instance)
    weights = (*DEFAULT.weights, (plugin.name, weight)) if plugin.scores else DEFAULT.weights
    made = replace(DEFAULT, plugins=(plugin,), weights=weights)
    made.validate()
    return made


def priced(**prices: int) -> Any:
    return columns(*(node(name, "8", "8Gi", **{"example.com/price": str(price)}) for name, price in prices.items()))


@pytest.fixture
def thrifty(monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    config = configfile.load(str(EXAMPLE / "scheduler.yaml"), "m1")
    return next(p for p in config.profiles if p.scheduler_name == "thrifty")


def test_the_documented_example(thrifty: Profile) -> None:
    cluster = priced(dear=40, cheap=10, middle=20)
    (outcome,) = place(cluster, [pending(pod("a", "1", "1Gi"))], profile=thrifty)
    assert isinstance(outcome, Placement) and outcome.node == "cheap"
    poor = pod("b", "1", "1Gi")
    poor["metadata"]["labels"] = {"max-price": "5"}
    (outcome,) = place(cluster, [pending(poor)], profile=thrifty)
    assert isinstance(outcome, Unschedulable)
    assert outcome.message == "0/3 nodes are available: 3 node(s) cost more than the pod pays."


def test_a_static_plugin_is_asked_once_for_all_equal_pods(thrifty: Profile) -> None:
    """And the batch lands as the pods would one by one."""
    together, alone = priced(dear=40, cheap=10, middle=20), priced(dear=40, cheap=10, middle=20)
    pods = [pending(pod(f"p{i}", "1", "1Gi")) for i in range(24)]
    batch = [o.node for o in place(together, pods, profile=thrifty) if isinstance(o, Placement)]
    assert batch == [o.node for p in pods for o in place(alone, [p], profile=thrifty) if isinstance(o, Placement)]
    assert len(batch) == 24


class AtMostTwo:
    """Looks at what runs where."""

    def __init__(self) -> None:
        self.asked = 0

    def filter(self, _pod: Any, nodes: Any) -> Any:
        self.asked += 1
        return nodes.requested("pods") < 2


def test_a_plugin_that_looks_at_load_is_asked_for_every_pod() -> None:
    own = AtMostTwo()
    outcomes = place(
        columns(node("a", "8", "8Gi"), node("b", "8", "8Gi")),
        [pending(pod(f"p{i}", "100m", "1Mi")) for i in range(10)],
        profile=profile_with(own),
    )
    assert sum(isinstance(o, Placement) for o in outcomes) == 4
    assert own.asked >= 5


class Wrong:
    def __init__(self, answer: Any, point: str) -> None:
        def said(_pod: Any, _nodes: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        setattr(self, point, said)


@pytest.mark.parametrize(
    ("point", "answer", "message"),
    [
        ("filter", RuntimeError("boom"), 'running "own:Plugin" filter plugin: boom'),
        ("filter", np.ones(3, dtype=np.bool_), "it returned an array of bool(3,), not bool(4,)"),
        ("filter", np.ones(4), "it returned an array of float64(4,), not bool(4,)"),
        ("score", RuntimeError("boom"), 'running "own:Plugin" score plugin: boom'),
        ("score", np.full(4, 101.0), 'plugin "own:Plugin" returns an invalid score 101, it should in the range'),
        ("score", np.full(4, np.nan), 'plugin "own:Plugin" returns an invalid score nan'),
    ],
)
def test_what_a_plugin_gets_wrong(point: str, answer: Any, message: str) -> None:
    with pytest.raises(PluginError) as error:
        place(
            columns(node("a", "8", "8Gi")), [pending(pod("p", "1", "1Gi"))], profile=profile_with(Wrong(answer, point))
        )
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Unknown", "does not exist"), ("os.path:Nothing", "does not exist or cannot be made"), ("os:getpid", "made")],
)
def test_a_plugin_that_cannot_be_loaded(name: str, message: str) -> None:
    from cluster.scheduler.plugin import load

    with pytest.raises(ValueError, match=message):
        load(name, {})


class Picky:
    """Raises for pods of app b until it is told to stop."""

    broken = True

    def filter(self, pod: Any, nodes: Any) -> Any:
        if self.broken and ("app", "b") in pod.labels:
            raise RuntimeError("cannot filter b")
        return nodes.alive


async def test_a_raising_plugin_keeps_its_pod_waiting_and_says_so() -> None:
    own = Picky()
    async with Cluster.running(profile_with(own)) as cluster:
        await cluster.node("n")
        for name in ("a1", "b1", "a2"):
            await cluster.pod(name)
        assert await cluster.bound("a1") == await cluster.bound("a2") == "n"
        assert await cluster.refused("b1") == 'running "own:Plugin" filter plugin: cannot filter b'
        waiting = await cluster.client.get("pods", "b1", "default")
        assert waiting["status"]["conditions"][0]["reason"] == "SchedulerError"
        own.broken = False
        assert await cluster.bound("b1") == "n", "it is tried again by itself"
