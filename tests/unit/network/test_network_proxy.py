"""Which Services a proxy leaves alone."""

from __future__ import annotations

import pytest

from cluster.network.proxy import is_ours


@pytest.mark.parametrize(
    ("labels", "ours"),
    [
        (None, True),
        ({"app": "web"}, True),
        ({"service.kubernetes.io/service-proxy-name": "mesh"}, False),
        ({"service.kubernetes.io/headless": ""}, False),
    ],
)
def test_services_with_a_label_for_somebody_else(labels: dict[str, str] | None, ours: bool) -> None:
    assert is_ours({"metadata": {"name": "s", "labels": labels}}) is ours
