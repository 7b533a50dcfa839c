"""Bodies of the requests that take another way than stored objects: any value at any place is a Status, never a fault
of the server. tests/unit/registry/test_registry_fuzz.py does the same to what is stored.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.support.apiserver_harness import Edge, edge

NAMESPACE = "/api/v1/namespaces/default"
REVIEWS = "/apis/authorization.k8s.io/v1"
JUNK = (None, True, 1.5, "a", [[]], {"a": 1})

META = {"name": "p", "labels": {"a": "b"}}
DELETE = {"gracePeriodSeconds": 1, "orphanDependents": True, "preconditions": {"uid": "1"}, "dryRun": ["All"]}
ATTRIBUTES = {
    "verb": "get",
    "resource": "pods",
    "labelSelector": {"requirements": [{"key": "a", "operator": "Exists"}]},
}
BOUND = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "1"}

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("PUT", f"{NAMESPACE}/pods/p", {"metadata": META, "spec": {"containers": [{"name": "c", "image": "x"}]}}),
    ("PUT", f"{NAMESPACE}/pods/p/status", {"metadata": META, "status": {"conditions": [{"type": "Ready"}]}}),
    ("PUT", f"{NAMESPACE}/pods/p/ephemeralcontainers", {"metadata": META, "spec": {"ephemeralContainers": []}}),
    ("POST", f"{NAMESPACE}/pods/p/binding", {"metadata": META, "target": {"name": "n"}}),
    ("POST", f"{NAMESPACE}/bindings", {"metadata": META, "target": {"name": "n"}}),
    ("POST", f"{NAMESPACE}/pods/p/eviction", {"metadata": META, "deleteOptions": DELETE}),
    ("DELETE", f"{NAMESPACE}/pods/p", DELETE),
    ("DELETE", f"{NAMESPACE}/configmaps", DELETE),
    ("POST", f"{NAMESPACE}/serviceaccounts/a/token", {"spec": {"audiences": ["a"], "boundObjectRef": BOUND}}),
    (
        "POST",
        f"{REVIEWS}/subjectaccessreviews",
        {"spec": {"user": "u", "groups": ["g"], "extra": {"a": ["b"]}, "resourceAttributes": ATTRIBUTES}},
    ),
    ("POST", f"{REVIEWS}/subjectaccessreviews", {"spec": {"user": "u", "nonResourceAttributes": {"path": "/"}}}),
    ("POST", f"{REVIEWS}/selfsubjectrulesreviews", {"spec": {"namespace": "default"}}),
    ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "t", "audiences": ["a"]}}),
    ("PUT", "/api/v1/namespaces/default/finalize", {"metadata": {"name": "default"}, "spec": {"finalizers": ["a"]}}),
]


@pytest.fixture
async def server(pki: Any) -> Any:
    async with edge(pki) as running:
        await running.create(f"{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
        pod = {"metadata": {"name": "p", "finalizers": ["a/b"]}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
        await running.create(f"{NAMESPACE}/pods", pod)
        yield running


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path inside an object, itself first."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(place for key, value in pairs for place in places(value, (*at, key)))]


def put(obj: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    out = copy.deepcopy(obj)
    holder = out
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = value
    return out


async def test_any_value_at_any_place_has_a_status(server: Edge) -> None:
    for method, path, body in CASES:
        for at in places(body):
            for junk in JUNK:
                if at or junk is not None:
                    got = await server.call(method, path, put(body, at, junk))
                    assert got.status < 500, (method, path, at, junk, got.body)
                    assert got.status < 400 or got.json["kind"] == "Status"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (
            f"{NAMESPACE}/serviceaccounts/default/token",
            {"spec": {"audiences": "a"}},
            'TokenRequest in version "v1" cannot be handled as a TokenRequest: json: cannot unmarshal string into Go '
            "struct field TokenRequestSpec.spec.audiences of type []string",
        ),
        (
            f"{NAMESPACE}/pods/p/eviction",
            {"metadata": META, "deleteOptions": {"gracePeriodSeconds": "1"}},
            'Eviction in version "v1" cannot be handled as a Eviction: json: cannot unmarshal string into Go struct '
            "field DeleteOptions.deleteOptions.gracePeriodSeconds of type int64",
        ),
    ],
)
async def test_wrong_types_are_told_in_the_words_of_gos_decoder(
    server: Edge, path: str, body: dict[str, Any], message: str
) -> None:
    got = await server.call("POST", path, body)
    assert (got.status, got.json["reason"], got.json["message"]) == (400, "BadRequest", message)
