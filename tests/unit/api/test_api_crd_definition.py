"""What is refused about a CustomResourceDefinition and its schema, in Kubernetes' words and at Kubernetes' fields."""

from __future__ import annotations

import copy
from typing import Any

import pytest

pytest.importorskip("cel_expr_python", reason="`make bootstrap` installs it")

from cluster.api.crd import definition, definition_rules, schemas
from cluster.api.scheme import SCHEME
from cluster.api.validation import update
from cluster.api.validation.fields import Faults

Json = dict[str, Any]
DEFINITIONS = SCHEME.named("customresourcedefinitions.apiextensions.k8s.io")


def version(name: str = "v1", schema: Json | None = None, **more: Any) -> Json:
    made = {"name": name, "served": True, "storage": name == "v1"}
    return {**made, "schema": {"openAPIV3Schema": schema or {"type": "object"}}, **more}


def crd(*versions: Json, **spec: Any) -> Json:
    base: Json = {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": list(versions) or [version()],
    }
    made = {"metadata": {"name": "things.example.com"}, "spec": {**base, **spec}}
    definition.default(made)
    definition.on_create(made, 0.0)
    return made


def refused(made: Json) -> list[str]:
    faults = Faults()
    definition_rules.validate(faults, made)
    return [str(c) for c in faults.causes]


def changed(new: Json, old: Json) -> list[str]:
    faults = Faults()
    definition_rules.validate_update(faults, new, old)
    return [str(c) for c in faults.causes]


def column(**fields: str) -> Json:
    return version(additionalPrinterColumns=[{"name": "A", "type": "string", "jsonPath": ".a", **fields}])


def scaled(**paths: str) -> Json:
    given = {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n", **paths}
    return version(subresources={"scale": given})


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (crd(group="nodots"), 'spec.group: Invalid value: "nodots": should be a domain with at least one dot'),
        (crd(scope="Both"), 'spec.scope: Unsupported value: "Both": supported values: "Cluster", "Namespaced"'),
        (crd(names={"plural": "others", "kind": "Thing"}), 'must be spec.names.plural+"."+spec.group'),
        (crd(names={"plural": "things", "kind": "A_b"}), "may have mixed case, but should otherwise match: a DNS-1035"),
        (crd(names={"plural": "things"}), "spec.names.listKind: Required value"),
        (crd(versions=[]), "spec.versions: Invalid value: null: must have exactly one version marked as storage"),
        (crd(versions=[]), "status.storedVersions: Invalid value: null: must have at least one stored version"),
        (crd({"name": "v1", "storage": True}), "spec.versions[0].schema.openAPIV3Schema: Required value"),
        (crd(conversion={"strategy": "Webhook"}), "spec.conversion.webhookClientConfig: Required value: required when"),
        (
            crd(conversion={"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v2"]}}),
            'spec.conversion.conversionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1',
        ),
        (crd(preserveUnknownFields=True), "spec.preserveUnknownFields: Invalid value: true: cannot set to true"),
        (crd(group="x.k8s.io"), 'protected groups must have approval annotation "api-approved.kubernetes.io", see'),
        (crd(version(deprecationWarning="x")), "can only be set for deprecated versions"),
        (crd(version(deprecated=True, deprecationWarning="a\nb")), "non-printable character found at index 1"),
        (
            crd(column(type="text")),
            'spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,'
            "string",
        ),
        (
            crd(column(jsonPath="a")),
            'spec.additionalPrinterColumns[0].JSONPath: Invalid value: "a": must be a simple json path starting with .',
        ),
        (
            crd(column(), version("v2")),
            "",
        ),
        (
            crd(column(type="text"), version("v2")),
            "spec.versions[0].additionalPrinterColumns[0].type: Invalid value",
        ),
        (
            crd(scaled(specReplicasPath=".status.n")),
            'spec.subresources.scale.specReplicasPath: Invalid value: ".status.n": should be a json path under .spec',
        ),
        (
            crd(version(selectableFields=[{"jsonPath": ".spec.x"}])),
            'jsonPath: Invalid value: ".spec.x": is an invalid path: does not refer to a valid field',
        ),
    ],
)
def test_what_is_refused_about_a_definition(made: Json, fault: str) -> None:
    found = refused(made)
    assert any(fault in f for f in found) if fault else not found, found


def schema_faults(raw: Json, *, status: bool = False) -> list[str]:
    faults = Faults()
    schemas.validate(faults, "s", raw, status=status)
    return [str(c) for c in faults.causes]


def obj(**properties: Json) -> Json:
    return {"type": "object", "properties": properties}


STRING: Json = {"type": "string"}
KEYED: Json = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        ({**obj(), "additionalProperties": STRING}, "s.additionalProperties: Forbidden: must not be used at the root"),
        ({**obj(), "nullable": True}, "s.nullable: Forbidden: nullable cannot be true at the root"),
        (obj(kind={"type": "integer"}), 's.properties[kind].type: Invalid value: "integer": must be string'),
        (
            {**obj(), "anyOf": [{"properties": {"b": {"minimum": 1}}}]},
            "s.properties[b]: Required value: because it is defined in s.anyOf[0].properties[b]",
        ),
        (obj(a={**STRING, "not": {"default": 1}}), "s.properties[a].not.default: Forbidden: must be undefined to be"),
        (
            obj(a={"x-kubernetes-int-or-string": True, "x-kubernetes-preserve-unknown-fields": True}),
            "must be false if x-kubernetes-int-or-string is true",
        ),
        (obj(a={"type": "null"}), "type cannot be set to null, use nullable as an alternative"),
        (obj(a={"type": "text"}), 's.properties[a].type: Unsupported value: "text": supported values: "array", "bool'),
        (
            obj(a={"type": "array", "x-kubernetes-list-type": "set", "items": obj()}),
            "must be atomic as item of a list with x-kubernetes-list-type=set",
        ),
        (
            obj(a={**KEYED, "items": obj(k={**STRING, "nullable": True, "default": "x"})}),
            "s.properties[a].items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, "
            "so it cannot be nullable",
        ),
        (
            obj(a={**KEYED, "items": obj(k=STRING)}),
            "s.properties[a].items.properties[k].default: Required value: this property is in",
        ),
        (
            obj(metadata=obj(name={**STRING, "default": "x"})),
            "s.properties[metadata].properties[name].default: Forbidden: must not be set in top-level metadata",
        ),
        (
            obj(a={**STRING, "default": "x", "x-kubernetes-validations": [{"rule": "self != 'x'"}]}),
            "s.properties[a].default: Invalid value",
        ),
        (
            obj(a={**STRING, "x-kubernetes-validations": [{"rule": "true", "optionalOldSelf": True}]}),
            "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
        (
            obj(a={**obj(b=STRING), "x-kubernetes-validations": [{"rule": "true", "fieldPath": ".c"}]}),
            'fieldPath: Invalid value: ".c": must be a valid path',
        ),
    ],
)
def test_what_is_refused_about_a_schema(raw: Json, fault: str) -> None:
    found = schema_faults(raw)
    assert any(fault in f for f in found), found


@pytest.mark.parametrize(
    "raw",
    [
        obj(a={**STRING, "anyOf": [{"pattern": "^a"}, {"pattern": "^b"}]}),
        obj(a={"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, STRING]}),
        obj(a={"x-kubernetes-int-or-string": True, "allOf": [{"anyOf": [{"type": "integer"}, STRING]}]}),
        obj(a={**obj(**{"b.c": STRING}), "x-kubernetes-validations": [{"rule": "true", "fieldPath": "['b.c']"}]}),
        obj(a={**obj(x=STRING), "oneOf": [{"required": ["x"]}, {"properties": {"y": {"not": {}}}}]}),
    ],
)
def test_what_may_be_said(raw: Json) -> None:
    assert schema_faults(raw) == []


def test_with_a_status_of_its_own_the_root_says_little() -> None:
    raw = {**obj(status=obj()), "maxProperties": 3}
    assert schema_faults(raw) == []
    found = schema_faults(raw, status=True)
    assert len(found) == 1 and "fields are allowed at the root of the schema if the status subresource" in found[0]


def test_a_schema_that_did_not_change_is_not_judged_again() -> None:
    """It was accepted once, by an older release perhaps, and its definition must be possible to change elsewhere."""
    old = crd(version(schema=obj(a={"type": "array"})))
    new = copy.deepcopy(old)
    new["spec"]["names"]["shortNames"] = ["th"]
    assert refused(old) and changed(new, old) == []


def test_approval_is_judged_when_it_changes() -> None:
    old = crd(group="x.k8s.io", names={"plural": "things", "kind": "Thing"})
    old["metadata"] = {"name": "things.x.k8s.io", "annotations": {definition_rules.APPROVED: "https://example.com/1"}}
    assert refused(old) == []
    new = copy.deepcopy(old)
    new["metadata"]["annotations"][definition_rules.APPROVED] = "well"
    assert [f.partition(":")[0] for f in changed(new, old)] == ["metadata.annotations[api-approved.kubernetes.io]"]
    assert changed(copy.deepcopy(new), new) == []
    causes = update(DEFINITIONS, {**new, "metadata": {**new["metadata"], "resourceVersion": "1"}}, old)
    assert any(c.field == "metadata.annotations[api-approved.kubernetes.io]" for c in causes)


def test_a_bundle_that_cannot_be_read_holds_a_definition_back() -> None:
    client = {"caBundle": "Cg==", "service": {"namespace": "default", "name": "converter"}}
    webhook = {"conversionReviewVersions": ["v1beta1"], "clientConfig": client}
    made = crd(conversion={"strategy": "Webhook", "webhook": webhook})
    assert refused(made) == []
    assert definition.accept_names(made, [], 0.0)
    assert not definition.is_established(made)
    reasons = {c["type"]: c["reason"] for c in made["status"]["conditions"]}
    assert reasons == {"NamesAccepted": "NoConflicts", "Established": "InvalidCABundle"}


def test_storage_versions_are_remembered_and_must_exist() -> None:
    made = crd()
    assert made["status"]["storedVersions"] == ["v1"]
    later = copy.deepcopy(made)
    later["spec"]["versions"] = [version("v2", storage=True)]
    definition.on_update(later, made)
    assert later["status"]["storedVersions"] == ["v1", "v2"]
    found = changed(later, made)
    assert len(found) == 1
    assert found[0].startswith('status.storedVersions[0]: Invalid value: "v1": missing from spec.versions; v1 was')
