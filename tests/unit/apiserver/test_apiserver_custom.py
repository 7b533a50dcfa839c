"""Custom resources through HTTP: from a definition to objects that behave as Kubernetes' do."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

pytest.importorskip("cel_expr_python", reason="`make bootstrap` installs it")

from tests.support.apiserver_harness import Edge, Pki, edge
from tests.support.custom_world import (
    CRDS,
    CRONTABS,
    condition,
    crontab,
    crontab_definition,
    custom_edge,
    established,
    pod_template_schema,
    until,
    watched,
)
from tests.support.memory_store import MemoryStore

TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
CRD = f"{CRDS}/crontabs.stable.example.com"


@pytest.fixture
async def world(pki: Pki) -> AsyncIterator[Edge]:
    async with custom_edge(pki) as running:
        yield running


@pytest.fixture
async def crontabs(world: Edge) -> Edge:
    await established(world, crontab_definition())
    return world


async def test_a_definition_is_established_and_served(world: Edge) -> None:
    assert (await world.call("GET", CRONTABS)).status == 404
    crd = await established(world, crontab_definition())
    assert crd["status"]["acceptedNames"] == {
        "plural": "crontabs",
        "singular": "crontab",
        "kind": "CronTab",
        "listKind": "CronTabList",
        "shortNames": ["ct"],
        "categories": ["all"],
    }
    assert crd["status"]["storedVersions"] == ["v1"]
    assert condition(crd, "NamesAccepted") == "True"
    listed = await world.call("GET", CRONTABS)
    assert listed.status == 200
    assert (listed.json["kind"], listed.json["apiVersion"]) == ("CronTabList", "stable.example.com/v1")


async def test_discovery_shows_it_in_both_forms(crontabs: Edge) -> None:
    resources = (await crontabs.call("GET", "/apis/stable.example.com/v1")).json["resources"]
    by_name = {r["name"]: r for r in resources}
    assert by_name["crontabs"]["shortNames"] == ["ct"] and by_name["crontabs"]["categories"] == ["all"]
    assert by_name["crontabs/scale"]["kind"] == "Scale" and "crontabs/status" in by_name
    aggregated = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}
    groups = (await crontabs.call("GET", "/apis", headers=aggregated)).json["items"]
    mine = next(g for g in groups if g["metadata"]["name"] == "stable.example.com")
    assert mine["versions"][0]["resources"][0]["singularResource"] == "crontab"


async def test_openapi_describes_the_kind(crontabs: Edge) -> None:
    index = (await crontabs.call("GET", "/openapi/v3")).json["paths"]
    url = index["apis/stable.example.com/v1"]["serverRelativeURL"]
    doc = (await crontabs.call("GET", url)).json
    model = doc["components"]["schemas"]["com.example.stable.v1.CronTab"]
    gvk = {"group": "stable.example.com", "version": "v1", "kind": "CronTab"}
    assert model["x-kubernetes-group-version-kind"] == [gvk]
    assert model["properties"]["spec"]["properties"]["replicas"]["maximum"] == 10
    post = doc["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs"]["post"]
    assert post["x-kubernetes-group-version-kind"] == gvk


async def test_create_defaults_prunes_and_warns(crontabs: Edge) -> None:
    body = crontab(ports=[{"name": "http"}], nonsense=1, free={"any": {"thing": [1]}})
    got = await crontabs.call("POST", CRONTABS, body)
    assert got.status == 201
    assert got.headers.getall("Warning") == ['299 - "unknown field \\"spec.nonsense\\""']
    spec = got.json["spec"]
    assert spec["image"] == "busybox" and spec["ports"] == [{"name": "http", "protocol": "TCP"}]
    assert "nonsense" not in spec and spec["free"] == {"any": {"thing": [1]}}
    assert got.json["metadata"]["generation"] == 1 and "status" not in got.json
    strict = await crontabs.call("POST", CRONTABS + "?fieldValidation=Strict", crontab("two", nonsense=1))
    assert strict.status == 400
    assert strict.json["message"].endswith('strict decoding error: unknown field "spec.nonsense"')


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"cronSpec": ...}, "spec.cronSpec: Required value"),
        (
            {"replicas": "three"},
            'spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"',
        ),
        (
            {"replicas": 11},
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ),
        ({"color": "green"}, 'spec.color: Unsupported value: "green": supported values: "red", "blue"'),
        ({"ports": [{"name": "a"}, {"name": "a"}]}, 'spec.ports[1]: Duplicate value: {"name":"a"}'),
        ({"ports": [{"name": str(i)} for i in range(6)]}, "spec.ports: Too many: 6: must have at most 5 items"),
        ({"port": True}, 'spec.port in body must be of type integer,string: "boolean"'),
        ({"replicas": 7}, "spec.replicas: Invalid value: seven is not allowed: 7"),
    ],
)
async def test_what_the_schema_refuses(crontabs: Edge, spec: dict[str, Any], message: str) -> None:
    got = await crontabs.call("POST", CRONTABS, crontab(**spec))
    assert got.status == 422 and got.json["reason"] == "Invalid"
    assert message in got.json["message"]
    assert got.json["message"].startswith('CronTab.stable.example.com "one" is invalid: ')
    assert (await crontabs.call("GET", CRONTABS)).json["items"] == []


async def test_updates_need_a_version_and_count_generations(crontabs: Edge) -> None:
    made = await crontabs.create(CRONTABS, crontab(color="red"))
    without = await crontabs.call("PUT", CRONTABS + "/one", crontab(color="blue"))
    assert without.status == 422 and "metadata.resourceVersion" in without.json["message"]
    made["spec"]["color"] = "blue"
    changed = await crontabs.call("PUT", CRONTABS + "/one", made)
    assert changed.status == 200 and changed.json["metadata"]["generation"] == 2
    gone = await crontabs.call(
        "PATCH",
        CRONTABS + "/one",
        {"spec": {"color": None}},
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert gone.status == 422
    assert "spec: Invalid value: a color once given stays" in gone.json["message"]


async def test_patches_but_no_strategic_one(crontabs: Edge) -> None:
    await crontabs.create(CRONTABS, crontab())
    for media, body in (
        ("application/merge-patch+json", {"spec": {"replicas": 2}}),
        ("application/json-patch+json", [{"op": "replace", "path": "/spec/replicas", "value": 3}]),
    ):
        got = await crontabs.call("PATCH", CRONTABS + "/one", body, headers={"Content-Type": media})
        assert got.status == 200, got.body
    assert got.json["spec"]["replicas"] == 3
    strategic = {"Content-Type": "application/strategic-merge-patch+json"}
    refused = await crontabs.call("PATCH", CRONTABS + "/one", {"spec": {}}, headers=strategic)
    assert refused.status == 415


async def test_server_side_apply_merges_list_maps_by_key(crontabs: Edge) -> None:
    headers = {"Content-Type": "application/apply-patch+yaml"}
    for manager, port in (("a", "http"), ("b", "https")):
        body = crontab(ports=[{"name": port, "number": 1}])
        if manager == "b":
            del body["spec"]["cronSpec"]
        got = await crontabs.call("PATCH", f"{CRONTABS}/one?fieldManager={manager}", body, headers=headers)
        assert got.status in (200, 201), got.body
    assert [p["name"] for p in got.json["spec"]["ports"]] == ["http", "https"]
    body = crontab(ports=[{"name": "http", "number": 2}])
    conflict = await crontabs.call("PATCH", f"{CRONTABS}/one?fieldManager=b", body, headers=headers)
    assert conflict.status == 409 and '.spec.ports[name="http"].number' in conflict.json["message"]


async def test_status_is_its_own(crontabs: Edge) -> None:
    made = await crontabs.create(CRONTABS, {**crontab(), "status": {"phase": "Early"}})
    assert "status" not in made
    made["status"], made["spec"]["replicas"] = {"phase": "Up"}, 4
    made["metadata"]["labels"] = {"a": "b"}
    got = await crontabs.call("PUT", CRONTABS + "/one/status", made)
    assert got.status == 200, got.body
    assert got.json["status"] == {"phase": "Up"} and "replicas" not in got.json["spec"]
    assert "labels" not in got.json["metadata"] and got.json["metadata"]["generation"] == 1
    wrong = {**got.json, "status": {"phase": 1}}
    assert (await crontabs.call("PUT", CRONTABS + "/one/status", wrong)).status == 422


async def test_apply_owns_the_status_only_through_the_status(crontabs: Edge) -> None:
    headers = {"Content-Type": "application/apply-patch+yaml"}
    await crontabs.create(CRONTABS, crontab())
    status = {
        "status": {"phase": "Up"},
        "spec": {"cronSpec": "1 * * * *"},
        "metadata": {"name": "one", "labels": {"a": "b"}},
    }
    body = {"apiVersion": "stable.example.com/v1", "kind": "CronTab", **status}
    got = await crontabs.call("PATCH", CRONTABS + "/one/status?fieldManager=controller", body, headers=headers)
    assert got.status == 200, got.body
    assert got.json["status"] == {"phase": "Up"} and got.json["spec"]["cronSpec"] == "* * * * */5"
    assert "labels" not in got.json["metadata"]
    mine = next(e for e in got.json["metadata"]["managedFields"] if e["manager"] == "controller")
    assert mine["subresource"] == "status" and mine["fieldsV1"] == {"f:status": {"f:phase": {}}}
    whole = {**crontab(replicas=2), "status": {"phase": "Down"}}
    applied = await crontabs.call("PATCH", CRONTABS + "/one?fieldManager=user", whole, headers=headers)
    assert applied.status == 200, applied.body
    assert applied.json["status"] == {"phase": "Up"} and applied.json["spec"]["replicas"] == 2


async def test_scale(crontabs: Edge) -> None:
    await crontabs.create(CRONTABS, crontab(replicas=2))
    scale = (await crontabs.call("GET", CRONTABS + "/one/scale")).json
    assert scale["kind"] == "Scale" and scale["spec"] == {"replicas": 2}
    headers = {"Content-Type": "application/merge-patch+json"}
    got = await crontabs.call("PATCH", CRONTABS + "/one/scale", {"spec": {"replicas": 5}}, headers=headers)
    assert got.status == 200 and got.json["spec"] == {"replicas": 5}
    assert (await crontabs.call("GET", CRONTABS + "/one")).json["spec"]["replicas"] == 5
    refused = await crontabs.call("PATCH", CRONTABS + "/one/scale", {"spec": {"replicas": 50}}, headers=headers)
    assert refused.status == 422


async def test_columns_and_selectable_fields(crontabs: Edge) -> None:
    await crontabs.create(CRONTABS, crontab("a", color="red", replicas=3))
    await crontabs.create(CRONTABS, crontab("b", color="blue"))
    table = (await crontabs.call("GET", CRONTABS, headers=TABLE)).json
    assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "Spec", "Replicas", "Age"]
    assert [r["cells"][:3] for r in table["rows"]] == [["a", "* * * * */5", 3], ["b", "* * * * */5", None]]
    assert table["rows"][0]["cells"][3].endswith("s")
    red = (await crontabs.call("GET", CRONTABS + "?fieldSelector=spec.color%3Dred")).json["items"]
    assert [o["metadata"]["name"] for o in red] == ["a"]
    assert (await crontabs.call("GET", CRONTABS + "?fieldSelector=spec.image%3Dx")).status == 400


async def test_a_watch_sees_changes(crontabs: Edge) -> None:
    listed = (await crontabs.call("GET", CRONTABS)).json
    version = listed["metadata"]["resourceVersion"]
    path = f"{CRONTABS}?watch=1&timeoutSeconds=2&resourceVersion={version}"
    watch = asyncio.create_task(watched(crontabs, path))
    await crontabs.create(CRONTABS, crontab())
    await crontabs.call("DELETE", CRONTABS + "/one")
    assert [e["type"] for e in await watch] == ["ADDED", "DELETED"]


async def test_two_versions_with_strategy_none(world: Edge) -> None:
    crd = crontab_definition()
    v2 = {**crd["spec"]["versions"][0], "name": "v2", "storage": False}
    v2["schema"] = {
        "openAPIV3Schema": {
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "properties": {"cronSpec": {"type": "string"}, "zone": {"type": "string", "default": "UTC"}},
                }
            },
        }
    }
    v2.pop("selectableFields")
    crd["spec"]["versions"].append(v2)
    await established(world, crd)
    await world.create(CRONTABS, crontab(color="red"))
    second = CRONTABS.replace("/v1/", "/v2/")
    shown = (await world.call("GET", second + "/one")).json
    assert shown["apiVersion"] == "stable.example.com/v2"
    assert shown["spec"] == {"cronSpec": "* * * * */5"}  # defaults are of the version it is stored in
    assert (await world.call("GET", second)).json["items"][0] == shown
    made = await world.create(second, {**crontab("two"), "apiVersion": "stable.example.com/v2"})
    assert made["apiVersion"] == "stable.example.com/v2" and made["spec"] == {"cronSpec": "* * * * */5"}
    back = (await world.call("GET", CRONTABS + "/two")).json
    assert back["apiVersion"] == "stable.example.com/v1" and back["spec"]["image"] == "busybox"
    versions = (await world.call("GET", "/apis/stable.example.com")).json
    assert versions["preferredVersion"]["version"] == "v2"
    events = await watched(world, f"{second}?watch=1&timeoutSeconds=1")
    assert [e["object"]["apiVersion"] for e in events] == ["stable.example.com/v2"] * 2


def with_second(crd: dict[str, Any], **default: str) -> dict[str, Any]:
    """A definition that serves v2 beside v1, with the same fields, and in v2 with defaults of its own."""
    second = {**copy.deepcopy(crd["spec"]["versions"][0]), "name": "v2", "storage": False}
    properties = second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties.update({name: {"type": "string", "default": value} for name, value in default.items()})
    crd["spec"]["versions"].append(second)
    return crd


async def test_a_write_in_another_version_is_answered_as_a_read_shows_it(world: Edge) -> None:
    crd = with_second(crontab_definition(), zone="UTC")
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties |= {"zone": {"type": "string"}, "stored": {"type": "string", "default": "yes"}}
    crd["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["stored"] = {
        "type": "string"
    }
    await established(world, crd)
    second = CRONTABS.replace("/v1/", "/v2/")
    made = await world.create(second, {**crontab("two"), "apiVersion": "stable.example.com/v2"})
    assert (made["spec"]["zone"], made["spec"]["stored"]) == ("UTC", "yes")
    assert (await world.call("GET", second + "/two")).json == made
    bare = await world.create(CRONTABS, crontab())
    assert "zone" not in bare["spec"]
    seen = (await world.call("GET", second + "/one")).json
    assert (await world.call("PUT", second + "/one/status", {**seen, "status": {"phase": "x"}})).status == 200
    kept = (await world.call("GET", CRONTABS + "/one")).json
    assert (kept["status"], kept["spec"]) == ({"phase": "x"}, bare["spec"])  # no default of v2 comes along


async def test_an_object_says_what_it_is_where_its_scope_is(crontabs: Edge) -> None:
    other = await crontabs.call("POST", CRONTABS, {**crontab(), "apiVersion": "stable.example.com/v2"})
    assert other.status == 400 and other.json["message"] == (
        "the API version in the data (stable.example.com/v2) does not match the expected API version "
        "(stable.example.com/v1)"
    )
    kind = await crontabs.call("POST", CRONTABS, {**crontab(), "kind": "Else"})
    assert kind.status == 422 and kind.json["message"] == (
        'Else.stable.example.com "one" is invalid: kind: Invalid value: "Else": must be CronTab'
    )
    everywhere = CRONTABS.replace("/namespaces/default", "")
    assert (await crontabs.call("POST", everywhere, crontab())).status == 404
    assert (await crontabs.call("DELETE", everywhere)).status == 404
    odd = await crontabs.call("GET", CRONTABS + "?fieldSelector=spec.nothing=x")
    assert (odd.status, odd.json["message"]) == (400, "field label not supported: spec.nothing")


async def test_discovery_and_openapi_know_a_definition_in_every_form(crontabs: Edge) -> None:
    path = "/apis/stable.example.com/v1"
    answer = await crontabs.call("GET", path, headers={"Accept": "application/yaml"})
    assert answer.headers["Content-Type"] == "application/yaml"
    assert yaml.safe_load(answer.body) == (await crontabs.call("GET", path)).json
    document = (await crontabs.call("GET", "/openapi/v3" + path)).json
    known = document["components"]["schemas"]["com.example.stable.v1.CronTab"]
    assert known["x-kubernetes-selectable-fields"] == [{"fieldPath": "spec.color"}]


async def test_a_watch_ends_when_its_definition_changes(crontabs: Edge) -> None:
    """The client watches again, and sees what is served from then on."""
    await crontabs.create(CRONTABS, crontab())
    task = asyncio.create_task(watched(crontabs, f"{CRONTABS}?watch=1"))
    async with asyncio.timeout(60):
        while crontabs.server.health()["watches"] == 0:
            await asyncio.sleep(0.01)
        crd = with_second((await crontabs.call("GET", CRD)).json)
        assert (await crontabs.call("PUT", CRD, crd)).status == 200
        assert [e["type"] for e in await task] == ["ADDED"]


async def test_a_default_added_later_shows_on_read(crontabs: Edge) -> None:
    await crontabs.create(CRONTABS, crontab())
    crd = (await crontabs.call("GET", CRD)).json
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["suspend"] = {"type": "boolean", "default": False}
    assert (await crontabs.call("PUT", CRD, crd)).status == 200
    await until(crontabs, CRONTABS + "/one", lambda o: o["spec"].get("suspend") is False)


async def test_deleting_a_definition_takes_its_objects_along(crontabs: Edge) -> None:
    await crontabs.create(CRONTABS, crontab())
    held = crontab("held")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await crontabs.create(CRONTABS, held)
    gone = await crontabs.call("DELETE", CRD)
    assert gone.json["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
    await until(crontabs, CRONTABS, lambda o: [i["metadata"]["name"] for i in o["items"]] == ["held"])
    refused = await crontabs.call("POST", CRONTABS, crontab("late"))
    assert refused.status == 403
    assert "create not allowed while custom resource definition is terminating" in refused.json["message"]
    headers = {"Content-Type": "application/merge-patch+json"}
    await crontabs.call("PATCH", CRONTABS + "/held", {"metadata": {"finalizers": None}}, headers=headers)
    await until(crontabs, CRD, lambda o: True, code=404)
    assert (await crontabs.call("GET", CRONTABS)).status == 404
    assert (await crontabs.call("GET", "/apis/stable.example.com")).status == 404


async def test_a_name_in_use_is_not_given_again(crontabs: Edge) -> None:
    crd = crontab_definition()
    crd["metadata"]["name"] = "crons.stable.example.com"
    crd["spec"]["names"] = {"plural": "crons", "kind": "CronTab", "shortNames": ["cr"]}
    await crontabs.create(CRDS, crd)
    path = f"{CRDS}/crons.stable.example.com"
    late = await until(crontabs, path, lambda o: condition(o, "NamesAccepted") == "False")
    found = next(c for c in late["status"]["conditions"] if c["type"] == "NamesAccepted")
    assert (found["reason"], found["message"]) == ("ListKindConflict", '"CronTabList" is already in use')
    assert condition(late, "Established") == "False"
    await crontabs.call("DELETE", CRD)
    await until(crontabs, path, lambda o: condition(o, "Established") == "True")


async def test_owners_and_namespaces_take_custom_objects_along(crontabs: Edge) -> None:
    owner = await crontabs.create(CRONTABS, crontab("owner"))
    reference = {"apiVersion": "stable.example.com/v1", "kind": "CronTab", "name": "owner"}
    reference["uid"] = owner["metadata"]["uid"]
    config = {"metadata": {"name": "owned", "ownerReferences": [reference]}}
    await crontabs.create("/api/v1/namespaces/default/configmaps", config)
    child = crontab("child")
    child["metadata"]["ownerReferences"] = [reference]
    await crontabs.create(CRONTABS, child)
    await crontabs.call("DELETE", CRONTABS + "/owner")
    await until(crontabs, CRONTABS, lambda o: o["items"] == [])
    await until(crontabs, "/api/v1/namespaces/default/configmaps/owned", lambda o: True, code=404)
    await crontabs.create("/api/v1/namespaces", {"metadata": {"name": "gone"}})
    await crontabs.create(CRONTABS.replace("/default/", "/gone/"), crontab())
    await crontabs.call("DELETE", "/api/v1/namespaces/gone")
    await until(crontabs, "/api/v1/namespaces/gone", lambda o: True, code=404)
    assert (await crontabs.call("GET", "/apis/stable.example.com/v1/crontabs")).json["items"] == []


async def test_deletecollection_and_dry_run(crontabs: Edge) -> None:
    for name in ("a", "b"):
        await crontabs.create(CRONTABS, crontab(name))
    assert (await crontabs.call("POST", CRONTABS + "?dryRun=All", crontab("c"))).status == 201
    assert (await crontabs.call("GET", CRONTABS + "/c")).status == 404
    assert (await crontabs.call("DELETE", CRONTABS)).status == 200
    assert (await crontabs.call("GET", CRONTABS)).json["items"] == []


async def test_rbac_knows_the_group(crontabs: Edge) -> None:
    assert (await crontabs.call("GET", CRONTABS, cert="alice")).status == 403
    rules = [{"apiGroups": ["stable.example.com"], "resources": ["crontabs"], "verbs": ["get", "list"]}]
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    await crontabs.create(rbac + "/roles", {"metadata": {"name": "ct"}, "rules": rules})
    binding = {
        "metadata": {"name": "ct"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ct"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
    }
    await crontabs.create(rbac + "/rolebindings", binding)
    assert (await crontabs.call("GET", CRONTABS, cert="alice")).status == 200
    assert (await crontabs.call("POST", CRONTABS, crontab(), cert="alice")).status == 403


async def test_every_api_server_serves_it_at_once(pki: Pki) -> None:
    store = MemoryStore()
    async with custom_edge(pki, store=store) as first, edge(pki, store=store) as second:
        await established(first, crontab_definition())
        assert (await second.call("GET", CRONTABS)).status == 200
        await second.create(CRONTABS, crontab())
        assert (await first.call("GET", CRONTABS + "/one")).status == 200
        await first.call("DELETE", CRD)
        await until(first, CRD, lambda o: True, code=404)
        assert (await second.call("GET", CRONTABS)).status == 404


async def test_a_server_that_starts_later_has_the_objects(pki: Pki) -> None:
    store = MemoryStore()
    async with custom_edge(pki, store=store) as first:
        await established(first, crontab_definition())
        await first.create(CRONTABS, crontab())
        async with edge(pki, store=store) as second:
            assert [o["metadata"]["name"] for o in (await second.call("GET", CRONTABS)).json["items"]] == ["one"]


async def test_a_schema_of_300_kilobytes(world: Edge) -> None:
    """As the definitions of monitoring operators have: a whole pod template, with list maps and int-or-string."""
    template = pod_template_schema()
    spec = {"type": "object", "properties": {"template": template}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    crd = crontab_definition(schema=schema, additionalPrinterColumns=[], subresources={}, selectableFields=[])
    await established(world, crd)
    containers = [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}], "junk": 1}]
    body = {**crontab(), "spec": {"template": {"spec": {"containers": containers, "terminationGracePeriodSeconds": 5}}}}
    made = await world.create(CRONTABS, body)
    assert "junk" not in made["spec"]["template"]["spec"]["containers"][0]
    body["spec"]["template"]["spec"]["containers"] = [{"image": "i", "ports": [{"containerPort": "80"}]}]
    body["metadata"]["name"] = "two"
    refused = await world.call("POST", CRONTABS, body)
    path = "spec.template.spec.containers[0]"
    assert f"{path}.name: Required value" in refused.json["message"]
    assert f"{path}.ports[0].containerPort in body must be of type integer" in refused.json["message"]
