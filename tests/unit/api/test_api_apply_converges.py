"""Server-side apply by several managers: whatever the order, the object is what their last wishes say together.

The oracle knows no field sets: a wish is a set of facts, and what must come out is the object of all facts that some
manager's last wish still holds. A fact's value follows from the fact, so managers agree where they meet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.api import fieldwalks, managed, schema

Object = dict[str, Any]
Fact = tuple[str, ...]

NODE = schema.node_for("apps", "v1", "Deployment")
FACTS: list[Fact] = [
    ("replicas",),
    ("selector",),
    *(("label", k) for k in "ab"),
    *(("finalizer", k) for k in "ab"),
    ("nodeSelector",),
    *(("container", c, what) for c in "xy" for what in ("", "image", "command")),
    *(("container", "x", "env", e) for e in "pq"),
    *(("container", "x", "port", p) for p in ("80", "81")),
]


def made_of(facts: Iterable[Fact]) -> Object:
    """The object of these facts: structs, a map, a set, lists by key, and what is taken as a whole."""
    obj: Object = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    containers: dict[str, Object] = {}
    for fact in sorted(facts):
        match fact:
            case ("replicas",):
                obj.setdefault("spec", {})["replicas"] = 3
            case ("selector",):
                obj.setdefault("spec", {})["selector"] = {"matchLabels": {"a": "b"}}
            case ("label", key):
                obj["metadata"].setdefault("labels", {})[key] = f"is-{key}"
            case ("finalizer", key):
                obj["metadata"].setdefault("finalizers", []).append(f"example.com/{key}")
            case ("nodeSelector",):
                _pod(obj)["nodeSelector"] = {"a": "b", "c": "d"}
            case ("container", name, *what):
                _container(containers.setdefault(name, {"name": name}), what)
    if containers:
        _pod(obj)["containers"] = list(containers.values())
    return obj


def _pod(obj: Object) -> Object:
    spec: Object = obj.setdefault("spec", {}).setdefault("template", {}).setdefault("spec", {})
    return spec


def _container(container: Object, what: list[str]) -> None:
    match what:
        case ["image"]:
            container["image"] = f"image-{container['name']}"
        case ["command"]:
            container["command"] = ["run", container["name"]]
        case ["env", name]:
            container.setdefault("env", []).append({"name": name, "value": f"value-{name}"})
        case ["port", number]:
            container.setdefault("ports", []).append({"containerPort": int(number), "protocol": "TCP"})


def settled(value: Any) -> Any:
    """Without the order of lists by key, without what has become empty, and without ownership."""
    if isinstance(value, dict):
        items = {k: settled(v) for k, v in value.items() if k != "managedFields"}
        return {k: v for k, v in items.items() if v not in ({}, [])}
    if isinstance(value, list) and value and (isinstance(value[0], dict) or str(value[0]).startswith("example.com/")):
        return sorted((settled(v) for v in value), key=repr)
    return value


def applied(live: Object, wish: Object, manager: str) -> Object:
    result = managed.apply(NODE, live, wish, manager, force=False, subresource="", now=0)
    return {**result.obj, "metadata": {**result.obj["metadata"], "managedFields": result.entries}}


Histories = dict[str, list[frozenset[Fact]]]
wishes = st.lists(st.frozensets(st.sampled_from(FACTS), max_size=8), min_size=1, max_size=3)
histories = st.dictionaries(st.sampled_from(["m1", "m2", "m3", "m4"]), wishes, min_size=1)


@settings(deadline=None, max_examples=200)
@given(histories, st.randoms(use_true_random=False))
def test_managers_converge_in_any_order(plans: Histories, random: Any) -> None:
    live: Object = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    turns = [m for m, plan in plans.items() for _ in plan]
    random.shuffle(turns)
    left = {m: list(plan) for m, plan in plans.items()}
    for manager in turns:
        live = applied(live, made_of(left[manager].pop(0)), manager)
    last = {m: plan[-1] for m, plan in plans.items()}
    assert settled(live) == settled(made_of(frozenset().union(*last.values())))
    owners = {e["manager"]: e["fieldsV1"] for e in live["metadata"]["managedFields"]}
    owned = {m: fieldwalks.field_set(NODE, made_of(facts)) for m, facts in last.items()}
    assert owners == {m: fields for m, fields in owned.items() if fields}
    again = live
    for manager, facts in last.items():
        again = applied(again, made_of(facts), manager)
    assert settled(again) == settled(live)  # nothing is left to be done
