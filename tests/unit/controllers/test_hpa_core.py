"""The autoscaler's arithmetic, against Kubernetes' documented rules."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.meta import rfc3339
from cluster.controllers import hpa_core as core
from cluster.controllers.hpa_core import Past, Sample
from cluster.machinery.client import Obj
from tests.support.controller_world import World

NOW = 1_800_000_000.0
LONG_AGO = NOW - 3600


def pod(name: str, *, phase: str = "Running", ready: bool = True, started: float = LONG_AGO) -> Obj:
    turned = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": rfc3339(started + 5)}
    return {
        "metadata": {"name": name},
        "status": {"phase": phase, "startTime": rfc3339(started), "conditions": [turned]},
    }


def utilization(pods: list[Obj], use: dict[str, int], target: int, *, request: int = 100) -> int:
    samples = {n: Sample(v, NOW, 30.0) for n, v in use.items()}
    groups = core.group(pods, samples, NOW, cpu=True)
    requests = {p["metadata"]["name"]: request for p in pods}
    return core.by_utilization(len(pods), samples, groups, requests, target)


def same(count: int, value: int) -> tuple[list[Obj], dict[str, int]]:
    return [pod(f"p{i}") for i in range(count)], {f"p{i}": value for i in range(count)}


def test_checkout_goes_from_3_to_10_on_cpu() -> None:
    assert utilization(*same(3, 230), target=70) == 10


@pytest.mark.parametrize(("use", "want"), [(54, 4), (55, 4), (44, 4), (100, 8), (25, 2), (56, 5)])
def test_within_the_tolerance_nothing_changes(use: int, want: int) -> None:
    assert utilization(*same(4, use), target=50) == want


def test_pods_without_samples_weaken_but_do_not_turn_a_proposal() -> None:
    pods, use = same(4, 100)
    assert utilization([*pods, pod("m")], use, target=50) == 8  # the fifth is taken to use nothing
    pods, use = same(3, 10)
    assert utilization([*pods, pod("m")], use, target=50) == 3  # the fourth is taken to use all it requests
    pods, use = same(2, 60)
    assert utilization([*pods, pod("m")], use, target=50) == 3  # up would become down: stay


def test_starting_pods_count_for_nothing_but_hold_a_scale_up_back() -> None:
    pods, use = same(3, 100)
    fresh = pod("f", started=NOW - 10, ready=False)
    assert utilization([*pods, fresh], {**use, "f": 1000}, target=50) == 6
    assert utilization([*pods, pod("w", phase="Pending")], use, target=50) == 6
    gone = pod("d")
    gone["metadata"]["deletionTimestamp"] = "x"
    assert utilization([*pods, gone], {**use, "d": 1000}, target=50) == 6


def test_no_samples_is_an_error_not_a_number() -> None:
    with pytest.raises(core.NoMetrics):
        utilization([pod("a")], {}, target=50)


def test_other_targets() -> None:
    samples = {f"p{i}": Sample(30, NOW, 30.0) for i in range(3)}
    groups = core.group([pod(n) for n in samples], samples, NOW, cpu=False)
    assert core.by_average(3, samples, groups, 10) == 9
    assert core.by_value(3, 3, 200, 100) == 6
    assert core.by_total_average(3, 100, 20) == 5
    assert core.by_total_average(5, 104, 20) == 5


def bounded(current: int, proposal: int, past: list[Past] | None = None, **spec: Any) -> int:
    scalings = spec.pop("scalings", [])
    found = core.bounded({"minReplicas": 1, "maxReplicas": 100, **spec}, current, proposal, past or [], scalings, NOW)
    return found.desired


def test_minimum_and_maximum_win() -> None:
    assert bounded(3, 50, maxReplicas=10) == 6  # no behavior: at most double, or four
    assert bounded(1, 50) == 4
    assert core.out_of_range({"maxReplicas": 10}, 20) == (10, "Current number of replicas above Spec.MaxReplicas")
    below = core.out_of_range({"minReplicas": 3, "maxReplicas": 10}, 1)
    assert below == (3, "Current number of replicas below Spec.MinReplicas")
    assert core.out_of_range({"minReplicas": 3, "maxReplicas": 10}, 3) is None
    assert bounded(5, 0) == 1


def test_scaling_down_waits_for_the_highest_recommendation_of_five_minutes() -> None:
    assert bounded(10, 2, [Past(NOW - 200, 8)]) == 8
    assert bounded(10, 2, [Past(NOW - 400, 8)]) == 2


def rules(*policies: tuple[str, int, int], select: str = "Max", window: int = 0) -> Obj:
    listed = [{"type": t, "value": v, "periodSeconds": p} for t, v, p in policies]
    return {"policies": listed, "selectPolicy": select, "stabilizationWindowSeconds": window}


@pytest.mark.parametrize(
    ("current", "proposal", "behavior", "desired", "held", "limit"),
    [
        (3, 5, None, 5, "ReadyForNewScale", "DesiredWithinRange"),
        (3, 50, None, 6, "ReadyForNewScale", "ScaleUpLimit"),
        (8, 50, None, 10, "ReadyForNewScale", "TooManyReplicas"),
        (8, 1, None, 2, "ReadyForNewScale", "TooFewReplicas"),
        (8, 3, None, 3, "ReadyForNewScale", "DesiredWithinRange"),
        (8, 8, None, 8, "ReadyForNewScale", "DesiredWithinRange"),
        (8, 3, {"scaleDown": rules(("Pods", 1, 60))}, 7, "ReadyForNewScale", "ScaleDownLimit"),
        (4, 9, {"scaleUp": rules(("Pods", 2, 60))}, 6, "ReadyForNewScale", "ScaleUpLimit"),
        (4, 9, {"scaleUp": rules(("Pods", 2, 60), select="Disabled")}, 4, "ReadyForNewScale", "ScaleUpLimit"),
    ],
)
def test_conditions_say_what_limits(
    current: int, proposal: int, behavior: Obj | None, desired: int, held: str, limit: str
) -> None:
    spec: Obj = {"minReplicas": 2, "maxReplicas": 10} | ({"behavior": behavior} if behavior else {})
    found = core.bounded(spec, current, proposal, [], [], NOW)
    assert (found.desired, found.held.name, found.limit.name) == (desired, held, limit)
    assert found.limited == (limit != "DesiredWithinRange")


def test_conditions_say_what_holds_back() -> None:
    """A count that waits for its window is not one that is out of range."""
    down = core.bounded({"maxReplicas": 10}, 8, 3, [Past(NOW - 60, 8)], [], NOW)
    assert (down.desired, down.held.name, down.limited) == (8, "ScaleDownStabilized", False)
    slow = {"scaleUp": rules(("Pods", 100, 15), window=60)}
    up = core.bounded({"maxReplicas": 10, "behavior": slow}, 3, 9, [Past(NOW - 30, 5)], [], NOW)
    assert (up.desired, up.held.name, up.limited) == (5, "ScaleUpStabilized", False)


def test_use_is_taken_in_whole_percents() -> None:
    pods = [pod(name) for name in "abcdefghij"]
    assert utilization(pods, dict.fromkeys("abcdefghij", 559), target=50, request=1000) == 10, (
        "55 % is within a tenth of 50 %"
    )
    assert utilization(pods, dict.fromkeys("abcdefghij", 560), target=50, request=1000) == 12


def test_policies_limit_the_speed() -> None:
    up = rules(("Pods", 4, 60), ("Percent", 10, 60))
    assert bounded(10, 50, behavior={"scaleUp": up}) == 14
    assert bounded(10, 50, behavior={"scaleUp": {**up, "selectPolicy": "Min"}}) == 11
    assert bounded(10, 50, behavior={"scaleUp": {**up, "selectPolicy": "Disabled"}}) == 10
    assert bounded(12, 50, behavior={"scaleUp": up}, scalings=[Past(NOW - 30, 2)]) == 14
    down = rules(("Pods", 2, 60), ("Percent", 50, 60))
    assert bounded(10, 1, behavior={"scaleDown": down}) == 5
    assert bounded(10, 1, behavior={"scaleDown": {**down, "selectPolicy": "Min"}}) == 8
    assert bounded(8, 1, behavior={"scaleDown": {**down, "selectPolicy": "Min"}}, scalings=[Past(NOW - 9, -2)]) == 8


def test_an_upscale_window_takes_the_lowest() -> None:
    up = rules(("Pods", 100, 15), window=60)
    assert bounded(3, 9, [Past(NOW - 30, 5)], behavior={"scaleUp": up}) == 5


async def test_the_kind_has_kubernetes_defaults_and_validation() -> None:
    async with World() as w:
        await w.namespace()
        ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
        body: Obj = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
        body["metadata"] = {"name": "web", "namespace": "default"}
        body["spec"] = {"scaleTargetRef": ref, "maxReplicas": 10, "behavior": {"scaleDown": {}}}
        spec = (await w.create("horizontalpodautoscalers.autoscaling", body))["spec"]
        assert spec["minReplicas"] == 1
        assert spec["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 80}
        assert [p["type"] for p in spec["behavior"]["scaleUp"]["policies"]] == ["Pods", "Percent"]
        body["metadata"]["name"] = "bad"
        body["spec"]["minReplicas"] = 11
        with pytest.raises(ApiError) as caught:
            await w.create("horizontalpodautoscalers.autoscaling", body)
        assert "must be greater than or equal to `minReplicas`" in caught.value.message
