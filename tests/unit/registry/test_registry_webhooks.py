"""Admission webhooks: who is asked, in which order, and what becomes of the answers."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import orjson
import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.types import Binding
from tests.support.api_errors import refusal

MUTATING = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
VALIDATING = "validatingwebhookconfigurations.admissionregistration.k8s.io"
PODS = {"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}


class Server:
    """Answers in place of a network; `asked` keeps the requests."""

    def __init__(self, bench: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {}
        bench.registry.webhooks.call = self.call

    async def call(self, client: dict[str, Any], body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        request = body["request"]
        path = client["service"]["path"]
        self.asked.append({**request, "path": path, "timeout": timeout_s})
        answer = self.answers.get(path, {"allowed": True})
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return {
            "kind": "AdmissionReview",
            "apiVersion": body["apiVersion"],
            "response": {"uid": request["uid"], **answer},
        }

    @property
    def paths(self) -> list[str]:
        return [a["path"] for a in self.asked]


@pytest.fixture
def server(bench: Any) -> Server:
    return Server(bench)


def hook(name: str = "a", rules: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    client = {"service": {"name": "s", "namespace": "kube-system", "path": f"/{name}"}}
    return {
        "name": f"{name}.example.com",
        "clientConfig": client,
        "rules": [PODS] if rules is None else rules,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        **more,
    }


async def configure(bench: Any, resource: str, *hooks: dict[str, Any], name: str = "c") -> None:
    await bench.create(resource, {"metadata": {"name": name}, "webhooks": list(hooks)}, "")


def patching(*operations: dict[str, Any], **more: Any) -> dict[str, Any]:
    text = base64.b64encode(orjson.dumps(list(operations))).decode()
    return {"allowed": True, "patchType": "JSONPatch", "patch": text, **more}


def labelled(key: str, value: str = "x") -> dict[str, Any]:
    return {"op": "add", "path": f"/metadata/labels/{key}", "value": value}


async def test_what_a_webhook_is_told(bench: Any, make: Any, server: Server) -> None:
    await configure(bench, VALIDATING, hook(timeoutSeconds=3))
    await bench.create("pods", make.pod("p"))
    (asked,) = server.asked
    assert asked["kind"] == {"group": "", "version": "v1", "kind": "Pod"} == asked["requestKind"]
    assert asked["resource"] == {"group": "", "version": "v1", "resource": "pods"}
    assert (asked["name"], asked["namespace"], asked["operation"]) == ("p", "default", "CREATE")
    assert asked["userInfo"]["username"] == "system:apiserver" and "system:masters" in asked["userInfo"]["groups"]
    assert asked["object"]["spec"]["serviceAccountName"] == "default", "after the built-in plugins"
    assert (asked["oldObject"], asked["dryRun"], asked["timeout"]) == (None, False, 3.0)
    assert asked["options"] == {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "test"}


async def test_a_mutation_is_decoded_defaulted_and_validated(bench: Any, make: Any, server: Server) -> None:
    await configure(bench, MUTATING, hook())
    sidecar = {"op": "add", "path": "/spec/containers/-", "value": {"name": "side", "image": "i", "unknown": 1}}
    server.answers["/a"] = patching(labelled("mutated"), sidecar, warnings=["a word"])
    pod = (await bench.create("pods", make.pod())).obj
    assert pod["metadata"]["labels"] == {"app": "a", "mutated": "x"}
    added = pod["spec"]["containers"][1]
    assert added["imagePullPolicy"] == "IfNotPresent" or added["imagePullPolicy"] == "Always"
    assert "unknown" not in added
    assert bench.ctx.warnings == ["a word"]
    server.answers["/a"] = patching({"op": "replace", "path": "/spec/containers/0/name", "value": "Not Valid"})
    e = await refusal(bench.create("pods", make.pod("q")))
    assert (e.code, "spec.containers[0].name" in e.message) == (422, True)


async def test_denials_carry_the_webhooks_own_status(bench: Any, make: Any, server: Server) -> None:
    await configure(bench, VALIDATING, hook())
    for status, code, message in (
        ({"message": "not today", "code": 403, "reason": "Forbidden"}, 403, "denied the request: not today"),
        ({"reason": "Because"}, 400, "denied the request: Because"),
        (None, 400, "denied the request without explanation"),
        ({"code": 200}, 400, "denied the request without explanation"),
    ):
        server.answers["/a"] = {"allowed": False, "status": status}
        e = await refusal(bench.create("pods", make.pod()))
        assert (e.code, e.message) == (code, f'admission webhook "a.example.com" {message}')


async def test_who_is_asked(bench: Any, make: Any, server: Server) -> None:
    def rule(**more: Any) -> list[dict[str, Any]]:
        return [{**PODS, **more}]

    selector = {"matchLabels": {"app": "a"}}
    other = {"matchLabels": {"app": "b"}}
    system = {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["kube-system"]}]}  # fmt: skip
    false = [{"name": "never", "expression": "object.metadata.name == 'other'"}]
    true = [{"name": "pods", "expression": "request.operation == 'CREATE' && !has(object.spec.nodeName)"}]
    await configure(
        bench,
        VALIDATING,
        hook("delete", rule(operations=["DELETE"])),
        hook("group", rule(apiGroups=["apps"])),
        hook("sub", rule(resources=["pods/status"])),
        hook("cluster", rule(scope="Cluster")),
        hook("all", rule(resources=["*"], operations=["*"], apiGroups=["*"], apiVersions=["*"])),
        hook("object", objectSelector=selector),
        hook("object-not", objectSelector=other),
        hook("namespace-not", namespaceSelector=system),
        hook("condition", matchConditions=true),
        hook("condition-not", matchConditions=false),
    )
    await bench.create("pods", make.pod())
    assert server.paths == ["/all", "/object", "/condition"]
    server.asked.clear()
    await bench.delete("pods", "p")
    assert server.paths == ["/delete", "/all"]
    server.asked.clear()
    await configure(bench, MUTATING, hook("none"), name="other")
    assert server.asked == [], "their own configuration is beyond webhooks"


async def test_mutating_webhooks_come_in_order_and_again_where_they_ask(bench: Any, make: Any, server: Server) -> None:
    await configure(bench, MUTATING, hook("z", reinvocationPolicy="IfNeeded"), hook("y"), name="1")
    await configure(bench, MUTATING, hook("x"), name="2")
    server.answers["/x"] = patching(labelled("x"))
    pod = (await bench.create("pods", make.pod())).obj
    assert server.paths == ["/z", "/y", "/x", "/z"]
    assert "x" in server.asked[-1]["object"]["metadata"]["labels"] and pod["metadata"]["labels"]["x"] == "x"


async def test_a_webhook_that_fails_denies_or_is_passed_over(bench: Any, make: Any, server: Server) -> None:
    refused = ApiError(500, "", 'Post "https://s.kube-system.svc:443/a?timeout=10s": connection refused')
    server.answers["/a"] = refused
    await configure(bench, VALIDATING, hook())
    e = await refusal(bench.create("pods", make.pod()))
    assert (e.code, e.reason, e.message) == (
        500,
        "InternalError",
        'Internal error occurred: failed calling webhook "a.example.com": failed to call webhook: '
        'Post "https://s.kube-system.svc:443/a?timeout=10s": connection refused',
    )
    server.answers["/a"] = {"allowed": True, "uid": "another"}
    assert "expected response.uid=" in (await refusal(bench.create("pods", make.pod()))).message
    info = SCHEME.named(VALIDATING)

    def ignore(config: dict[str, Any]) -> dict[str, Any]:
        config["webhooks"][0]["failurePolicy"] = "Ignore"
        return config

    await bench.registry.modify(bench.ctx, info, "", "c", ignore)
    await bench.create("pods", make.pod())


async def test_dry_runs_reach_only_those_without_side_effects(bench: Any, make: Any, server: Server) -> None:
    await configure(bench, VALIDATING, hook(sideEffects="NoneOnDryRun"))
    bench.ctx = replace(bench.ctx, dry_run=True)
    await bench.create("pods", make.pod())
    assert server.asked[0]["dryRun"] is True


async def test_a_status_write_cannot_be_patched_beyond_the_status(bench: Any, make: Any, server: Server) -> None:
    await bench.create("pods", make.pod())
    await configure(bench, MUTATING, hook(rules=[{**PODS, "resources": ["pods/status"]}]))
    server.answers["/a"] = patching({"op": "add", "path": "/spec/priority", "value": 7},
                                    {"op": "add", "path": "/status/message", "value": "told"})  # fmt: skip

    def run(pod: dict[str, Any]) -> dict[str, Any]:
        return {**pod, "status": {**pod["status"], "phase": "Running"}}

    pod = (await bench.registry.modify(bench.ctx, SCHEME.named("pods"), "default", "p", run, subresource="status")).obj
    assert (pod["status"]["message"], pod["spec"]["priority"]) == ("told", 0)


async def test_configurations_are_validated(bench: Any) -> None:
    bad = hook()
    bad |= {"name": "short", "sideEffects": "Some", "timeoutSeconds": 31, "admissionReviewVersions": ["v3"]}
    bad["clientConfig"] = {"url": "http://example.com/x?y=z", "service": {"name": "s", "namespace": "n"}}
    bad["matchConditions"] = [{"name": "c", "expression": "1 +"}]
    e = await refusal(configure(bench, VALIDATING, bad))
    for part in (
        'webhooks[0].name: Invalid value: "short": should be a domain with at least three segments separated by dots',
        'webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"',
        "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        "must include at least one of v1, v1beta1",
        "'https' is the only allowed URL scheme",
        "webhooks[0].matchConditions[0].expression: Invalid value",
    ):
        assert part in e.message, (part, e.message)
    await configure(bench, VALIDATING, hook())
    stored = (await bench.get(VALIDATING, "c", "")).obj["webhooks"][0]
    assert (stored["failurePolicy"], stored["matchPolicy"], stored["timeoutSeconds"]) == ("Fail", "Equivalent", 10)
    assert stored["rules"][0]["scope"] == "*" and stored["clientConfig"]["service"]["port"] == 443


async def test_bindings_evictions_and_connections_are_seen_too(bench: Any, make: Any, server: Server) -> None:
    everything = [{**PODS, "operations": ["*"], "resources": ["pods/*"]}]
    await bench.create("pods", make.pod())
    await configure(bench, VALIDATING, hook(rules=everything))
    server.answers["/a"] = lambda r: {"allowed": r.get("subResource") not in ("binding", "eviction", "exec")}
    (outcome,) = await bench.registry.bind(bench.ctx, [Binding("default", "p", "", "n1")])
    assert "denied the request" in outcome.message
    assert server.asked[-1]["object"]["target"] == {"kind": "Node", "name": "n1"}
    eviction = {"metadata": {"name": "p"}}
    pods = SCHEME.named("pods")
    await refusal(bench.registry.create(bench.ctx, pods, "default", eviction, subresource="eviction", name="p"))
    assert server.asked[-1]["kind"] == {"group": "policy", "version": "v1", "kind": "Eviction"}
    options = {"kind": "PodExecOptions", "apiVersion": "v1", "command": ["sh"]}
    await refusal(bench.registry.connect(bench.ctx, pods, "default", "p", "exec", options))
    assert (server.asked[-1]["operation"], server.asked[-1]["object"]["command"]) == ("CONNECT", ["sh"])
    await bench.registry.connect(bench.ctx, pods, "default", "p", "attach", options)
