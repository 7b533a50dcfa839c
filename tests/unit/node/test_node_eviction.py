"""Node-pressure eviction: when a threshold counts, who goes first, and what is said (Kubernetes' own words)."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.node.admission import reject
from cluster.node.eviction import Eviction, Observation, Reclaim, Threshold, thresholds
from cluster.node.eviction_rank import ContainerUse, PodUse, message, over_local_storage, ranked

GI = 1 << 30
MI = 1 << 20


def memory(available: int) -> dict[str, Observation]:
    return {"memory.available": Observation(available, 4 * GI)}


def pod(name: str, request: str = "", priority: int = 0, **spec: Any) -> dict[str, Any]:
    resources = {"requests": {"memory": request}} if request else {}
    containers = [{"name": "app", "resources": resources}]
    return {
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"priority": priority, "containers": containers, **spec},
    }


def using(name: str, used: int, request: str = "", priority: int = 0) -> PodUse:
    return PodUse(pod(name, request, priority), {"app": ContainerUse(memory_bytes=used)})


def test_a_hard_threshold_counts_at_once_and_its_condition_lasts_for_the_transition_period() -> None:
    core = Eviction((Threshold("memory.available", "100Mi"),), transition_s=300)
    assert core.look(memory(GI), 0.0).conditions == ()
    met = core.look(memory(50 * MI), 1.0)
    assert met.conditions == ("MemoryPressure",)
    assert met.reclaim is not None and met.reclaim.resource == "memory"
    calm = core.look(memory(GI), 2.0)
    assert (calm.conditions, calm.reclaim) == (("MemoryPressure",), None)
    assert core.look(memory(GI), 300.5).conditions == ("MemoryPressure",)
    assert core.look(memory(GI), 301.0).conditions == ()


def test_a_soft_threshold_shows_its_condition_and_waits_for_its_grace_period() -> None:
    core = Eviction((Threshold("memory.available", "1Gi", grace_s=90),), transition_s=0)
    first = core.look(memory(GI // 2), 0.0)
    assert (first.conditions, first.reclaim) == (("MemoryPressure",), None)
    assert core.look(memory(GI // 2), 89.0).reclaim is None
    assert core.look(memory(GI // 2), 90.0).reclaim is not None
    core.look(memory(2 * GI), 91.0)
    assert core.look(memory(GI // 2), 92.0).reclaim is None, "the grace period begins anew"


def test_what_was_short_must_exceed_the_threshold_by_the_minimum_reclaim() -> None:
    core = Eviction((Threshold("memory.available", "100Mi", min_reclaim="200Mi"),), transition_s=0)
    assert core.look(memory(150 * MI), 0.0).reclaim is None
    assert core.look(memory(99 * MI), 1.0).reclaim is not None
    assert core.look(memory(250 * MI), 2.0).reclaim is not None
    assert core.look(memory(300 * MI), 3.0).reclaim is None


def test_memory_is_reclaimed_before_disk_and_percentages_are_of_the_capacity() -> None:
    core = Eviction(thresholds({"nodefs.available": "10%", "memory.available": "100Mi"}, {}, {}, {}), 0)
    disk = {"nodefs.available": Observation(9, 100)}
    both = core.look({**memory(MI), **disk}, 0.0)
    assert both.conditions == ("DiskPressure", "MemoryPressure")
    assert both.reclaim is not None and both.reclaim.resource == "memory"
    assert core.look({"nodefs.available": Observation(10, 100)}, 1.0).reclaim is None


@pytest.mark.parametrize(
    ("hard", "soft", "said"),
    [
        ({"disk": "1Gi"}, {}, "unknown signal 'disk'"),
        ({"memory.available": "101%"}, {}, "between 0% and 100%"),
        ({}, {"memory.available": "1Gi"}, "evictionSoftGracePeriod"),
    ],
)
def test_thresholds_that_cannot_work_are_refused(hard: dict[str, str], soft: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        thresholds(hard, soft, {}, {})


def test_zero_percent_switches_a_signal_off() -> None:
    assert thresholds({"nodefs.available": "0%"}, {}, {}, {}) == ()


def test_who_uses_more_than_requested_goes_first_then_lower_priority_then_the_largest_excess() -> None:
    uses = [
        using("within", 900 * MI, "1Gi"),
        using("important", 800 * MI, "100Mi", priority=1000),
        using("little", 50 * MI),
        using("greedy", 300 * MI),
        using("critical", 3 * GI, priority=2_000_000_000),
    ]
    assert [u.pod["metadata"]["name"] for u in ranked(uses, "memory")] == ["greedy", "little", "important", "within"]


def test_static_pods_are_never_evicted() -> None:
    static = using("static", GI)
    static.pod["metadata"]["annotations"] = {"kubernetes.io/config.source": "file"}
    assert ranked([static], "memory") == []


def test_pids_go_by_priority_and_count_alone() -> None:
    uses = [PodUse(pod("few"), processes=3), PodUse(pod("many"), processes=900), PodUse(pod("vip", priority=9))]
    assert [u.pod["metadata"]["name"] for u in ranked(uses, "pids")] == ["many", "few", "vip"]


def test_the_message_names_the_threshold_and_who_used_more_than_requested() -> None:
    met = Reclaim(Threshold("memory.available", "100Mi"), Observation(50 * MI, 4 * GI))
    assert message(met, using("greedy", 300 * MI, "100Mi")) == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        "Container app was using 300Mi, request is 100Mi, has larger consumption of memory. "
    )


def test_local_storage_beyond_its_limits_says_which() -> None:
    volume = {"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}
    over = PodUse(pod("a", volumes=[volume]), volumes={"v": 2 * MI})
    assert over_local_storage(over) == 'Usage of EmptyDir volume "v" exceeds the limit "1Mi". '
    limited = pod("b")
    limited["spec"]["containers"][0]["resources"] = {"limits": {"ephemeral-storage": "1Mi"}}
    both = PodUse(limited, {"app": ContainerUse(disk_bytes=2 * MI)})
    assert over_local_storage(both) == "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "
    limited["spec"]["containers"].append({"name": "b", "resources": {"limits": {"ephemeral-storage": "9Mi"}}})
    assert over_local_storage(both) == 'Container app exceeded its local ephemeral storage limit "1Mi". '
    assert over_local_storage(PodUse(limited, {"app": ContainerUse(disk_bytes=MI)})) == ""


def test_memory_volumes_are_no_disk() -> None:
    use = PodUse(pod("a"), volumes={"m": GI, "d": MI}, memory_volumes=frozenset({"m"}))
    assert use.disk_bytes == MI


@pytest.mark.parametrize(
    ("made", "pressures", "refused"),
    [
        (pod("best-effort"), ("MemoryPressure",), True),
        (pod("burstable", "1Mi"), ("MemoryPressure",), False),
        (pod("burstable", "1Mi"), ("DiskPressure",), True),
        (pod("tolerates", tolerations=[{"operator": "Exists"}]), ("MemoryPressure",), False),
        (pod("tolerates", tolerations=[{"operator": "Exists"}]), ("PIDPressure",), True),
        (pod("critical", priority=2_000_000_000), ("DiskPressure",), False),
        (pod("any"), (), False),
    ],
)
def test_a_machine_under_pressure_takes_only_some_pods(made: Any, pressures: tuple[str, ...], refused: bool) -> None:
    room = {"pods": 10, "memory": GI}
    verdict = reject(made, [], room, {}, (), pressures)
    assert (verdict is not None) == refused
    if verdict is not None:
        assert verdict == ("Evicted", f"The node had condition: [{pressures[0]}]. ")
