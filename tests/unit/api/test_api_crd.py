"""Custom resources' pure parts: what a definition may say, and what its schema does to objects."""

from __future__ import annotations

import copy
from typing import Any

import pytest

pytest.importorskip("cel_expr_python", reason="`make bootstrap` installs it")

from cluster.api.crd import formats, instances, jsonpath, pruning, rules, schemas
from cluster.api.crd.structural import compile_schema
from cluster.api.crd.values import escape
from cluster.api.crd.versions import priority
from cluster.api.validation.fields import Faults

Json = dict[str, Any]


def faults_of(schema: Json) -> list[str]:
    faults = Faults()
    schemas.validate(faults, "s", schema)
    return [str(c) for c in faults.causes]


def obj(**properties: Json) -> Json:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"properties": {}}, "s.type: Required value: must not be empty at the root"),
        ({"type": "array", "items": {"type": "string"}}, 's.type: Invalid value: "array": must be object at the root'),
        (obj(a={}), "s.properties[a].type: Required value: must not be empty for specified object fields"),
        (
            obj(a={"type": "array", "items": {}}),
            "s.properties[a].items.type: Required value: must not be empty for specified array items",
        ),
        (obj(a={"type": "array"}), "s.properties[a].items: Required value: must be specified"),
        (
            {**obj(a={"type": "string"}), "additionalProperties": {"type": "string"}},
            "s.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            obj(a={"type": "string", "anyOf": [{"type": "integer"}]}),
            "s.properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            obj(metadata={"type": "object", "properties": {"labels": {"type": "object"}}}),
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but "
            "metadata is implicitly specified",
        ),
        (
            obj(a={"type": "array", "x-kubernetes-list-type": "map", "items": obj(k={"type": "string"})}),
            "s.properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type "
            "is map",
        ),
        (
            obj(a={"type": "string", "pattern": "("}),
            's.properties[a].pattern: Invalid value: "(": must be a valid regular expression, but isn\'t: error '
            "parsing regexp: missing ): (",
        ),
        (
            obj(a={"type": "integer", "default": "x"}),
            's.properties[a].default: Invalid value: "string": s.properties[a].default in body must be of type '
            'integer: "string"',
        ),
        (
            obj(a={**obj(b={"type": "string"}), "default": {"c": 1}}),
            's.properties[a].default: Invalid value: {"c":1}: must not have unknown fields',
        ),
        (
            obj(a={"type": "string", "x-kubernetes-validations": [{"message": "no rule"}]}),
            "s.properties[a].x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
    ],
)
def test_what_is_refused_about_a_schema(schema: Json, fault: str) -> None:
    assert fault in faults_of(schema)


@pytest.mark.parametrize(
    ("place", "rule", "part"),
    [
        ({"type": "integer"}, "self.x", "compilation failed: ERROR"),
        ({"type": "integer"}, "self + 1", "cel expression must evaluate to a bool"),
        (obj(a={"type": "integer"}), "self.b > 1", "undefined field 'b'"),
        (
            {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
            "self.all(x, self.all(y, x.all(z, z in y)))",
            "estimated rule cost exceeds budget by factor of more than 100x",
        ),
    ],
)
def test_rules_are_checked_when_they_are_written(place: Json, rule: str, part: str) -> None:
    found = faults_of(obj(p={**place, "x-kubernetes-validations": [{"rule": rule}]}))
    assert any(part in f for f in found), found


def test_oldself_needs_a_place_that_can_be_found_again() -> None:
    items = {"type": "string", "maxLength": 5, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}
    found = faults_of(obj(a={"type": "array", "maxItems": 3, "items": items}))
    assert found == [
        's.properties[a].items.x-kubernetes-validations[0].rule: Invalid value: "self == oldSelf": oldSelf cannot be '
        "used on the uncorrelatable portion of the schema within s.properties[a]"
    ]


def test_a_sound_schema_has_no_faults() -> None:
    schema = obj(
        spec={
            **obj(
                port={"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                any={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                labels={"type": "object", "additionalProperties": {"type": "string"}},
                when={"type": "string", "format": "date-time"},
                nested={
                    "type": "object",
                    "x-kubernetes-embedded-resource": True,
                    "x-kubernetes-preserve-unknown-fields": True,
                },
            ),
            "x-kubernetes-validations": [{"rule": "!has(self.when) || self.when > timestamp('2020-01-01T00:00:00Z')"}],
        }
    )
    assert faults_of(schema) == []


def judged(schema: Json, new: Json, old: Json | None = None) -> list[str]:
    compiled = compile_schema(schema)
    causes = instances.validate(compiled, new, old) or rules.validate(compiled, new, old)
    return [str(c) for c in causes]


def ruled(place: Json, **rule: Any) -> Json:
    return obj(a={**place, "x-kubernetes-validations": [rule]})


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        (
            obj(a={"type": "string", "minLength": 2}),
            "x",
            'a: Invalid value: "x": a in body should be at least 2 chars long',
        ),
        (obj(a={"type": "string", "maxLength": 2}), "xyz", "a: Too long: may not be more than 2 bytes"),
        (
            obj(a={"type": "string", "format": "date-time"}),
            "no",
            'a: Invalid value: "no": a in body must be of type date-time: "no"',
        ),
        (
            obj(a={"type": "number", "multipleOf": 0.5}),
            0.7,
            "a: Invalid value: 0.7: a in body should be a multiple of 0.5",
        ),
        (
            obj(a={"type": "integer", "minimum": 1, "exclusiveMinimum": True}),
            1,
            "a: Invalid value: 1: a in body should be greater than 1",
        ),
        (obj(a={"type": "boolean"}), "yes", 'a: Invalid value: "string": a in body must be of type boolean: "string"'),
        (obj(a={"type": "string"}), None, 'a: Invalid value: "null": a in body must be of type string: "null"'),
        (
            obj(a={"type": "array", "minItems": 1, "items": {"type": "string"}}),
            [],
            "a: Invalid value: 0: a in body should have at least 1 items",
        ),
        (ruled({"type": "integer"}, rule="self % 2 == 0"), 3, "a: Invalid value: 3: failed rule: self % 2 == 0"),
        (
            ruled({"type": "integer"}, rule="self > 5", message="too small", reason="FieldValueForbidden"),
            3,
            "a: Forbidden: too small",
        ),
        (
            ruled(obj(x={"type": "integer"}), rule="self.x > 1"),
            {},
            "a: Invalid value: no such key: x evaluating rule: self.x > 1",
        ),
    ],
)
def test_what_a_schema_refuses(schema: Json, value: Any, fault: str) -> None:
    assert judged(schema, {"a": value}) == [fault]


def test_oneof_names_what_was_meant() -> None:
    schema = {**obj(a={"type": "string"}, b={"type": "string"}), "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert judged(schema, {"a": "x"}) == []
    assert judged(schema, {})[0].endswith("must validate one and only one schema (oneOf). Found none valid")
    assert judged(schema, {"a": "x", "b": "y"})[0].endswith("(oneOf). Found 2 valid alternatives")


def test_transition_rules_see_what_was() -> None:
    schema = ruled({"type": "string"}, rule="self == oldSelf", message="immutable")
    assert judged(schema, {"a": "x"}) == []
    assert judged(schema, {"a": "x"}, {}) == []
    assert judged(schema, {"a": "y"}, {"a": "x"}) == ['a: Invalid value: "y": immutable']
    optional = ruled({"type": "string"}, rule="oldSelf.hasValue() || self == 'first'", optionalOldSelf=True)
    assert judged(optional, {"a": "first"}) == []
    assert len(judged(optional, {"a": "second"})) == 1
    assert judged(optional, {"a": "second"}, {"a": "first"}) == []


def test_items_of_list_maps_are_followed_by_key() -> None:
    item = {**obj(k={"type": "string"}, v={"type": "integer"}), "required": ["k"]}
    item["x-kubernetes-validations"] = [{"rule": "self.v >= oldSelf.v", "message": "only up"}]
    schema = obj(
        a={"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": item}
    )
    old = {"a": [{"k": "x", "v": 5}, {"k": "y", "v": 1}]}
    assert judged(schema, {"a": [{"k": "y", "v": 2}, {"k": "x", "v": 5}]}, old) == []
    assert judged(schema, {"a": [{"k": "y", "v": 2}, {"k": "x", "v": 4}]}, old) == ["a[1]: Invalid value: only up"]


def test_a_list_map_in_another_order_did_not_change() -> None:
    item = {**obj(k={"type": "string"}), "required": ["k"]}
    keyed = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": item}
    schema = obj(a={**keyed, "maxItems": 1})
    assert judged(schema, {"a": [{"k": "y"}, {"k": "x"}]}, {"a": [{"k": "x"}, {"k": "y"}]}) == []
    assert len(judged(schema, {"a": [{"k": "y"}, {"k": "z"}]}, {"a": [{"k": "x"}, {"k": "y"}]})) == 1


def test_what_did_not_change_is_forgiven() -> None:
    schema = obj(a={"type": "string", "maxLength": 1}, b={"type": "integer"})
    assert judged(schema, {"a": "long", "b": 2}, {"a": "long", "b": 1}) == []
    assert len(judged(schema, {"a": "longer", "b": 2}, {"a": "long", "b": 1})) == 1
    rule = ruled({"type": "integer"}, rule="self > 5")
    assert judged(rule, {"a": 1, "b": 2}, {"a": 1}) == []


def test_names_that_are_no_identifiers_are_escaped() -> None:
    assert [escape(n) for n in ("a-b", "a.b/c", "namespace", "x__y", "a b")] == [
        "a__dash__b",
        "a__dot__b__slash__c",
        "__namespace__",
        "x__underscores__y",
        "",
    ]
    assert judged(ruled(obj(**{"a-b": {"type": "integer"}}), rule="self.a__dash__b == 1"), {"a": {"a-b": 2}})


def test_pruning_and_defaulting_reach_everywhere() -> None:
    deep = obj(x={"type": "integer", "default": 1}, n={"type": "string", "nullable": True, "default": "d"})
    schema = compile_schema(
        obj(
            spec={**obj(items={"type": "array", "items": deep}), "default": {}},
            map={"type": "object", "additionalProperties": deep},
            raw={
                "type": "object",
                "x-kubernetes-embedded-resource": True,
                "x-kubernetes-preserve-unknown-fields": True,
            },
        )
    )
    body = {
        "metadata": {"name": "a", "odd": 1},
        "junk": 1,
        "spec": {"items": [{"y": 1}, {"n": None}]},
        "map": {"k": {"z": 1}},
        "raw": {"apiVersion": "v1", "kind": "X", "metadata": {"name": "b", "odd": 2}, "data": {"kept": 1}},
    }
    clean = copy.deepcopy(body)
    unknown = pruning.prune(schema, clean)
    assert sorted(unknown) == ["junk", "map.k.z", "metadata.odd", "raw.metadata.odd", "spec.items[0].y"]
    assert pruning.apply_defaults(schema, clean)
    assert clean["spec"]["items"] == [{"x": 1, "n": "d"}, {"n": None, "x": 1}]
    assert clean["map"] == {"k": {"x": 1, "n": "d"}}
    assert clean["raw"]["data"] == {"kept": 1}
    assert not pruning.apply_defaults(schema, clean)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.n", [3]),
        (".list[1].k", ["b"]),
        (".list[*].k", ["a", "b"]),
        ('.list[?(@.k=="b")].v', [2]),
        (".list[?(@.v>1)].k", ["b"]),
        (".labels.app\\.io/name", ["x"]),
        (".nope.deeper", []),
        ("{.spec.n}", [3]),
    ],
)
def test_a_column_is_what_its_json_path_finds(path: str, found: list[Any]) -> None:
    body = {"spec": {"n": 3}, "list": [{"k": "a", "v": 1}, {"k": "b", "v": 2}], "labels": {"app.io/name": "x"}}
    assert jsonpath.find(jsonpath.parse(path), body) == found


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2026-02-28", "2026-02-30"),
        ("duration", "1h30m", "soon"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("cidr", "10.0.0.0/8", "10.0.0.0"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
        ("byte", "aGk=", "a"),
        ("uri", "https://a.example/x", "no uri"),
        ("email", "a@b.example", "nobody"),
        ("unheard-of", "anything", ""),
    ],
)
def test_formats(name: str, good: str, bad: str) -> None:
    assert formats.matches(name, good)
    assert formats.matches(name, bad) is not formats.known(name)


def test_versions_are_preferred_as_kubernetes_does() -> None:
    names = ["v1beta1", "foo", "v2", "v1", "v11alpha2", "v10", "v1beta2"]
    assert sorted(names, key=priority) == ["v10", "v2", "v1", "v1beta2", "v1beta1", "v11alpha2", "foo"]
