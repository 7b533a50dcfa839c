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


def test_a_value_that_is_missing_is_null() -> None:
    """Regression: a client whose types omit empty values could not add one (a label without a value)."""
    assert patch.json_patch({"labels": {}}, [{"op": "add", "path": "/labels/a"}]) == {"labels": {"a": None}}
    assert patch.json_patch({"a": 1}, [{"op": "replace", "path": "/a"}]) == {"a": None}
    assert patch.json_patch({"a": None}, [{"op": "test", "path": "/a"}]) == {"a": None}


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


def test_copies_add_no_more_than_a_body_could() -> None:
    """Regression: forty copies of an object into itself took all memory there is."""
    bomb = [{"op": "copy", "from": "/data", "path": f"/data/k{i}"} for i in range(40)]
    with pytest.raises(ApiError, match="rejected our request") as e:
        patch.json_patch({"data": {"a": "x" * 1000}}, bomb)
    assert (e.value.code, e.value.reason) == (422, "Invalid")
    assert "Unable to complete the copy" in (e.value.details or {})["causes"][0]["message"]
    few = [{"op": "copy", "from": "/data", "path": "/data/b"}, {"op": "remove", "path": "/data/a"}]
    before = {"data": {"a": "x"}}
    assert patch.json_patch(before, few) == {"data": {"b": {"a": "x"}}}
    assert before == {"data": {"a": "x"}}


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ([{"op": "add", "path": "/data/~2", "value": ""}], 400),
        ([5, None], 400),
        ([{"op": "copy", "path": "/data/x"}], 400),
        ([{"op": "add", "path": "/list/" + "9" * 5000, "value": {}}], 422),
        ([{"op": "remove", "path": ""}], 422),
        ([{"op": "move", "from": "/data", "path": "/data/x"}], 422),
        ([{"op": "copy", "from": "/nowhere", "path": "/data/x"}], 422),
    ],
)
def test_json_patches_that_make_no_sense(operations: Any, code: int) -> None:
    with pytest.raises(ApiError) as e:
        patch.json_patch({"data": {}, "list": []}, operations)
    assert e.value.code == code


def test_what_a_json_patch_nests_too_deeply_is_refused() -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"a": deep}
    with pytest.raises(ApiError) as e:
        patch.json_patch({"x": deep}, [{"op": "add", "path": "/x" + "/a" * 150 + "/b", "value": deep}])
    assert e.value.code == 422


def test_many_items_are_merged_by_their_key() -> None:
    """Regression: it took time quadratic in their number, minutes here."""
    node, count = schema.node_for("", "v1", "Pod"), 20_000
    have = {"spec": {"containers": [{"name": f"c{i}", "image": "a"} for i in range(count)]}}
    items = [{"name": f"c{i}", "image": "b"} for i in range(count // 2, count)]
    items += [{"name": "c0", "$patch": "delete"}, {"name": "new", "image": "b"}, {"name": "c1", "$patch": "replace"}]
    order = [{"name": f"c{i}"} for i in reversed(range(count))]
    change = {"spec": {"containers": items, "$setElementOrder/containers": order}}
    merged = patch.strategic_merge_patch(node, have, change)["spec"]["containers"]
    assert len(merged) == count
    assert merged[:2] == [{"name": f"c{count - 1}", "image": "b"}, {"name": "new", "image": "b"}]
    assert merged[-2:] == [{"name": "c2", "image": "a"}, {"name": "c1"}]


def test_directives_about_what_has_no_order() -> None:
    """Regression: values that cannot be keys of a dict were a fault of the server."""
    odd = {"$setElementOrder/containers": [[1], {"name": ["x"]}, {}], "containers": [{"name": {"a": 1}, "image": "i"}]}
    assert len(_smp({"spec": odd})["spec"]["containers"]) == 3
    added = _smp(
        {"metadata": {"finalizers": [{"a": 1}, "x/1", {"a": 1}], "$deleteFromPrimitiveList/finalizers": [[1]]}}
    )
    assert added["metadata"]["finalizers"] == ["x/1", "x/2", {"a": 1}]
