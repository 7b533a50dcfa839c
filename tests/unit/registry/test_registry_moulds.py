"""What is cast from a mould is what its own way through the registry would have made of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.types import RegistryConfig
from cluster.registry.writing import Writer

Obj = dict[str, Any]


def event(number: int, **other: Any) -> Obj:
    involved = {"kind": "Pod", "namespace": "default", "name": f"p{number}", "uid": f"u-{number}"}
    return {
        "metadata": {"name": f"p{number}.18", "namespace": "default"},
        "involvedObject": {**involved, "apiVersion": "v1", "resourceVersion": str(number)},
        "reason": "Scheduled",
        "message": f'Successfully assigned default/p{number} to "näher" \\ {number}',
        "source": {"component": "default-scheduler"},
        "type": "Normal",
        **other,
    }


def pod(**metadata: Any) -> Obj:
    meta = {"namespace": "default", "labels": {"app": "web"}, "generateName": "web-", **metadata}
    return {
        "metadata": meta,
        "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}]},
    }


def told(obj: Obj) -> Obj:
    """Without what is each object's own, and drawn or counted."""
    own = ("uid", "resourceVersion")
    return {**obj, "metadata": {k: v for k, v in obj["metadata"].items() if k not in own}}


@pytest.fixture
def casts(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each object that met a mould was cast from it."""
    seen: list[bool] = []
    cast = Writer.cast

    def watched(self: Writer, *arguments: Any) -> Any:
        draft = cast(self, *arguments)
        seen.append(draft is not None)
        return draft

    monkeypatch.setattr(Writer, "cast", watched)
    return seen


async def create_all(bench: Any, resource: str, objects: list[Obj]) -> list[Any]:
    outcomes: list[Any] = await bench.registry.create_all(bench.ctx, SCHEME.named(resource), objects)
    return outcomes


@pytest.mark.parametrize(
    ("resource", "objects"),
    [
        ("events", [event(i) for i in range(5)]),
        ("pods", [pod(name=f"web-{i}") for i in range(5)]),
        ("pods", [pod(name=f"web-{i}", annotations={"a": "\0zero\0 and \\u0000"}) for i in range(5)]),
    ],
)
async def test_what_is_cast_equals_what_is_created_alone(
    bench: Any, casts: list[bool], resource: str, objects: list[Obj]
) -> None:
    together = await create_all(bench, resource, objects)
    assert casts == [True] * 4
    for one, wish in zip(together, objects, strict=True):
        stored = await bench.get(resource, wish["metadata"]["name"])
        assert (one.raw, one.obj, one.uid) == (stored.raw, stored.obj, stored.uid)
        await bench.delete(resource, wish["metadata"]["name"])
        alone = await bench.create(resource, wish)
        assert told(one.obj) == told(alone.obj)
        assert list(one.obj) == list(alone.obj) and list(one.obj["metadata"]) == list(alone.obj["metadata"])
    assert len({one.uid for one in together}) == len(objects)


async def test_names_are_drawn_for_each(bench: Any, casts: list[bool]) -> None:
    made = await create_all(bench, "pods", [pod() for _ in range(30)])
    names = {one.obj["metadata"]["name"] for one in made}
    assert casts == [True] * 29 and len(names) == 30
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


async def test_what_differs_elsewhere_takes_its_own_way(bench: Any, casts: list[bool]) -> None:
    others = [event(0), event(1, reason="Failed"), event(2, action="Bind"), event(3, action="Bind")]
    made = await create_all(bench, "events", others)
    assert casts == [False, False, True]
    assert [(one.obj["reason"], one.obj.get("action")) for one in made] == [
        ("Scheduled", None),
        ("Failed", None),
        ("Scheduled", "Bind"),
        ("Scheduled", "Bind"),
    ]


async def test_a_value_that_is_missing_or_no_string_is_not_cast(bench: Any, casts: list[bool]) -> None:
    lacking, wrong = event(1), event(2)
    del lacking["message"]
    wrong["message"] = 7
    made = await create_all(bench, "events", [event(0), lacking, event(3), wrong])
    assert casts == [False, False]  # after `lacking`, which has no place for a message, there is no mould
    assert "message" not in made[1].obj
    assert isinstance(made[3], ApiError) and made[3].reason == "BadRequest"


async def test_each_is_validated(bench: Any, casts: list[bool]) -> None:
    bad = event(1)
    bad["metadata"]["name"] = "Not/A name"
    made = await create_all(bench, "events", [event(0), bad, event(2)])
    assert isinstance(made[1], ApiError) and made[1].reason == "Invalid"
    assert not isinstance(made[0], ApiError) and not isinstance(made[2], ApiError)
    assert made[2].obj["involvedObject"]["name"] == "p2"


async def test_marks_in_an_object_make_no_mould(bench: Any, casts: list[bool]) -> None:
    """Where the cuts would be ambiguous, nothing is cut."""
    made = await create_all(bench, "pods", [pod(annotations={"a": "\0" + "0\0"}) for _ in range(3)])
    assert casts == [] and len({one.uid for one in made}) == 3


@pytest.mark.parametrize("kind", ["mutatingadmissionpolicies", "validatingadmissionpolicies"])
async def test_policies_see_every_object(bench: Any, casts: list[bool], kind: str) -> None:
    assert await bench.registry._admission.quiet()
    constraints = {
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    }
    spec: Obj = {"matchConstraints": constraints, "failurePolicy": "Fail"}
    if kind.startswith("mutating"):
        change = {"expression": 'Object{metadata: Object.metadata{labels: {"by": "policy"}}}'}
        spec |= {
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": change}],
        }
    else:
        spec |= {"validations": [{"expression": "true"}]}
    await bench.create(f"{kind}.admissionregistration.k8s.io", {"metadata": {"name": "p"}, "spec": spec})
    await create_all(bench, "pods", [pod() for _ in range(3)])
    assert casts == []


async def test_many_events_are_not_hung_on_one_lease(bench: Any, casts: list[bool]) -> None:
    """They would all be deleted at one revision."""
    made = await create_all(bench, "events", [event(i) for i in range(1500)])
    assert not any(isinstance(one, ApiError) for one in made)
    stored = await bench.store.range(b"/registry/core/events/", b"/registry/core/events0")
    held = Counter(kv.lease for kv in stored.kvs)
    assert sorted(held.values()) == [500, 1000] and 0 not in held
    assert casts.count(False) == 1  # the one that was granted the second lease


async def test_who_has_no_name_and_asks_for_none_gets_none(bench: Any, casts: list[bool]) -> None:
    named, nameless = pod(name="a"), pod()
    del named["metadata"]["generateName"], nameless["metadata"]["generateName"]
    made = await create_all(bench, "pods", [named, nameless])
    assert casts == [False]
    assert isinstance(made[1], ApiError) and made[1].reason == "Invalid"
    assert "name or generateName is required" in made[1].message


async def test_each_is_refused_by_its_own_name(bench: Any, casts: list[bool]) -> None:
    await bench.create("namespaces", {"metadata": {"name": "ending"}}, "")
    await bench.create("serviceaccounts", {"metadata": {"name": "default"}}, "ending")
    await bench.delete("namespaces", "ending", "")
    made = await create_all(bench, "pods", [pod(name=name, namespace="ending") for name in "abc"])
    assert [one.message.partition(":")[0] for one in made] == [f'pods "{name}" is forbidden' for name in "abc"]
    assert casts == [True, True]


async def test_what_is_too_long_is_not_cast(bench: Any, casts: list[bool]) -> None:
    bench.registry = bench.another(config=RegistryConfig(max_object_bytes=3000))
    made = await create_all(bench, "events", [event(0), event(1, message="m" * 3000), event(2)])
    assert casts == [False, True]
    assert isinstance(made[1], ApiError) and made[1].code == 413
    assert not isinstance(made[2], ApiError)
