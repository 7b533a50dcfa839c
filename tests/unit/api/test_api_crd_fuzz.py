"""Whatever a definition says, it is accepted or refused with a cause; and what is accepted can be used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("cel_expr_python", reason="`make bootstrap` installs it")

from cluster.api import schema, typecheck
from cluster.api.crd import definition, definition_rules, versions
from cluster.api.errors import ApiError
from cluster.api.validation.fields import Faults

_ODD = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "x", "object", "("])
    | st.just([1])
    | st.just({})
)
_KEYS = st.sampled_from(
    ["type", "properties", "items", "additionalProperties", "required", "default", "enum", "pattern", "minimum",
     "maxLength", "nullable", "format", "allOf", "anyOf", "oneOf", "not", "x-kubernetes-int-or-string",
     "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "x-kubernetes-list-type",
     "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations"]
)  # fmt: skip
_RULES = st.lists(
    st.fixed_dictionaries({"rule": st.sampled_from(["self == oldSelf", "true", "self.a > 1", "(", "size(self) < 3"])}),
    max_size=2,
)


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    sound = st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "integer", "boolean"]),
            "properties": st.dictionaries(st.sampled_from(["a", "b-c", "metadata", "namespace"]), inner, max_size=3),
            "items": inner,
            "additionalProperties": inner,
            "required": st.lists(st.sampled_from(["a", "z"]), max_size=2),
            "default": _ODD,
            "anyOf": st.lists(inner, max_size=2),
            "x-kubernetes-validations": _RULES,
            "x-kubernetes-list-type": st.sampled_from(["map", "set", "atomic"]),
            "x-kubernetes-list-map-keys": st.just(["a"]),
        },
    )
    return sound | st.dictionaries(_KEYS, _ODD, max_size=3)


SCHEMAS = st.recursive(st.just({"type": "string"}) | _ODD, _schemas, max_leaves=12)
OBJECTS = st.recursive(_ODD, lambda i: st.lists(i, max_size=3) | st.dictionaries(st.sampled_from("ab"), i, max_size=3))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=SCHEMAS, bodies=st.lists(OBJECTS, max_size=3))
def test_no_definition_is_an_internal_error(raw: Any, bodies: list[Any]) -> None:
    root = {"type": "object", "properties": {"spec": raw}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": root}}
    crd: Any = {
        "kind": "CustomResourceDefinition",
        "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Cluster",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [version],
        },
    }
    node = schema.node_for("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
    try:
        clean, _ = typecheck.decode(node, crd, "v1", "CustomResourceDefinition")
    except ApiError as e:
        assert e.code == 400
        return
    definition.default(clean)
    definition.on_create(clean, 0.0)
    faults = Faults()
    definition_rules.validate(faults, clean)
    if faults.causes:
        return
    definition.accept_names(clean, [], 0.0)
    (served,) = versions.served(clean)
    for body in bodies:
        try:
            obj, _ = served.decode({"metadata": {"name": "x"}, "spec": body}, "")
        except ApiError as e:
            assert e.code == 422  # metadata of an embedded resource that is none
            continue
        served.default(obj)
        assert all(c.message for c in served.validate(obj))
        assert not served.validate(obj, obj) or served.validate(obj)
        assert served.node is not None
