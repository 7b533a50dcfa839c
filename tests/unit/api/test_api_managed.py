"""Field ownership and server-side apply."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api import fieldsets, managed, schema
from cluster.api.errors import ApiError

Object = dict[str, Any]


def _deployment(replicas: int = 1, image: str = "i:1", **extra: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d", **extra},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
    }


NODE = schema.node_for("apps", "v1", "Deployment")


def _apply(live: Object, wish: Object, manager: str = "m", force: bool = False) -> Object:
    result = managed.apply(NODE, live, wish, manager, force=force, subresource="", now=0)
    result.obj["metadata"] = {**result.obj["metadata"], "managedFields": result.entries}
    return result.obj


def test_creator_owns_all() -> None:
    obj = _deployment()
    managed.on_create(NODE, obj, "kubectl-create", 0)
    assert obj["metadata"]["managedFields"] == [
        {
            "manager": "kubectl-create",
            "operation": "Update",
            "apiVersion": "apps/v1",
            "time": "1970-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:spec": {
                    "f:replicas": {},
                    "f:template": {
                        "f:spec": {"f:containers": {'k:{"name":"c"}': {".": {}, "f:name": {}, "f:image": {}}}}
                    },
                }
            },
        }
    ]


def test_fields_are_remembered_by_kind() -> None:
    """The same JSON means another thing under another schema: a DaemonSet's spec has no such list of ports."""
    spec = {"ports": [{"port": 80, "protocol": "TCP"}]}
    service, daemons = schema.node_for("", "v1", "Service"), schema.node_for("apps", "v1", "DaemonSet")
    for _ in range(2):
        ports = fieldsets.field_set(service, {"spec": spec})["f:spec"]["f:ports"]
        assert list(ports) == ['k:{"port":80,"protocol":"TCP"}']
        assert fieldsets.field_set(daemons, {"spec": spec}) == {"f:spec": {"f:ports": {}}}


def test_what_became_of_one_object_leaves_its_template_alone() -> None:
    first, second = _deployment(), _deployment()
    managed.on_create(NODE, first, "a", 0)
    changed = _deployment(replicas=2)
    managed.on_update(NODE, changed, first, "b", "", 1)
    managed.on_create(NODE, second, "a", 0)
    assert second["metadata"]["managedFields"] == first["metadata"]["managedFields"]
    assert "f:replicas" not in changed["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]


def test_updater_takes_what_it_changes() -> None:
    old = _deployment()
    managed.on_create(NODE, old, "a", 0)
    new = _deployment(replicas=3)
    managed.on_update(NODE, new, old, "b", "", 9)
    a, b = new["metadata"]["managedFields"]
    assert "f:replicas" not in a["fieldsV1"]["f:spec"]
    assert (b["manager"], b["fieldsV1"]) == ("b", {"f:spec": {"f:replicas": {}}})
    same = _deployment(replicas=3)
    managed.on_update(NODE, same, new, "c", "", 99)
    assert same["metadata"]["managedFields"] == new["metadata"]["managedFields"]


def test_apply_conflicts_and_forces() -> None:
    live = _deployment(replicas=1)
    managed.on_create(NODE, live, "kubectl", 0)
    with pytest.raises(ApiError) as e:
        _apply(live, _deployment(replicas=5))
    assert e.value.code == 409
    assert e.value.message == (
        'Apply failed with 1 conflict: conflict with "kubectl" using apps/v1 at 1970-01-01T00:00:00Z: .spec.replicas'
    )
    forced = _apply(live, _deployment(replicas=5), force=True)
    assert forced["spec"]["replicas"] == 5
    assert "f:replicas" not in forced["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]


def test_apply_of_equal_values_is_shared_not_contested() -> None:
    live = _deployment()
    managed.on_create(NODE, live, "kubectl", 0)
    both = _apply(live, _deployment())
    assert [e["manager"] for e in both["metadata"]["managedFields"]] == ["kubectl", "m"]


def test_apply_removes_what_it_no_longer_names() -> None:
    wish = _deployment(labels={"a": "1", "b": "2"})
    first = _apply(_deployment() | {"spec": {}}, wish)
    assert first["metadata"]["labels"] == {"a": "1", "b": "2"}
    second = _apply(first, _deployment(labels={"a": "1"}))
    assert second["metadata"]["labels"] == {"a": "1"}
    bare = _deployment()
    bare["spec"] = {"replicas": 1}
    assert "template" not in _apply(second, bare)["spec"]


def test_apply_leaves_what_others_own() -> None:
    live = _deployment(labels={"theirs": "1"})
    managed.on_create(NODE, live, "other", 0)
    ours = _apply(live, _deployment(labels={"ours": "1"}))
    assert ours["metadata"]["labels"] == {"theirs": "1", "ours": "1"}
    less = _apply(ours, _deployment())
    assert less["metadata"]["labels"] == {"theirs": "1"}


def test_an_item_without_its_defaulted_key_is_the_same_item() -> None:
    node = schema.node_for("", "v1", "Service")
    live = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]},
    }
    wish = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    merged = managed.apply(node, live, wish, "m", force=False, subresource="", now=0)
    assert merged.obj["spec"] == live["spec"]


_leaf = st.sampled_from(["a", "b", "c"])
_sets = st.recursive(
    st.just({}),
    lambda inner: st.dictionaries(_leaf.map(lambda k: "f:" + k), inner, min_size=1, max_size=3),
    max_leaves=6,
)


def _members(s: Object) -> set[str]:
    return set(fieldsets.paths(s))


@given(_sets, _sets)
def test_set_algebra(a: Object, b: Object) -> None:
    assert _members(fieldsets.union_roots(a, b)) == _members(a) | _members(b)
    assert _members(fieldsets.difference(a, b)) == _members(a) - _members(b)
    assert _members(fieldsets.intersection(a, b)) == _members(a) & _members(b)
