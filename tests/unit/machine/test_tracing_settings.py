"""The setting `tracing`: Kubernetes' names, and what is refused."""

from __future__ import annotations

import pytest

from cluster.machine import tracing_settings
from cluster.machine.config import ClusterConfig
from cluster.machine.config_json import ConfigError


def test_without_it_nothing_is_traced() -> None:
    assert tracing_settings.of({}) is None
    assert ClusterConfig.local().tracing == {}


def test_only_what_clients_sample_unless_a_rate_says_more() -> None:
    found = tracing_settings.of({"endpoint": "collector:4317"})
    assert found is not None and (found.endpoint, found.sampling_rate_per_million) == ("collector:4317", 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"endpoint": "https://collector:4317"}, "endpoint 'https://collector:4317' must be host:port"),
        ({"samplingRatePerMillion": 10}, "endpoint '' must be host:port"),
        ({"endpoint": "c:4317", "samplingRatePerMillion": 2_000_000}, "2000000 must be from 0"),
        ({"endpoint": "c:4317", "sampling": 1}, "unknown setting 'sampling'; known are endpoint"),
    ],
)
def test_what_cannot_work_is_refused_by_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ClusterConfig.local(tracing=given).validate()
