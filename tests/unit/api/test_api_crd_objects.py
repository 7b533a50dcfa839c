"""Custom objects judged whole: schema, lists, embedded resources, scale and rules together, what is advised."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("cel_expr_python", reason="`make bootstrap` installs it")

from cluster.api import fieldwalks
from cluster.api.crd import definition
from cluster.api.crd.versions import CustomVersion
from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.api.validation import create
from cluster.api.validation.advice import warnings

Json = dict[str, Any]
DEFINITIONS = SCHEME.named("customresourcedefinitions.apiextensions.k8s.io")


def definition_of(schema: Json, **more: Any) -> Json:
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, **more}
    names = {"plural": "things", "kind": "Thing"}
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    crd = {"metadata": {"name": "things.example.com"}, "spec": spec}
    definition.default(crd)
    return crd


def custom(schema: Json, **more: Any) -> CustomVersion:
    crd = definition_of(schema, **more)
    return CustomVersion(crd, crd["spec"]["versions"][0])


def obj(**properties: Json) -> Json:
    return {"type": "object", "properties": properties}


def thing(**spec: Any) -> Json:
    metadata = {"name": "one", "namespace": "default"}
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": metadata, "spec": spec}


def judged(version: CustomVersion, new: Json, old: Json | None = None) -> list[str]:
    return [str(c) for c in version.validate(new, old)]


LISTS = custom(
    obj(
        spec=obj(
            tags={"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            ports={
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name", "protocol"],
                "items": obj(name={"type": "string"}, protocol={"type": "string"}, number={"type": "integer"}),
            },
        )
    )
)


def test_sets_and_maps_hold_each_item_once() -> None:
    assert judged(LISTS, thing(tags=["a", "b", "a", "a"])) == ['spec.tags[2]: Duplicate value: "a"']
    ports = [{"name": "a", "number": 1}, {"name": "a", "number": 2}, {"name": "a", "protocol": "UDP"}]
    assert judged(LISTS, thing(ports=ports)) == ['spec.ports[1]: Duplicate value: {"name":"a"}']


def test_duplicates_that_were_there_before_are_nobodys_fault() -> None:
    old = thing(tags=["a", "a"])
    assert judged(LISTS, thing(tags=["a", "a", "b", "b"]), old) == []
    assert judged(LISTS, thing(tags=["a", "a"]), thing(tags=["a"])) == ['spec.tags[1]: Duplicate value: "a"']


EMBEDDED = custom(
    obj(
        spec=obj(
            template={
                "type": "object",
                "x-kubernetes-embedded-resource": True,
                "x-kubernetes-preserve-unknown-fields": True,
            }
        )
    )
)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}, ""),
        ({"kind": "Pod"}, "spec.template.apiVersion: Required value"),
        ({"apiVersion": "a/b/c", "kind": "Pod"}, "spec.template.apiVersion: Invalid value: "),
        ({"apiVersion": "v1", "kind": "P od"}, 'spec.template.kind: Invalid value: "P od": may have mixed case'),
        ({"apiVersion": "v1", "kind": ""}, 'spec.template.kind: Invalid value: "": must not be empty'),
        (
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "..", "labels": {"a b": "c"}}},
            "spec.template.metadata.labels: Invalid value",
        ),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": ".."}}, "spec.template.metadata.name: Invalid value"),
    ],
)
def test_embedded_resources_say_what_they_are(template: Json, fault: str) -> None:
    found = judged(EMBEDDED, thing(template=template))
    assert any(f.startswith(fault) for f in found) if fault else found == [], found


SCALED = custom(
    {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    subresources={
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    },
)


def test_replicas_are_numbers_that_a_scale_can_say() -> None:
    assert judged(SCALED, thing(replicas=3)) == []
    assert judged(SCALED, thing()) == []
    assert judged(SCALED, thing(replicas=-1)) == [".spec.replicas: Invalid value: -1: should be a non-negative integer"]
    assert "should be less than or equal to 2147483647" in judged(SCALED, thing(replicas=2**31))[0]
    assert judged(SCALED, thing(replicas="3")) == [
        ".spec.replicas: Invalid value: 0: .spec.replicas accessor error: 3 is of the type string, expected int64"
    ]
    assert judged(SCALED, {**thing(), "status": {"selector": 1}})[0].startswith(".status.selector: Invalid value")


def test_rules_are_run_beside_other_faults_but_not_on_values_of_the_wrong_kind() -> None:
    rule = {"rule": "self.size < 3", "message": "too large"}
    spec = {
        **obj(size={"type": "integer"}, name={"type": "string", "pattern": "^a", "maxLength": 3}),
        "x-kubernetes-validations": [rule],
    }
    version = custom(obj(spec=spec))
    both = judged(version, thing(size=5, name="b"))
    assert len(both) == 2 and both[1] == "spec: Invalid value: too large"
    cut = judged(version, thing(size=5, name="abcd"))
    assert [c.partition(":")[0] for c in cut] == ["spec.name", "<nil>"]
    assert "some validation rules were not checked because the object was invalid" in cut[1]


def test_a_write_to_the_status_brings_the_statuss_defaults_alone() -> None:
    word = {"type": "string", "default": "x"}
    version = custom(obj(spec=obj(a=word), status=obj(b=word)), subresources={"status": {}})
    written = {**thing(), "status": {}}
    version.default_status(written)
    assert (written["spec"], written["status"]) == ({}, {"b": "x"})


def test_of_a_status_its_own_schema_speaks() -> None:
    number = obj(num={"type": "integer", "maximum": 10})
    version = custom(obj(spec=number, status=number), subresources={"status": {}})
    new = {**thing(num=15), "status": {"num": 15}}
    assert [str(c) for c in version.validate(new, {**thing(num=15), "status": {"num": 1}}, status=True)] == [
        "status.num: Invalid value: 15: num in body should be less than or equal to 10"
    ]


def test_a_schema_may_restrict_what_an_object_calls_itself() -> None:
    version = custom(obj(apiVersion={"type": "string", "pattern": "^example.com/v2$"}))
    assert judged(version, thing())[0].startswith('apiVersion: Invalid value: "example.com/v1"')


def test_embedded_metadata_that_cannot_be_read_is_named() -> None:
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": 1}}
    with pytest.raises(ApiError, match=r"spec\.template\.metadata: Invalid value") as caught:
        EMBEDDED.decode(thing(template=template), "Strict")
    assert caught.value.code == 422


def test_what_a_schema_preserves_without_naming_it_is_owned_field_by_field() -> None:
    open_object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = custom({**open_object, "properties": {"known": {**open_object, "properties": {"a": {"type": "string"}}}}})
    written = {**thing(num=1, deep={"list": [1]}), "known": {"a": "x", "b": {"c": 1}}}
    assert fieldwalks.field_set(version.node, written) == {
        "f:spec": {".": {}, "f:num": {}, "f:deep": {".": {}, "f:list": {}}},
        "f:known": {"f:a": {}, "f:b": {".": {}, "f:c": {}}},
    }


def test_a_finalizer_without_a_domain_is_advised_against_not_refused() -> None:
    new = thing()
    new["metadata"]["finalizers"] = ["clean", "example.com", "example.com/clean"]
    assert create(LISTS.info, new) == []
    assert list(warnings(LISTS.info, new)) == [
        'metadata.finalizers: "clean": prefer a domain-qualified finalizer name to avoid accidental conflicts with '
        "other finalizer writers",
        'metadata.finalizers: "example.com": prefer a domain-qualified finalizer name including a path (/) to avoid '
        "accidental conflicts with other finalizer writers",
    ]
    assert list(warnings(LISTS.info, new, new)) == []


def test_formats_that_nothing_checks_are_advised_against_once() -> None:
    crd = definition_of(obj(a={"type": "string", "format": "color"}, b={"type": "string", "format": "uuid"}))
    assert list(warnings(DEFINITIONS, crd)) == ['unrecognized format "color"']
    assert list(warnings(DEFINITIONS, crd, crd)) == []
