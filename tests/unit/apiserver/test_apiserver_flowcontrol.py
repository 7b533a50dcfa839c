"""Flows, seats and turns: who matches what, nobody over the limit, the greedy behind themselves, the late refused."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.apiserver import metrics
from cluster.apiserver.flowcontrol.control import FlowControl
from cluster.apiserver.flowcontrol.levels import Seats, hand
from cluster.apiserver.requestinfo import RequestInfo
from cluster.registry import bootstrap_flow
from cluster.registry.context import UserInfo

PODS = RequestInfo("/api/v1/namespaces/a/pods", "list", True, "api", "", "v1", "a", "pods")
AUTHENTICATED = "system:authenticated"


def _level(name: str, **limited: Any) -> dict[str, Any]:
    queuing = {"queues": 8, "handSize": 2, "queueLengthLimit": 50}
    response = {"type": "Queue", "queuing": limited.pop("queuing", queuing)}
    spec = {"nominalConcurrencyShares": 10, "lendablePercent": 0, "limitResponse": response, **limited}
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "spec": {"type": "Limited", "limited": spec}}


def _schema(name: str, level: str, user: str = "*", precedence: int = 10) -> dict[str, Any]:
    rule = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
    rules = [{"subjects": [{"kind": "User", "user": {"name": user}}], "resourceRules": [rule]}]
    spec = {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules}
    return {"metadata": {"name": name}, "spec": {**spec, "distinguisherMethod": {"type": "ByUser"}}}


def one_seat(**limited: Any) -> FlowControl:
    """Everybody at one level of one seat: the other two are catch-all's, and stay with it."""
    control = FlowControl(3, wait_s=limited.pop("wait_s", 60.0))
    limited.setdefault("borrowingLimitPercent", 0)
    control.configure([_schema("all", "narrow")], [_level("narrow", nominalConcurrencyShares=1, **limited)])
    return control


class Clients:
    """Requests that hold their seat until told; `order` is who was served when."""

    def __init__(self, control: FlowControl) -> None:
        self.control = control
        self.order: list[str] = []
        self.open: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str) -> None:
        self.open[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name))
        await asyncio.sleep(0)

    def slot(self, user: str) -> Any:
        return self.control.slot(self.control.match(UserInfo(user, groups=(AUTHENTICATED,)), PODS), mutating=False)

    async def _run(self, name: str) -> None:
        async with self.slot(name.partition("-")[0]):
            self.order.append(name)
            await self.open[name].wait()

    async def finish(self, name: str) -> None:
        self.open[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)

    async def finish_all(self) -> None:
        for event in self.open.values():
            event.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_a_greedy_client_delays_another_by_a_turn_of_its_hand() -> None:
    clients = Clients(one_seat())
    for i in range(20):
        await clients.start(f"greedy-{i}")
    await clients.start("modest-0")
    assert clients.order == ["greedy-0"]
    for i in range(3):
        await clients.finish(clients.order[i])
    assert "modest-0" in clients.order  # behind one request in each of the greedy one's two queues, at most
    await clients.finish_all()
    assert clients.control.total == 0


async def test_a_full_queue_is_429() -> None:
    clients = Clients(one_seat(queuing={"queues": 1, "handSize": 1, "queueLengthLimit": 1}))
    await clients.start("a-0")
    await clients.start("b-0")
    with pytest.raises(ApiError) as e:
        async with clients.slot("c"):
            pass
    assert (e.value.code, e.value.retry_after_s) == (429, 1)
    await clients.finish_all()
    assert clients.control.total == 0


async def test_who_waits_too_long_or_leaves_takes_no_seat() -> None:
    clients = Clients(one_seat(wait_s=0.05))
    await clients.start("a-0")
    with pytest.raises(ApiError) as e:
        async with clients.slot("b"):
            pass
    assert e.value.code == 429
    await clients.start("c-0")
    clients.tasks["c-0"].cancel()
    await asyncio.gather(clients.tasks["c-0"], return_exceptions=True)
    await clients.finish("a-0")
    async with clients.slot("d"):
        assert clients.control.total == 1
    assert clients.control.total == 0


async def test_a_turn_given_to_one_who_left_at_that_moment_is_not_lost() -> None:
    clients = Clients(one_seat())
    await clients.start("a-0")
    await clients.start("b-0")
    clients.open["a-0"].set()
    await asyncio.sleep(0)  # a's seat is b's now, b has not run yet
    clients.tasks["b-0"].cancel()
    await asyncio.gather(*clients.tasks.values(), return_exceptions=True)
    async with clients.slot("d"):
        assert clients.control.total == 1


async def test_requests_of_a_level_that_goes_are_served_to_their_end() -> None:
    clients = Clients(one_seat())
    await clients.start("a-0")
    await clients.start("b-0")
    clients.control.configure([], [])
    await asyncio.sleep(0)
    assert clients.order == ["a-0", "b-0"]
    await clients.finish_all()
    assert clients.control.total == 0


async def test_the_gauges_of_a_flow_schema_go_with_it_once_its_requests_are_served() -> None:
    def shown() -> set[str]:
        gauges = (metrics.FLOW_EXECUTING, metrics.FLOW_SEATS, metrics.FLOW_QUEUED)
        samples = [s for gauge in gauges for family in gauge.collect() for s in family.samples]
        return {s.name for s in samples if s.labels == {"priority_level": "narrow", "flow_schema": "all"}}

    clients = Clients(one_seat())
    await clients.start("a-0")
    assert len(shown()) == 3
    clients.control.configure([], [])
    assert len(shown()) == 3, "a request is still served"
    await clients.finish_all()
    clients.control.configure([], [])
    assert shown() == set()


async def test_requests_that_wait_at_a_level_made_again_under_its_name_are_served() -> None:
    clients = Clients(one_seat())
    for i in range(4):
        await clients.start(f"a-{i}")
    level = clients.control.match(UserInfo("a", groups=(AUTHENTICATED,)), PODS).level
    clients.control.configure([], [])
    assert not level.ring, "who waited has a seat as soon as the level goes"
    clients.control.configure([_schema("all", "narrow")], [_level("narrow")])
    await asyncio.sleep(0)
    assert sorted(clients.order) == ["a-0", "a-1", "a-2", "a-3"]
    await clients.finish_all()


@pytest.mark.parametrize(
    ("user", "groups", "info", "schema", "level"),
    [
        ("root", ("system:masters",), PODS, "exempt", "exempt"),
        ("system:node:m1", ("system:nodes",), PODS, "system-nodes", "system"),
        (
            "system:node:m1",
            ("system:nodes",),
            RequestInfo("", "patch", True, "api", "", "v1", "", "nodes", "status", "m1"),
            "system-node-high",
            "node-high",
        ),
        (
            "system:serviceaccount:kube-system:x",
            ("system:serviceaccounts",),
            RequestInfo("", "update", True, "apis", "coordination.k8s.io", "v1", "kube-system", "leases", "", "l"),
            "workload-leader-election",
            "leader-election",
        ),
        ("system:serviceaccount:dev:x", ("system:serviceaccounts",), PODS, "service-accounts", "workload-low"),
        ("jane", (), PODS, "global-default", "global-default"),
        ("jane", (), RequestInfo("/readyz", "get"), "probes", "exempt"),
        ("jane", (), RequestInfo("/version", "get"), "global-default", "global-default"),
        ("nobody", None, PODS, "catch-all", "catch-all"),
    ],
)
def test_what_a_cluster_starts_with(
    user: str, groups: tuple[str, ...] | None, info: RequestInfo, schema: str, level: str
) -> None:
    """`groups` None: somebody of no group at all."""
    groups = () if groups is None else (*groups, AUTHENTICATED)
    flow = FlowControl(600).match(UserInfo(user, groups=groups), info)
    assert (flow.schema.name, flow.level.name) == (schema, level)


def test_a_schema_whose_level_is_missing_matches_nothing() -> None:
    control = FlowControl(600)
    control.configure([_schema("first", "missing", precedence=1), _schema("second", "there")], [_level("there")])
    assert control.match(UserInfo("u"), PODS).schema.name == "second"


def test_the_shares_are_those_of_kubernetes() -> None:
    seats = Seats(600)
    seats.configure(bootstrap_flow.priority_levels())
    limits = {name: (level.nominal, level.lower) for name, level in seats.levels.items()}
    assert limits["workload-low"] == (245, 25)
    assert limits["system"] == (74, 50)
    assert limits["catch-all"] == (13, 13)
    assert limits["exempt"] == (0, 0)


def test_a_hand_is_of_different_queues_and_the_same_for_the_same_flow() -> None:
    for flow in range(2000):
        dealt = hand(flow * 7919, 16, 4)
        assert len(set(dealt)) == 4 and all(0 <= q < 16 for q in dealt)
        assert dealt == hand(flow * 7919, 16, 4)
    assert sorted(hand(99, 3, 8)) == [0, 1, 2]


async def test_seats_are_lent_and_nobodys_lower_limit_is() -> None:
    """Random requests at three levels: the invariants of `levels.py` hold after each, and none is forgotten."""
    rng = random.Random(11)
    seats = Seats(30)
    seats.configure([_level("a", lendablePercent=50), _level("b", lendablePercent=100), _level("c")])
    levels = list(seats.levels.values())
    taken: list[Any] = []
    turns: list[tuple[Any, int, asyncio.Future[None]]] = []
    for _ in range(5000):
        level = rng.choice(levels)
        if rng.random() < 0.55:
            if seats.take(level):
                taken.append(level)
            else:
                place = seats.wait(level, rng.getrandbits(64))
                if place is not None:
                    turns.append((level, *place))
        elif taken:
            seats.give(taken.pop(rng.randrange(len(taken))))
        elif turns and rng.random() < 0.1:
            seats.leave(*turns.pop())
        taken += [level for level, _, turn in turns if turn.done()]
        turns = [t for t in turns if not t[2].done()]
        assert sum(max(x.taken, x.lower) for x in levels) <= sum(x.nominal for x in levels)
        assert sum(x.taken for x in levels) == len(taken)
        assert all(x.taken <= x.upper for x in levels)
        for level, _, _ in turns:
            assert level.taken >= level.lower, "it waits below what is its own"
    while taken:
        seats.give(taken.pop())
        taken += [level for level, _, turn in turns if turn.done()]
        turns = [t for t in turns if not t[2].done()]
    assert not turns
    assert seats._held == sum(x.lower for x in levels)
