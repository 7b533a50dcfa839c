"""KubeletConfiguration's names and values as a kubelet's settings, and what they make of the Node's resources."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.node.config import ConfigError, KubeletConfig
from cluster.node.node_status import MachineFacts, allocatable, capacity
from cluster.node.settings import checked_settings, duration_s, with_settings

FACTS = MachineFacts(4, 8 << 30, 100 << 30, "mid", "uuid", "boot", "6.1", "Debian", "amd64")


def config(**settings: Any) -> KubeletConfig:
    return with_settings(KubeletConfig("m1", "10.0.0.1", "/var/lib/k", "c", "k", "a"), settings)


@pytest.mark.parametrize(("text", "seconds"), [("5m0s", 300.0), ("1h1m1s", 3661.0), ("500ms", 0.5), (7, 7.0)])
def test_durations_are_gos(text: Any, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"evictionHrad": {}}, "unknown setting 'evictionHrad'"),
        ({"shutdownGracePeriod": "soon"}, "shutdownGracePeriod: 'soon' is not a duration"),
        ({"maxPods": "110"}, "maxPods: '110' is not a whole number"),
        ({"kubeReserved": {"cpu": "lots"}}, "kubeReserved"),
    ],
)
def test_what_is_wrong_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        checked_settings(settings)


def test_allocatable_is_the_capacity_less_reservations_and_what_eviction_keeps_free() -> None:
    made = config(
        kubeReserved={"cpu": "100m", "memory": "256Mi"},
        systemReserved={"memory": "244Mi", "ephemeral-storage": "1Gi"},
        evictionHard={"memory.available": "500Mi", "nodefs.available": "10%"},
        extendedResources={"example.com/gpu": "2"},
    )
    free = allocatable(made, capacity(made, FACTS))
    assert free["cpu"] == "3900m"
    assert free["memory"] == f"{8192 - 1000}Mi"
    assert free["ephemeral-storage"] == "89Gi"
    assert free["example.com/gpu"] == "2"
