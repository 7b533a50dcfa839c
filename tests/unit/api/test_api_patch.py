"""JSON patch, merge patch, strategic merge patch."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import patch, schema
from cluster.api.errors import ApiError
from cluster.api.ordering import merged_order

POD = {
    "metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x/1", "x/2"]},
    "spec": {
        "containers": [
            {"name": "c", "image": "i:1", "env": [{"name": "E", "value": "1"}]},
            {"name": "s", "image": "s"},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "tolerations": [{"key": "k"}],
    },
}


def _smp(change: Any) -> Any:
    return patch.strategic_merge_patch(schema.node_for("", "v1", "Pod"), POD, change)


def test_merge_patch_rfc7386() -> None:
    assert patch.merge_patch({"a": {"b": 1, "c": 2}}, {"a": {"b": None, "d": {"e": None}}}) == {"a": {"c": 2, "d": {}}}
    assert patch.merge_patch({"a": [1]}, {"a": [2]}) == {"a": [2]}


def test_json_patch() -> None:
    assert patch.json_patch({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}]) == {"a": [1, 2]}
    with pytest.raises(ApiError) as e:
        patch.json_patch({}, [{"op": "test", "path": "/a", "value": 1}])
    assert e.value.code == 422
    with pytest.raises(ApiError) as e:
        patch.json_patch({}, [{"op": "dance", "path": "/a"}])
    assert e.value.code == 400


def test_strategic_merges_lists_by_key() -> None:
    out = _smp({"spec": {"containers": [{"name": "c", "image": "i:2", "env": [{"name": "F", "value": "2"}]}]}})
    assert out["spec"]["containers"] == [
        {"name": "c", "image": "i:2", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}]},
        {"name": "s", "image": "s"},
    ]
    assert POD["spec"]["containers"][0]["image"] == "i:1"


def test_strategic_directives() -> None:
    gone = _smp({"spec": {"containers": [{"name": "s", "$patch": "delete"}]}})
    assert [c["name"] for c in gone["spec"]["containers"]] == ["c"]
    replaced = _smp({"spec": {"containers": [{"name": "n", "image": "n"}, {"$patch": "replace"}]}})
    assert replaced["spec"]["containers"] == [{"name": "n", "image": "n"}]
    cut = _smp({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/1"], "labels": {"a": None}}})
    assert cut["metadata"] == {"labels": {"b": "2"}, "finalizers": ["x/2"]}
    ordered = _smp({"spec": {"$setElementOrder/containers": [{"name": "s"}, {"name": "c"}]}})
    assert [c["name"] for c in ordered["spec"]["containers"]] == ["s", "c"]
    kept = _smp({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}})
    assert kept["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/"}}]
    whole = _smp({"metadata": {"labels": {"$patch": "replace", "z": "9"}}})
    assert whole["metadata"]["labels"] == {"z": "9"}


def test_strategic_atomic_list_is_replaced_and_primitives_merge() -> None:
    assert _smp({"spec": {"tolerations": [{"key": "z"}]}})["spec"]["tolerations"] == [{"key": "z"}]
    assert _smp({"metadata": {"finalizers": ["x/3"]}})["metadata"]["finalizers"] == ["x/1", "x/2", "x/3"]


def test_strategic_needs_the_merge_key() -> None:
    with pytest.raises(ApiError, match="does not contain declared merge key: name"):
        _smp({"spec": {"containers": [{"image": "x"}]}})


def test_order_keeps_strangers_behind_their_predecessor() -> None:
    assert merged_order([1, 9, 2, 3], [3, 2, 1], lambda v: v, lambda a, b: b) == [3, 2, 1, 9]
    assert merged_order([9, 1], [1, 5], lambda v: v, lambda a, b: b) == [9, 1, 5]
