"""Which news of CSI drivers' capacities wake pods that wait for room."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.machinery.client import WatchEvent
from cluster.machinery.informer import Informers
from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.volume_view import VolumeView

CAPACITIES = "csistoragecapacities.storage.k8s.io"


def capacity(revision: int, **sizes: str) -> dict[str, Any]:
    meta = {"name": "c", "namespace": "default", "uid": "u", "resourceVersion": str(revision)}
    return {"metadata": meta, "storageClassName": "made", "nodeTopology": {}, **sizes}


@pytest.mark.parametrize(
    ("before", "after", "wakes"),
    [
        ({}, {}, False),
        ({}, {"capacity": "1Gi"}, True),
        ({"capacity": "1Gi"}, {"capacity": "2Gi"}, True),
        ({"capacity": "2Gi"}, {"capacity": "1Gi"}, False),
        ({"capacity": "1Gi"}, {"capacity": "1024Mi"}, False),
        ({"capacity": "9Gi", "maximumVolumeSize": "1Gi"}, {"capacity": "8Gi", "maximumVolumeSize": "2Gi"}, True),
        ({"capacity": "8Gi", "maximumVolumeSize": "1Gi"}, {"capacity": "9Gi", "maximumVolumeSize": "1Gi"}, False),
        ({"capacity": "1Gi"}, {}, False),
    ],
)
def test_only_more_room_wakes(before: dict[str, str], after: dict[str, str], wakes: bool) -> None:
    client: Any = None
    told: list[frozenset[str]] = []
    informers = Informers(client)
    VolumeView(informers, NodeColumns(), lambda _, plugins: told.append(plugins)).listen()
    news = informers.of(CAPACITIES)
    news.apply(WatchEvent("ADDED", capacity(1, **before)))
    assert told == [frozenset({"VolumeBinding"})], "a new one may hold what nobody had room for"
    news.apply(WatchEvent("MODIFIED", capacity(2, **after)))
    assert len(told) == (2 if wakes else 1)
    news.apply(WatchEvent("DELETED", capacity(3, **after)))
    assert len(told) == (2 if wakes else 1)
