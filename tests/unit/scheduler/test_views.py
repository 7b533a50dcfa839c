"""What is kept of objects says the same as the objects, and is shared where it is equal."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scheduler.columns import NodeColumns
from cluster.scheduler.shape import shape_of
from cluster.scheduler.views import NodeViews, PodViews, selecting_view
from tests.unit.scheduler import generated


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**48))
def test_a_views_shape_is_the_pods(seed: int) -> None:
    rng = random.Random(seed)
    views = PodViews()
    for pod in generated.pods(rng, 8, run=3):
        assert views.view(pod)["shape"] == shape_of(pod)
        bound = pod | {"spec": pod["spec"] | {"nodeName": "n"}}
        assert views.view(bound)["shape"] is views.view(pod)["shape"], "where it runs is no wish"
        leaving = pod | {"metadata": pod["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
        assert views.view(leaving)["shape"] == shape_of(leaving)


def test_claims_named_after_the_pod_are_its_own() -> None:
    views = PodViews()
    spec = {"containers": [], "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}]}
    shapes = [views.view({"metadata": {"name": name, "uid": name}, "spec": spec})["shape"] for name in ("a", "b")]
    assert [shape.claims for shape in shapes] == [("a-scratch",), ("b-scratch",)]


def test_only_what_is_read_is_kept() -> None:
    pod = {
        "metadata": {"name": "p", "namespace": "d", "uid": "u", "managedFields": [1], "annotations": {"x": "y"}},
        "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "A"}]}], "nodeName": "n", "priority": 5},
        "status": {"phase": "Running", "conditions": [{"type": "PodScheduled"}], "podIP": "1.2.3.4"},
    }
    kept = PodViews().view(pod)
    assert kept["spec"] == {"nodeName": "n", "priority": 5}
    assert kept["status"] == {"phase": "Running"}
    assert set(kept["metadata"]) == {"name", "namespace", "uid", "labels"}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**48))
def test_a_nodes_view_fills_the_columns_as_the_node_does(seed: int) -> None:
    views, whole, cut = NodeViews(), NodeColumns(2), NodeColumns(2)
    for node in generated.nodes(random.Random(seed)):
        node["status"]["images"] = [{"names": ["a:1"], "sizeBytes": 5, "more": "x"}]
        whole.set_node(node)
        cut.set_node(views.view(node))
    assert (whole.allocatable == cut.allocatable).all()
    assert (whole.taints == cut.taints).all() and whole.taint_sets == cut.taint_sets
    assert (whole.unschedulable == cut.unschedulable).all()
    assert whole.images == cut.images
    assert {k: c.values for k, c in whole.labels.items()} == {k: c.values for k, c in cut.labels.items()}


def test_selecting_objects_keep_their_selector() -> None:
    service = {"metadata": {"name": "s", "namespace": "d", "labels": {"a": "b"}}, "spec": {"selector": {"app": "x"}}}
    assert selecting_view(service) == {
        "metadata": {"name": "s", "namespace": "d"},
        "spec": {"selector": {"app": "x"}},
    }
