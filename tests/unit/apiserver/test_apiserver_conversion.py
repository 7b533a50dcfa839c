"""Several versions of a custom resource, converted by a webhook over HTTPS."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.stand_in import listening

pytest.importorskip("cel_expr_python", reason="`make bootstrap` installs it")

from cluster.api.errors import ApiError
from cluster.machinery.webhooks import WebhookClient
from tests.support.apiserver_harness import Edge, Pki
from tests.support.custom_world import (
    CRDS,
    CRONTABS,
    crontab,
    crontab_definition,
    custom_edge,
    established,
    until,
    watched,
)

Object = dict[str, Any]
V2 = CRONTABS.replace("/v1/", "/v2/")


def convert(obj: Object, wanted: str) -> Object:
    """v1 has spec.cronSpec, v2 spec.schedule."""
    spec = dict(obj["spec"])
    old, new = ("cronSpec", "schedule") if wanted.endswith("v2") else ("schedule", "cronSpec")
    spec[new] = spec.pop(old)
    return {**obj, "apiVersion": wanted, "spec": spec}


class Webhook:
    """`spoil` changes the answer; `asked` counts objects; `spoken` is the version of the last review."""

    def __init__(self) -> None:
        self.asked = 0
        self.spoken = ""
        self.spoil: Any = lambda answer: answer
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        review = await request.json()
        wish, self.spoken = review["request"], review["apiVersion"]
        self.asked += len(wish["objects"])
        converted = [convert(o, wish["desiredAPIVersion"]) for o in wish["objects"]]
        answer = {"uid": wish["uid"], "result": {"status": "Success"}, "convertedObjects": converted}
        body = {"kind": review["kind"], "apiVersion": review["apiVersion"], "response": self.spoil(answer)}
        return web.json_response(body)


@pytest.fixture
async def webhook(pki: Pki) -> AsyncIterator[Webhook]:
    hook = Webhook()
    app = web.Application()
    app.router.add_post("/convert", hook.handle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.path("server.crt"), pki.path("server.key"))
    async with listening(app, context) as port:
        hook.port = port
        yield hook


@pytest.fixture
async def world(pki: Pki, webhook: Webhook) -> AsyncIterator[Edge]:
    async with custom_edge(pki) as running:
        client = WebhookClient(running.registry.cluster_ip)
        running.registry.converter.call = client.convert
        await established(running, definition(pki, webhook))
        yield running
        await client.close()


def definition(pki: Pki, webhook: Webhook) -> Object:
    crd = crontab_definition(schema={"openAPIV3Schema": schema("cronSpec")}, additionalPrinterColumns=[])
    del crd["spec"]["versions"][0]["selectableFields"]
    second = {**crd["spec"]["versions"][0], "name": "v2", "storage": False}
    second["schema"] = {"openAPIV3Schema": schema("schedule")}
    crd["spec"]["versions"].append(second)
    bundle = base64.b64encode(Path(pki.path("ca.crt")).read_bytes()).decode()
    client = {"url": f"https://localhost:{webhook.port}/convert", "caBundle": bundle}
    conversion = {"clientConfig": client, "conversionReviewVersions": ["v1"]}
    crd["spec"]["conversion"] = {"strategy": "Webhook", "webhook": conversion}
    return crd


def schema(field: str) -> Object:
    spec = {"type": "object", "required": [field], "properties": {field: {"type": "string"}}}
    return {"type": "object", "properties": {"spec": spec}}


async def test_reads_and_writes_go_through_the_webhook(world: Edge, webhook: Webhook) -> None:
    await world.create(CRONTABS, crontab())
    assert webhook.asked == 0
    shown = (await world.call("GET", V2 + "/one")).json
    assert shown["apiVersion"] == "stable.example.com/v2" and shown["spec"] == {"schedule": "* * * * */5"}
    asked = webhook.asked
    assert (await world.call("GET", V2)).json["items"] == [shown]
    assert webhook.asked == asked, "an unchanged object is not converted again"
    body = {"apiVersion": "stable.example.com/v2", "kind": "CronTab", "metadata": {"name": "two"}}
    made = await world.create(V2, {**body, "spec": {"schedule": "@daily"}})
    assert made["spec"] == {"schedule": "@daily"}
    assert (await world.call("GET", CRONTABS + "/two")).json["spec"] == {"cronSpec": "@daily"}
    made["spec"]["schedule"] = "@hourly"
    changed = await world.call("PUT", V2 + "/two", made)
    assert changed.status == 200 and changed.json["metadata"]["generation"] == 2
    assert (await world.call("GET", CRONTABS + "/two")).json["spec"] == {"cronSpec": "@hourly"}
    events = await watched(world, V2 + "?watch=1&timeoutSeconds=1")
    assert [e["object"]["spec"] for e in events] == [{"schedule": "* * * * */5"}, {"schedule": "@hourly"}]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda a: {**a, "result": {"status": "Failed", "message": "not today"}}, "not today"),
        (lambda a: {**a, "uid": "other"}, "expected response.uid="),
        (lambda a: {**a, "convertedObjects": []}, "it returned 0 objects, expected 1"),
        (
            lambda a: {**a, "convertedObjects": [{**a["convertedObjects"][0], "kind": "Other"}]},
            "returned an object that",
        ),
        (
            lambda a: {**a, "convertedObjects": [{**a["convertedObjects"][0], "metadata": {"name": "other"}}]},
            "it changed metadata.name from 'one' to 'other'",
        ),
    ],
)
async def test_a_webhook_that_misbehaves(world: Edge, webhook: Webhook, spoil: Any, why: str) -> None:
    await world.create(CRONTABS, crontab())
    webhook.spoil = spoil
    got = await world.call("GET", V2 + "/one")
    assert got.status == 500
    assert got.json["message"].startswith("conversion webhook for stable.example.com/v1, Kind=CronTab failed: ")
    assert why in got.json["message"]
    assert (await world.call("GET", CRONTABS + "/one")).status == 200


def _rule(version: str) -> Object:
    return {
        "operations": ["*"],
        "apiGroups": ["stable.example.com"],
        "apiVersions": [version],
        "resources": ["crontabs"],
    }


async def test_admission_sees_the_version_that_its_rules_name(world: Edge) -> None:
    """A request in v2, a webhook that knows v1 only, and a policy as well."""
    asked: list[Object] = []

    async def call(client: Object, body: Object, timeout_s: float) -> Object:
        request = body["request"]
        asked.append(request)
        patch = b'[{"op": "replace", "path": "/spec/cronSpec", "value": "@yearly"}]'
        response = {"uid": request["uid"], "allowed": True, "patchType": "JSONPatch"}
        return {**body, "response": {**response, "patch": base64.b64encode(patch).decode()}}

    world.registry.webhooks.call = call
    hook = {"name": "a.example.com", "clientConfig": {"url": "https://a.example.com/"}, "rules": [_rule("v1")]}
    hook |= {"admissionReviewVersions": ["v1"], "sideEffects": "None"}
    hook["matchConditions"] = [{"name": "known", "expression": "has(object.spec.cronSpec)"}]
    registration = "/apis/admissionregistration.k8s.io/v1"
    exact = {**hook, "name": "b.example.com", "matchPolicy": "Exact"}
    config = {"metadata": {"name": "c"}, "webhooks": [hook, exact]}
    await world.create(f"{registration}/mutatingwebhookconfigurations", config)
    validations = [{"expression": "object.spec.cronSpec != '@never' && request.kind.version == 'v1'"}]
    spec = {"matchConstraints": {"resourceRules": [_rule("v1")]}, "validations": validations}
    await world.create(f"{registration}/validatingadmissionpolicies", {"metadata": {"name": "p"}, "spec": spec})
    binding = {"metadata": {"name": "p"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}}
    await world.create(f"{registration}/validatingadmissionpolicybindings", binding)
    body = {"apiVersion": "stable.example.com/v2", "kind": "CronTab", "metadata": {"name": "two"}}
    made = await world.create(V2, {**body, "spec": {"schedule": "@daily"}})
    assert (made["apiVersion"], made["spec"]) == (body["apiVersion"], {"schedule": "@yearly"})
    assert [r["object"]["spec"] for r in asked] == [{"cronSpec": "@daily"}]
    assert (asked[0]["kind"]["version"], asked[0]["requestKind"]["version"]) == ("v1", "v2")
    assert (asked[0]["resource"]["version"], asked[0]["requestResource"]["version"]) == ("v1", "v2")
    assert (await world.call("DELETE", f"{registration}/mutatingwebhookconfigurations/c")).status == 200
    refused = await world.call("POST", V2, {**body, "metadata": {"name": "n"}, "spec": {"schedule": "@never"}})
    assert (refused.status, refused.json["reason"]) == (422, "Invalid")
    made["spec"]["schedule"] = "@never"
    assert (await world.call("PUT", V2 + "/two", made)).status == 422


@pytest.mark.parametrize(
    "mutation",
    [
        {
            "patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": "Object{spec: Object.spec{cronSpec: object.spec.cronSpec + '!'}}"},
        },
        {
            "patchType": "JSONPatch",
            "jsonPatch": {
                "expression": "[JSONPatch{op: 'replace', path: '/spec/cronSpec', value: object.spec.cronSpec + '!'}]"
            },
        },
    ],
)
async def test_a_mutating_policy_changes_the_version_that_its_rules_name(world: Edge, mutation: Object) -> None:
    """Requests in v2, a policy that knows v1 only and is applied, and one for exactly v1 that is not."""
    registration = "/apis/admissionregistration.k8s.io/v1"
    for policy, match in (("p", "Equivalent"), ("q", "Exact")):
        constraints = {"resourceRules": [_rule("v1")], "matchPolicy": match}
        spec = {"matchConstraints": constraints, "reinvocationPolicy": "Never", "mutations": [mutation]}
        await world.create(f"{registration}/mutatingadmissionpolicies", {"metadata": {"name": policy}, "spec": spec})
        binding = {"metadata": {"name": policy}, "spec": {"policyName": policy}}
        await world.create(f"{registration}/mutatingadmissionpolicybindings", binding)
    body = {"apiVersion": "stable.example.com/v2", "kind": "CronTab", "metadata": {"name": "two"}}
    made = await world.create(V2, {**body, "spec": {"schedule": "@daily"}})
    assert (made["apiVersion"], made["spec"]) == (body["apiVersion"], {"schedule": "@daily!"})
    changed = await world.call("PUT", V2 + "/two", {**made, "spec": {"schedule": "@hourly"}})
    assert (changed.status, changed.json["spec"]) == (200, {"schedule": "@hourly!"})


async def test_a_webhook_is_asked_in_the_first_version_that_it_names(world: Edge, webhook: Webhook) -> None:
    await world.create(CRONTABS, crontab())
    assert (await world.call("GET", V2 + "/one")).status == 200
    assert webhook.spoken == "apiextensions.k8s.io/v1"
    path = f"{CRDS}/crontabs.stable.example.com"
    crd = (await world.call("GET", path)).json
    crd["spec"]["conversion"]["webhook"]["conversionReviewVersions"] = ["v2", "v1beta1", "v1"]
    assert (await world.call("PUT", path, crd)).status == 200
    await until(world, V2 + "/one", lambda o: webhook.spoken == "apiextensions.k8s.io/v1beta1")


async def test_objects_move_to_a_new_storage_version(world: Edge, webhook: Webhook) -> None:
    await world.create(CRONTABS, crontab())
    path = f"{CRDS}/crontabs.stable.example.com"
    crd = (await world.call("GET", path)).json
    first, second = crd["spec"]["versions"]
    first["storage"], second["storage"] = False, True
    assert (await world.call("PUT", path, crd)).json["status"]["storedVersions"] == ["v1", "v2"]
    await until(world, V2, lambda o: len(o["items"]) == 1)
    shown = (await world.call("GET", V2 + "/one")).json
    before = shown["metadata"]["resourceVersion"]
    rewritten = await world.call("PUT", V2 + "/one", shown)
    assert rewritten.status == 200 and rewritten.json["metadata"]["resourceVersion"] != before
    again = await world.call("PUT", V2 + "/one", rewritten.json)
    assert again.json["metadata"]["resourceVersion"] == rewritten.json["metadata"]["resourceVersion"]
    crd = (await world.call("GET", path)).json
    crd["status"]["storedVersions"] = ["v2"]
    assert (await world.call("PUT", path + "/status", crd)).status == 200


async def test_where_a_webhook_is_found() -> None:
    async def resolve(namespace: str, name: str) -> str:
        return "10.96.0.7"

    client = WebhookClient(resolve)
    service = {"namespace": "ns", "name": "hook", "path": "convert", "port": 8443}
    shown, url, server_name, host = await client._address({"service": service})
    assert shown == "https://hook.ns.svc:8443/convert"
    assert str(url) == "https://10.96.0.7:8443/convert"
    assert (server_name, host) == ("hook.ns.svc", "hook.ns.svc:8443")


async def test_a_certificate_of_somebody_else_is_refused(webhook: Webhook) -> None:
    async def resolve(namespace: str, name: str) -> str:
        return "127.0.0.1"

    client = WebhookClient(resolve)
    try:
        with pytest.raises(ApiError, match=r'Post "https://hook.ns.svc:\d+/convert\?timeout=5s": .*certificate'):
            service = {"namespace": "ns", "name": "hook", "path": "/convert", "port": webhook.port}
            await client.post({"service": service}, {}, 5.0)
    finally:
        await client.close()
