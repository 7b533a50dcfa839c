"""Decoding like Kubernetes' servers: types, unknown fields, canonical leaves."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api import schema, typecheck
from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME


def _decode(kind: str, obj: Any, validation: str = "Strict") -> dict[str, Any]:
    info = next(i for i in SCHEME.all() if i.kind == kind)
    node = schema.node_for(info.group, info.version, kind)
    return typecheck.decode(node, obj, info.version, kind, validation)[0]


def test_prunes_and_canonicalises() -> None:
    pod = {
        "metadata": {"name": "x", "creationTimestamp": None, "labels": {}},
        "spec": {
            "containers": [{"name": "c", "args": [], "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "securityContext": {},
        },
        "status": {"startTime": "2024-01-01T01:00:00+01:00"},
    }
    assert _decode("Pod", pod) == {
        "metadata": {"name": "x"},
        "spec": {
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "securityContext": {},
        },
        "status": {"startTime": "2024-01-01T00:00:00Z"},
    }


def test_input_is_neither_changed_nor_shared() -> None:
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}], "nodeSelector": None}}
    out = _decode("Pod", pod)
    out["metadata"]["labels"]["a"] = "z"
    out["spec"]["containers"][0]["name"] = "z"
    assert pod == {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}], "nodeSelector": None}}


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (
            {"spec": {"replicas": "3"}},
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"spec": {"template": {"spec": {"containers": [{"image": 3}]}}}},
            "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.image of type "
            "string",
        ),
        ({"spec": {"replicas": 2**40}}, "json: cannot unmarshal number 1099511627776 into"),
        ({"spec": {"paused": 1}}, "of type bool"),
        (
            {"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}}},
            "quantities must",
        ),
        ({"spec": {"tamplate": 1}}, 'strict decoding error: unknown field "spec.tamplate"'),
        ({"metadata": {"creationTimestamp": "now"}}, 'parsing time "now"'),
    ],
)
def test_refuses_with_go_words(obj: Any, message: str) -> None:
    with pytest.raises(ApiError) as e:
        _decode("Deployment", obj)
    assert e.value.code == 400
    assert e.value.message.startswith('Deployment in version "v1" cannot be handled as a Deployment: ')
    assert message in e.value.message


def test_unknown_fields_warn_or_pass() -> None:
    node = schema.node_for("", "v1", "Pod")
    obj = {"spec": {"containers": [{"name": "c", "imag": "x"}]}}
    clean, warnings = typecheck.decode(node, obj, "v1", "Pod", "Warn")
    assert warnings == ['unknown field "spec.containers[0].imag"']
    assert clean == {"spec": {"containers": [{"name": "c"}]}}
    assert typecheck.decode(node, obj, "v1", "Pod", "Ignore")[1] == []


def test_secret_bytes() -> None:
    assert _decode("Secret", {"data": {"a": "Yg=="}}) == {"data": {"a": "Yg=="}}
    with pytest.raises(ApiError, match="illegal base64 data at input byte 3"):
        _decode("Secret", {"data": {"a": "abc!"}})


def test_every_served_kind_has_a_shape() -> None:
    for info in SCHEME.all():
        assert "metadata" in schema.node_for(info.group, info.version, info.kind).fields


def test_of_what_is_unknown_a_hundred_are_named_each_once() -> None:
    unknown = [f"f{i % 150}" for i in range(100_000)]
    named = typecheck.judged("", unknown, [], "Warn")
    assert named == [f'unknown field "f{i}"' for i in range(100)]
