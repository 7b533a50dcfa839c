"""Settings spelled as kube-controller-manager's flags."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.controllers.config import profile
from cluster.controllers.flags import with_flags


def test_flags_of_the_reference() -> None:
    found = with_flags(profile("kubernetes"), {"node-monitor-grace-period": "50s", "pod-eviction-timeout": "1m"})
    assert (found.node_monitor_grace_period_s, found.pod_eviction_timeout_s) == (50.0, 60.0)
    assert profile("kubernetes").pod_eviction_timeout_s == 300.0 and profile("fast").pod_eviction_timeout_s is None


def test_numbers_and_names_as_here() -> None:
    found = with_flags(profile(), {"concurrent_job_syncs": 7, "node-eviction-rate": 0.5, "pod-eviction-timeout": 30})
    assert (found.concurrent_job_syncs, found.node_eviction_rate, found.pod_eviction_timeout_s) == (7, 0.5, 30)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"node-monitor-grace": "40s"}, "unknown setting 'node-monitor-grace'"),
        ({"cluster-cidr": "10.0.0.0/8"}, "unknown setting 'cluster-cidr'"),
        ({"pod-eviction-timeout": "soon"}, "invalid duration"),
        ({"concurrent-job-syncs": "many"}, "'many' is not a int"),
        ({"concurrent-job-syncs": 0}, "must be at least 1"),
        ({"node-eviction-rate": -1}, "of 0 or more"),
        ({"node-monitor-grace-period": "1s"}, "must be greater than node_monitor_period_s"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        with_flags(profile(), settings)
