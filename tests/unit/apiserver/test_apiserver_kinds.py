"""Every kind that is served goes through the same life over HTTPS; views and edge kinds show what they should."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.api.scheme import SCHEME
from tests.support.apiserver_harness import edge
from tests.support.samples import path_of, sample, signing_request

TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
MERGE = {"Content-Type": "application/merge-patch+json"}
WAIT_FOR_A_CONTROLLER = frozenset(
    {"namespaces", "persistentvolumes", "persistentvolumeclaims", "pods", "jobs.batch", "replicationcontrollers"}
)
"""Which are deleted only once a finalizer, a kubelet or the garbage collector has done its part."""


@pytest.fixture
async def server(pki: Any) -> Any:
    async with edge(pki) as running:
        await running.create("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
        yield running


async def test_every_kind_lives(server: Any) -> None:
    """Create, read, table, list, patch, delete; a second create is refused; defaults are stable."""
    for info in SCHEME.served():
        if info.kind in ("CustomResourceDefinition", "APIService"):
            continue  # not free in their names: test_apiserver_custom, test_apiserver_aggregation
        wanted = sample(info, f"x-{info.version}")
        name = wanted["metadata"]["name"]
        made = await server.create(path_of(info), wanted)
        assert (made["kind"], made["apiVersion"]) == (info.kind, info.api_version)
        got = await server.call("GET", path_of(info, name))
        assert got.json["metadata"]["uid"] == made["metadata"]["uid"], info
        again = await server.call("POST", path_of(info), wanted)
        assert (again.status, again.json["reason"]) == (409, "AlreadyExists"), info
        table = (await server.call("GET", path_of(info), headers=TABLE)).json
        row = next(r for r in table["rows"] if r["object"]["metadata"]["name"] == name)
        assert len(row["cells"]) == len(table["columnDefinitions"]), info
        label = {"metadata": {"labels": {"seen": "yes"}}}
        patched = await server.call("PATCH", path_of(info, name), label, headers=MERGE)
        assert patched.json["metadata"]["labels"]["seen"] == "yes", (info, patched.body)
        listed = (await server.call("GET", path_of(info) + "?labelSelector=seen%3Dyes")).json
        assert listed["kind"] == info.list_kind
        assert [o["metadata"]["name"] for o in listed["items"]] == [name], info
        put = await server.call("PUT", path_of(info, name), patched.json)
        assert put.status == 200, (info, put.body)
        assert put.json["metadata"]["resourceVersion"] == patched.json["metadata"]["resourceVersion"], info
        if info.name in WAIT_FOR_A_CONTROLLER:
            continue
        gone = await server.call("DELETE", path_of(info, name))
        assert gone.status == 200, (info, gone.body)
        assert (await server.call("GET", path_of(info, name))).status == 404, info


async def test_an_autoscaler_in_both_versions(server: Any) -> None:
    v1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
    v2 = v1.replace("/v1/", "/v2/")
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    memory = {
        "type": "Resource",
        "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
    }
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    spec = {"maxReplicas": 4, "scaleTargetRef": target, "metrics": [memory, cpu]}
    await server.create(v2, {"metadata": {"name": "h"}, "spec": spec})
    old = (await server.call("GET", v1 + "/h")).json
    assert old["apiVersion"] == "autoscaling/v1"
    assert old["spec"] == {
        "maxReplicas": 4,
        "minReplicas": 1,
        "scaleTargetRef": target,
        "targetCPUUtilizationPercentage": 70,
    }
    old["spec"]["targetCPUUtilizationPercentage"] = 60
    assert (await server.call("PUT", v1 + "/h", old)).status == 200
    patched = await server.call("PATCH", v1 + "/h", {"spec": {"maxReplicas": 9}}, headers=MERGE)
    assert patched.json["spec"]["maxReplicas"] == 9
    new = (await server.call("GET", v2 + "/h")).json
    assert new["spec"]["maxReplicas"] == 9
    assert memory in new["spec"]["metrics"]
    assert [m["resource"]["target"].get("averageUtilization") for m in new["spec"]["metrics"]] == [60, None]
    assert "annotations" not in new["metadata"]
    bad = await server.call("POST", v1, {"metadata": {"name": "b"}, "spec": {"maxReplicas": "many"}})
    assert bad.status == 400


async def test_an_event_in_both_groups(server: Any) -> None:
    new, old = "/apis/events.k8s.io/v1/namespaces/default/events", "/api/v1/namespaces/default/events"
    info = next(i for i in SCHEME.served() if i.group == "events.k8s.io")
    await server.create(new, sample(info, "e"))
    core = (await server.call("GET", old + "/e")).json
    assert (core["message"], core["involvedObject"]["name"], core["reportingComponent"]) == ("n", "p", "example.com/c")
    found = await server.call("GET", new + "?fieldSelector=regarding.name%3Dp")
    assert [o["note"] for o in found.json["items"]] == ["n"]
    assert (await server.call("GET", new + "?fieldSelector=regarding.name%3Dq")).json["items"] == []
    partial = sample(info, "f")
    del partial["reportingController"]
    refused = await server.call("POST", new, partial)
    assert (refused.status, refused.json["details"]["causes"][0]["field"]) == (422, "reportingController")


async def test_a_certificate_is_decided_on_apart(server: Any) -> None:
    """Nobody can write who asked; approval and status do not touch each other's part."""
    path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    spec = {"request": signing_request(), "signerName": "example.com/s", "usages": ["client auth"], "username": "eve"}
    made = await server.create(path, {"metadata": {"name": "c"}, "spec": spec})
    assert (made["spec"]["username"], made["status"]) == ("admin", {})
    made["status"] = {"conditions": [{"type": "Approved", "status": "True", "reason": "ok"}], "certificate": "eA=="}
    approved = await server.call("PUT", path + "/c/approval", made)
    assert [c["type"] for c in approved.json["status"]["conditions"]] == ["Approved"]
    assert "certificate" not in approved.json["status"]
    issued = approved.json
    issued["status"]["certificate"] = "eA=="
    signed = await server.call("PUT", path + "/c/status", issued)
    assert signed.json["status"]["certificate"] == "eA=="
    assert [c["type"] for c in signed.json["status"]["conditions"]] == ["Approved"]
    signed.json["status"]["conditions"].append({"type": "Denied", "status": "True"})
    both = await server.call("PUT", path + "/c/approval", signed.json)
    assert both.status == 422
    garbage = {**spec, "request": "aGVsbG8="}
    refused = await server.call("POST", path, {"metadata": {"name": "d"}, "spec": garbage})
    assert refused.json["details"]["causes"][0]["field"] == "spec.request"


async def test_what_is_deprecated_is_said_to_be_so_on_every_write(server: Any) -> None:
    """Regression: an update or patch took back what had been said before it."""
    path, said = "/api/v1/namespaces/default/endpoints", []
    said.append(await server.call("POST", path, {"metadata": {"name": "e"}}))
    said.append(await server.call("PUT", path + "/e", {"metadata": {"name": "e", "labels": {"a": "b"}}}))
    merge = {"Content-Type": "application/merge-patch+json"}
    said.append(await server.call("PATCH", path + "/e", {"metadata": {"labels": {"c": "d"}}}, headers=merge))
    assert [answer.headers.get("Warning", "") for answer in said] == [
        '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'
    ] * 3


async def test_edge_kinds(server: Any) -> None:
    found = await server.call("GET", "/api/v1/componentstatuses")
    assert [o["metadata"]["name"] for o in found.json["items"]] == ["scheduler", "controller-manager", "etcd-0"]
    assert found.headers["Warning"] == '299 - "v1 ComponentStatus is deprecated in v1.19+"'
    one = await server.call("GET", "/api/v1/componentstatuses/etcd-0", headers=TABLE)
    assert one.json["rows"][0]["cells"] == ["etcd-0", "Healthy", "ok", ""]
    pod = SCHEME.named("pods")
    await server.create(path_of(pod), sample(pod, "p"))
    await server.create("/api/v1/nodes", {"metadata": {"name": "n1"}})
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    done = await server.call("POST", "/api/v1/namespaces/default/bindings", binding)
    assert done.status == 201, done.body
    assert (await server.call("GET", path_of(pod, "p"))).json["spec"]["nodeName"] == "n1"
    assert (await server.call("GET", "/api/v1/namespaces/default/bindings")).status == 405


async def test_a_replication_controller_scales(server: Any) -> None:
    info = SCHEME.named("replicationcontrollers")
    made = await server.create(path_of(info), sample(info, "rc"))
    assert made["spec"]["selector"] == {"app": "a"}
    scale = await server.call("GET", path_of(info, "rc") + "/scale")
    assert scale.json["status"]["selector"] == "app=a"
    scale.json["spec"]["replicas"] = 4
    assert (await server.call("PUT", path_of(info, "rc") + "/scale", scale.json)).json["spec"]["replicas"] == 4


async def test_openapi_v2_in_both_forms(server: Any) -> None:
    """kubectl asks for protobuf alone; every definition that is referred to is there."""
    got = await server.call("GET", "/openapi/v2")
    doc = got.json
    assert doc["swagger"] == "2.0"
    text = got.body.decode()
    refs = {part.split('"', 1)[0] for part in text.split('"$ref":"#/definitions/')[1:]}
    assert refs <= set(doc["definitions"])
    operations = [op for item in doc["paths"].values() for method, op in item.items() if method != "parameters"]
    assert len({op["operationId"] for op in operations}) == len(operations)
    binary = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    proto = await server.call("GET", "/openapi/v2", headers={"Accept": binary})
    assert proto.headers["Content-Type"] == binary.replace("@", ".")
    assert proto.body.startswith(b"\n\x032.0")
    assert b"io.k8s.api.core.v1.Pod" in proto.body
    again = await server.call("GET", "/openapi/v2", headers={"Accept": binary, "If-None-Match": proto.headers["ETag"]})
    assert again.status == 304
    assert (await server.call("GET", "/openapi/v2", headers={"Accept": "text/html"})).status == 406


async def test_a_dry_run_makes_no_revision(server: Any) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    dry = await server.call("POST", path + "?dryRun=All", {"metadata": {"name": "x"}})
    assert dry.status == 201
    assert "resourceVersion" not in dry.json["metadata"]
    assert dry.json["metadata"]["uid"]
    made = await server.create(path, {"metadata": {"name": "x"}})
    changed = await server.call("PATCH", path + "/x?dryRun=All", {"data": {"a": "b"}}, headers=MERGE)
    assert changed.json["data"] == {"a": "b"}
    assert changed.json["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert "data" not in (await server.call("GET", path + "/x")).json


async def test_a_field_said_twice(server: Any) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    raw, headers = b'{"metadata":{"name":"t"},"data":{"a":"1","a":"2"}}', {"Content-Type": "application/json"}
    strict = await server.call("POST", path + "?fieldValidation=Strict", data=raw, headers=headers)
    assert (strict.status, 'strict decoding error: duplicate field "data.a"' in strict.json["message"]) == (400, True)
    warned = await server.call("POST", path, data=raw, headers=headers)
    assert (warned.status, warned.headers["Warning"]) == (201, '299 - "duplicate field \\"data.a\\""')
