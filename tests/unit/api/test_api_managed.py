"""Field ownership and server-side apply."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api import fieldsets, fieldwalks, managed, schema
from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME

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


def _owned(obj: Object, manager: str) -> Object:
    fields: Object = next(e["fieldsV1"] for e in obj["metadata"]["managedFields"] if e["manager"] == manager)
    return fields


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
        ports = fieldwalks.field_set(service, {"spec": spec})["f:spec"]["f:ports"]
        assert list(ports) == ['k:{"port":80,"protocol":"TCP"}']
        assert fieldwalks.field_set(daemons, {"spec": spec}) == {"f:spec": {"f:ports": {}}}


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
    assert "f:replicas" not in _owned(forced, "kubectl")["f:spec"]


def test_apply_of_equal_values_is_shared_not_contested() -> None:
    live = _deployment()
    managed.on_create(NODE, live, "kubectl", 0)
    both = _apply(live, _deployment())
    assert [e["manager"] for e in both["metadata"]["managedFields"]] == ["m", "kubectl"]  # those who apply come first


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


def _created(resource: str, obj: Object) -> Object:
    info = SCHEME.named(resource)
    whole = {"apiVersion": info.api_version, "kind": info.kind, **obj}
    managed.on_create(schema.node_of(info), whole, "m", 0)
    return _owned(whole, "m")


def test_structs_lists_and_maps_that_came_are_members_themselves() -> None:
    """What kube-apiserver records of `kubectl create`: a "." for each list, map and pointer that an empty object has
    not, none for structs that Go holds by value and for lists that it always encodes."""
    probe = {"httpGet": {"port": 80}}
    ports = [{"containerPort": 80, "protocol": "TCP"}]
    container = {"name": "c", "livenessProbe": probe, "ports": ports, "resources": {"limits": {"cpu": "1"}}, "env": []}
    spec = {"containers": [container], "securityContext": {}, "volumes": [{"name": "v", "emptyDir": {}}]}
    assert _created("pods", {"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": spec}) == {
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {
            "f:containers": {
                'k:{"name":"c"}': {
                    ".": {},
                    "f:name": {},
                    "f:livenessProbe": {".": {}, "f:httpGet": {".": {}, "f:port": {}}},
                    "f:ports": {
                        ".": {},
                        'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:protocol": {}},
                    },
                    "f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}}},
                    "f:env": {},
                }
            },
            "f:securityContext": {},
            "f:volumes": {".": {}, 'k:{"name":"v"}': {".": {}, "f:name": {}, "f:emptyDir": {}}},
        },
    }


def test_a_struct_that_is_always_there_never_comes_as_a_whole() -> None:
    rolling = {"rollingUpdate": {"maxSurge": 1}, "type": "RollingUpdate"}
    spec = {"strategy": rolling, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}}
    assert _created("deployments.apps", {"metadata": {"name": "d"}, "spec": spec}) == {
        "f:spec": {
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                "f:spec": {"f:containers": {}},
            },
        }
    }


def test_what_an_applier_names_has_no_members_on_the_way() -> None:
    wish = _deployment(labels={"a": "1"}, annotations={}, finalizers=[])
    assert fieldwalks.field_set(NODE, wish)["f:metadata"] == {"f:labels": {"f:a": {}}, "f:annotations": {}}


def test_duplicates_in_a_list_are_owned_together() -> None:
    def env(*values: str) -> Object:
        obj = _deployment()
        obj["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": v} for v in values]
        return obj

    def owned(obj: Object, manager: str) -> Object:
        container = _owned(obj, manager)["f:spec"]["f:template"]["f:spec"]["f:containers"]['k:{"name":"c"}']
        return container.get("f:env") or {}

    twice, once = env("1", "2"), env("3")
    managed.on_create(NODE, twice, "a", 0)
    assert owned(twice, "a") == {".": {}, 'k:{"name":"A"}': {}}
    managed.on_update(NODE, once, twice, "b", "", 1)
    assert (owned(once, "a"), owned(once, "b")) == ({}, {'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}})


def test_duplicates_are_named_by_their_path() -> None:
    twice = _deployment(finalizers=["a.io/x", "a.io/x"])
    container = twice["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "B"}]
    assert list(fieldwalks.duplicates(NODE, twice)) == [
        '.metadata.finalizers: duplicate entries for key [="a.io/x"]',
        '.spec.template.spec.containers[name="c"].env: duplicate entries for key [name="A"]',
    ]
    assert list(fieldwalks.duplicates(NODE, _deployment())) == []


def test_the_first_apply_finds_an_owner_for_what_is_there() -> None:
    live = _deployment()
    live["metadata"]["uid"] = "u"
    applied = _apply(live, _deployment(labels={"a": "1"}))
    assert [e["manager"] for e in applied["metadata"]["managedFields"]] == ["m", "before-first-apply"]
    assert _owned(applied, "before-first-apply")["f:spec"]["f:replicas"] == {}


def test_nobody_is_tracked_where_nobody_was() -> None:
    new, old = _deployment(replicas=3), _deployment(replicas=1)
    managed.on_update(NODE, new, old, "m", "", 1)
    assert "managedFields" not in new["metadata"]


def test_a_client_may_rewrite_who_owns_what() -> None:
    """As `kubectl apply --server-side` does, to make its client-side applies server-side ones."""
    old = _deployment()
    managed.on_create(NODE, old, "kubectl-client-side-apply", 0)
    entry = {**old["metadata"]["managedFields"][0], "manager": "kubectl", "operation": "Apply"}
    new = _deployment(managedFields=[entry])
    managed.on_update(NODE, new, old, "kubectl", "", 1)
    assert new["metadata"]["managedFields"] == [entry]
    for nonsense in ({**entry, "fieldsV1": {"spec": {}}}, {**entry, "fieldsType": "V9"}, {**entry, "operation": "Own"}):
        again = _deployment(managedFields=[nonsense])
        managed.on_update(NODE, again, old, "kubectl", "", 1)
        assert again["metadata"]["managedFields"] == old["metadata"]["managedFields"]
    forgotten = _deployment(replicas=7, managedFields=[{}])
    managed.on_update(NODE, forgotten, old, "kubectl", "", 1)
    assert "managedFields" not in forgotten["metadata"]
    through_status = _deployment(managedFields=[entry])
    managed.on_update(NODE, through_status, old, "kubectl", "status", 1)
    assert through_status["metadata"]["managedFields"] == old["metadata"]["managedFields"]


def test_of_many_updaters_the_oldest_are_one() -> None:
    live = _deployment()
    managed.on_create(NODE, live, "first", 0)
    for i in range(12):
        new = _deployment(annotations={f"a{j}": "" for j in range(i + 1)})
        new["metadata"]["managedFields"] = live["metadata"]["managedFields"]
        managed.on_update(NODE, new, live, f"m{i}", "", 60 * (i + 1))
        live = new
    managers = [e["manager"] for e in live["metadata"]["managedFields"]]
    assert managers == ["ancient-changes", *(f"m{i}" for i in range(3, 12))]
    assert set(_owned(live, "ancient-changes")["f:metadata"]["f:annotations"]) == {".", "f:a0", "f:a1", "f:a2"}


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
