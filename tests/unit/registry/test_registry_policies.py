"""Admission policies in CEL: what they match, what they refuse, and how they say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from cluster.api import policycel
from cluster.api.scheme import SCHEME
from tests.support.api_errors import refusal

GROUP = "admissionregistration.k8s.io"
POLICIES, BINDINGS = f"validatingadmissionpolicies.{GROUP}", f"validatingadmissionpolicybindings.{GROUP}"
MUTATING, MUTATING_BINDINGS = f"mutatingadmissionpolicies.{GROUP}", f"mutatingadmissionpolicybindings.{GROUP}"
DEPLOYMENTS = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
               "resources": ["deployments"]}  # fmt: skip
PODS = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
EXAMPLES = Path(__file__).resolve().parents[3] / "infra" / "examples"


def validation(expression: str, **more: Any) -> dict[str, Any]:
    return {"expression": expression, **more}


async def policy(bench: Any, *validations: dict[str, Any], rule: dict[str, Any] = DEPLOYMENTS, **spec: Any) -> None:
    body = {"matchConstraints": {"resourceRules": [rule]}, "validations": list(validations), **spec}
    await bench.create(POLICIES, {"metadata": {"name": "p"}, "spec": body}, "")


async def bind(bench: Any, *actions: str, **spec: Any) -> None:
    body = {"policyName": "p", "validationActions": list(actions or ("Deny",)), **spec}
    await bench.create(BINDINGS, {"metadata": {"name": "b"}, "spec": body}, "")


async def test_a_policy_denies_once_it_is_bound(bench: Any, make: Any) -> None:
    await policy(bench, validation("object.spec.replicas <= 5"))
    await bench.create("deployments.apps", make.deployment("free", replicas=6))
    await bind(bench)
    e = await refusal(bench.create("deployments.apps", make.deployment("d", replicas=6)))
    message = (
        "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: failed expression: object.spec.replicas <= 5"
    )
    assert (e.code, e.reason, e.message) == (422, "Invalid", f'deployments.apps "d" is forbidden: {message}')
    assert (e.details or {})["causes"] == [{"message": message}]
    await bench.create("deployments.apps", make.deployment("d", replicas=5))


async def test_messages_reasons_and_variables(bench: Any, make: Any) -> None:
    await policy(
        bench,
        validation("variables.n <= 5", messageExpression="'at most 5, not ' + string(variables.n)", reason="Forbidden"),
        variables=[{"name": "n", "expression": "object.spec.replicas"}],
    )
    await bind(bench)
    e = await refusal(bench.create("deployments.apps", make.deployment("d", replicas=7)))
    assert (e.code, e.reason) == (403, "Forbidden")
    assert e.message.endswith("denied request: at most 5, not 7")


async def test_warn_and_audit_let_it_pass(bench: Any, make: Any) -> None:
    await policy(
        bench,
        validation("object.spec.replicas <= 5", message="too many"),
        auditAnnotations=[{"key": "replicas", "valueExpression": "'has ' + string(object.spec.replicas)"}],
    )
    await bind(bench, "Warn", "Audit")
    await bench.create("deployments.apps", make.deployment("d", replicas=6))
    assert bench.ctx.warnings == ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': too many"]
    notes = bench.ctx.annotations
    assert notes["p/replicas"] == "has 6"
    assert orjson.loads(notes["validation.policy.admission.k8s.io/validation_failure"]) == [
        {"message": "too many", "policy": "p", "binding": "b", "expressionIndex": "0",
         "validationActions": ["Warn", "Audit"]}
    ]  # fmt: skip


async def test_parameters(bench: Any, make: Any) -> None:
    await policy(
        bench,
        validation("object.spec.replicas <= int(params.data.max)"),
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
    )
    await bind(bench, paramRef={"name": "limits", "parameterNotFoundAction": "Deny"})
    e = await refusal(bench.create("deployments.apps", make.deployment("d", replicas=3)))
    assert "no params found for policy binding with `Deny` parameterNotFoundAction" in e.message
    await bench.create("configmaps", {"metadata": {"name": "limits"}, "data": {"max": "2"}})
    e = await refusal(bench.create("deployments.apps", make.deployment("d", replicas=3)))
    assert "failed expression: object.spec.replicas <= int(params.data.max)" in e.message
    await bench.create("deployments.apps", make.deployment("d", replicas=2))


async def test_what_cannot_be_evaluated_is_up_to_the_failure_policy(bench: Any, make: Any) -> None:
    await policy(bench, validation("object.spec.nope.deeper == 1"))
    await bind(bench)
    e = await refusal(bench.create("deployments.apps", make.deployment()))
    assert "expression 'object.spec.nope.deeper == 1' resulted in error: no such key: nope" in e.message

    def ignore(obj: dict[str, Any]) -> dict[str, Any]:
        obj["spec"]["failurePolicy"] = "Ignore"
        return obj

    await bench.registry.modify(bench.ctx, SCHEME.named(POLICIES), "", "p", ignore)
    await bench.create("deployments.apps", make.deployment())


async def test_matching_is_narrowed_by_conditions_and_bindings(bench: Any, make: Any) -> None:
    conditions = [{"name": "not-system", "expression": "!request.userInfo.username.startsWith('system:node')"}]
    await policy(bench, validation("false"), matchConditions=conditions)
    await bind(bench, matchResources={"objectSelector": {"matchLabels": {"strict": "yes"}}})
    await bench.create("deployments.apps", make.deployment("loose"))
    strict = make.deployment("strict")
    strict["metadata"]["labels"] = {"strict": "yes"}
    assert "denied request" in (await refusal(bench.create("deployments.apps", strict))).message


async def test_the_namespace_the_old_object_and_the_authorizer(bench: Any, make: Any) -> None:
    await policy(
        bench,
        validation("namespaceObject.metadata.name == 'default'"),
        validation("oldObject == null || object.spec.replicas >= oldObject.spec.replicas", message="never fewer"),
        validation("authorizer.group('apps').resource('deployments').namespace('default').check('create').allowed()"),
    )
    await bind(bench)
    await bench.create("deployments.apps", make.deployment("d", replicas=3))

    def fewer(obj: dict[str, Any]) -> dict[str, Any]:
        obj["spec"]["replicas"] = 1
        return obj

    e = await refusal(bench.registry.modify(bench.ctx, SCHEME.named("deployments.apps"), "default", "d", fewer))
    assert e.message.endswith("never fewer")


async def test_faulty_policies_are_refused_when_written(bench: Any) -> None:
    e = await refusal(policy(bench, validation("object.spec.replicas <"), validation("'text'")))
    assert 'spec.validations[0].expression: Invalid value: "object.spec.replicas <": compilation failed' in e.message
    assert "spec.validations[1].expression: Invalid value: \"'text'\": must evaluate to bool" in e.message
    e = await refusal(bind(bench, "Deny", "Warn"))
    assert "must not contain both Deny and Warn" in e.message


# --- mutating


async def mutating(bench: Any, *mutations: dict[str, Any], rule: dict[str, Any] = PODS, **spec: Any) -> None:
    body = {"matchConstraints": {"resourceRules": [rule]}, "mutations": list(mutations), "reinvocationPolicy": "Never"}
    await bench.create(MUTATING, {"metadata": {"name": "m"}, "spec": {**body, **spec}}, "")
    await bench.create(MUTATING_BINDINGS, {"metadata": {"name": "mb"}, "spec": {"policyName": "m"}}, "")


def apply(expression: str) -> dict[str, Any]:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def json_patch(expression: str) -> dict[str, Any]:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


async def test_an_apply_configuration_is_merged_as_apply_merges(bench: Any, make: Any) -> None:
    sidecar = """Object{
        metadata: Object.metadata{labels: {"by": "me"}, annotations: {"why": "policy {of: mine}"}},
        spec: Object.spec{
          // beside what is there
          initContainers: [Object.spec.initContainers{name: "mesh", image: "mesh:1", restartPolicy: "Always"}]
        }
      }"""
    await mutating(bench, apply(sidecar))
    pod = (await bench.create("pods", make.pod())).obj
    assert pod["metadata"]["labels"] == {"app": "a", "by": "me"}
    assert pod["metadata"]["annotations"] == {"why": "policy {of: mine}"}
    assert [c["name"] for c in pod["spec"]["initContainers"]] == ["mesh"]
    assert pod["spec"]["initContainers"][0]["terminationMessagePath"] == "/dev/termination-log", "defaulted"
    assert [c["name"] for c in pod["spec"]["containers"]] == ["c"]


async def test_a_json_patch_and_its_condition(bench: Any, make: Any) -> None:
    patch = """[
      JSONPatch{op: "test", path: "/metadata/labels/app", value: "a"},
      JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/owner"),
                value: request.userInfo.username.split(":")[1]}
    ]"""
    conditions = [{"name": "labelled", "expression": "has(object.metadata.labels)"}]
    await mutating(bench, json_patch(patch), matchConditions=conditions)
    pod = (await bench.create("pods", make.pod())).obj
    assert pod["metadata"]["labels"]["example.com/owner"] == "apiserver"


async def test_a_mutation_that_fails_denies(bench: Any, make: Any) -> None:
    await mutating(bench, apply('Object{metadata: Object.metadata{name: "other"}}'))
    e = await refusal(bench.create("pods", make.pod()))
    assert e.message == (
        "pods \"p\" is forbidden: MutatingAdmissionPolicy 'm' with binding 'mb' denied request: may not mutate "
        "metadata.name"
    )


@pytest.mark.parametrize(
    ("text", "maps"),
    [
        ("Object{spec: Object.spec{replicas: 1}}", '{"spec": {"replicas": 1}}'),
        ('Object{a: "x{y: z}", b: {"k": object.c}}', '{"a": "x{y: z}", "b": {"k": object.c}}'),
        ("Object{a: has(object.b) ? object.b : 1}", '{"a": has(object.b) ? object.b : 1}'),
        ("Object{?a: object.?b}", '{?"a": object.?b}'),
        ("[JSONPatch{op: 'add', path: p}]", '[{"op": \'add\', "path": p}]'),
        ("object.Object.x == {'Object': 1}.Object", "object.Object.x == {'Object': 1}.Object"),
    ],
)
def test_constructions_become_maps(text: str, maps: str) -> None:
    assert policycel.to_maps(text) == maps


# --- the example


async def test_the_example_allows_only_our_registries(bench: Any, make: Any) -> None:
    for document in yaml.safe_load_all((EXAMPLES / "image-registry-policy.yaml").read_text()):
        info = SCHEME.for_object(document)
        assert info is not None
        namespace = document["metadata"].get("namespace", "") if info.namespaced else ""
        if namespace and namespace != "kube-system":
            namespace = "default"
        await bench.create(info.name, document, namespace)
    e = await refusal(bench.create("pods", make.pod("p")))
    assert e.message == (
        "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'image-registry.example.com' with binding "
        "'image-registry.example.com' denied request: images must come from registry.example.com/, "
        "docker.io/library/; not so: i:1"
    )
    good = make.pod("p", containers=[{"name": "c", "image": "registry.example.com/web:1"}])
    await bench.create("pods", good)
    assert "not so: i:1" in (await refusal(bench.create("deployments.apps", make.deployment()))).message
