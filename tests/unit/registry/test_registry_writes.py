"""Create, update, modify, patch: strategies, conflicts, subresources, dry run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from cluster.api.errors import FenceLost
from cluster.api.scheme import SCHEME
from cluster.registry.admission import Admission
from tests.support.api_errors import refusal

DEPLOYMENTS = SCHEME.named("deployments.apps")
PODS = SCHEME.named("pods")


async def test_create_stamps_and_resets(bench: Any, make: Any) -> None:
    sent = make.deployment()
    sent["metadata"].update(uid="mine", generation=7, creationTimestamp="2001-01-01T00:00:00Z")
    sent["status"] = {"replicas": 9}
    before = repr(sent)
    made = (await bench.create("deployments.apps", sent)).obj
    assert repr(sent) == before
    assert made["metadata"]["uid"] != "mine"
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert made["status"] == {}
    assert made["metadata"]["managedFields"][0]["manager"] == "test"
    assert (await bench.get("deployments.apps", "d")).obj == made


async def test_create_conflicts_and_addresses(bench: Any, make: Any) -> None:
    await bench.create("configmaps", {"metadata": {"name": "x"}})
    assert (await refusal(bench.create("configmaps", {"metadata": {"name": "x"}}))).reason == "AlreadyExists"
    e = await refusal(bench.create("configmaps", {"metadata": {"name": "x", "namespace": "other"}}))
    assert e.message == "the namespace of the provided object does not match the namespace sent on the request"
    assert (await refusal(bench.create("configmaps", {"metadata": {"name": "y", "resourceVersion": "1"}}))).code == 400
    assert (await refusal(bench.create("configmaps", {"kind": "Secret", "metadata": {"name": "y"}}))).code == 400
    e = await refusal(bench.create("configmaps", {"metadata": {"name": "x"}}, "nowhere"))
    assert (e.code, e.message) == (404, 'namespaces "nowhere" not found')


async def test_generate_name(bench: Any) -> None:
    names = {
        (await bench.create("configmaps", {"metadata": {"generateName": "x-"}})).obj["metadata"]["name"]
        for _ in range(9)
    }
    assert len(names) == 9
    assert all(n.startswith("x-") and len(n) == 7 for n in names)


async def test_update_checks_the_revision_and_bumps_generation(bench: Any, make: Any) -> None:
    made = await bench.create("deployments.apps", make.deployment())
    obj = made.fresh()
    obj["spec"]["replicas"] = 5
    new = await bench.registry.update(bench.ctx, DEPLOYMENTS, "default", "d", obj)
    assert new.obj["metadata"]["generation"] == 2
    e = await refusal(bench.registry.update(bench.ctx, DEPLOYMENTS, "default", "d", obj))
    assert e.reason == "Conflict"
    assert "please apply your changes to the latest version" in e.message
    obj["metadata"].pop("resourceVersion")
    obj["metadata"]["labels"] = {"x": "y"}
    unconditional = await bench.registry.update(bench.ctx, DEPLOYMENTS, "default", "d", obj)
    assert unconditional.obj["metadata"]["generation"] == 2


async def test_a_write_that_changes_nothing_makes_no_revision(bench: Any, make: Any) -> None:
    made = await bench.create("deployments.apps", make.deployment())
    txns = bench.store.txns
    same = await bench.registry.update(bench.ctx, DEPLOYMENTS, "default", "d", made.fresh())
    assert (same.revision, bench.store.txns) == (made.revision, txns)


async def test_status_and_spec_are_apart(bench: Any, make: Any) -> None:
    await bench.create("deployments.apps", make.deployment())

    def both(obj: dict[str, Any]) -> dict[str, Any]:
        obj["spec"]["replicas"] = 8
        obj["status"] = {"replicas": 3}
        return obj

    main = await bench.registry.modify(bench.ctx, DEPLOYMENTS, "default", "d", both)
    assert (main.obj["spec"]["replicas"], main.obj["status"]) == (8, {})

    def status(obj: dict[str, Any]) -> dict[str, Any]:
        obj["spec"]["replicas"] = 1
        obj["status"] = {"replicas": 3}
        return obj

    sub = await bench.registry.modify(bench.ctx, DEPLOYMENTS, "default", "d", status, subresource="status")
    assert (sub.obj["spec"]["replicas"], sub.obj["status"]) == (8, {"replicas": 3})
    assert sub.obj["metadata"]["generation"] == main.obj["metadata"]["generation"]


async def test_who_writes_a_status_is_not_warned_of_the_spec(bench: Any) -> None:
    old = {"service.kubernetes.io/topology-aware-hints": "Auto"}
    await bench.create("services", {"metadata": {"name": "s", "annotations": old}, "spec": {"ports": [{"port": 80}]}})
    assert any("topology-aware-hints" in text for text in bench.ctx.warnings)
    bench.ctx.warnings.clear()

    def status(obj: dict[str, Any]) -> dict[str, Any]:
        return obj | {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}

    await bench.registry.modify(bench.ctx, SCHEME.named("services"), "default", "s", status, subresource="status")
    assert bench.ctx.warnings == []


async def test_modify_retries_when_someone_was_faster(bench: Any) -> None:
    info = SCHEME.named("configmaps")
    await bench.create("configmaps", {"metadata": {"name": "x"}, "data": {"n": "0"}})
    other = bench.another()
    raced = False

    async def race() -> None:
        await other.modify(bench.ctx, info, "default", "x", lambda o: {**o, "data": {**o["data"], "other": "1"}})

    real = bench.registry._core.commit

    async def commit(ctx: Any, plan: Any, **options: Any) -> int:
        nonlocal raced
        if not raced:
            raced = True
            await race()
        return int(await real(ctx, plan, **options))

    bench.registry._core.commit = commit
    out = await bench.registry.modify(bench.ctx, info, "default", "x", lambda o: {**o, "data": {**o["data"], "n": "1"}})
    assert out.obj["data"] == {"n": "1", "other": "1"}


async def test_patches(bench: Any, make: Any) -> None:
    await bench.create("deployments.apps", make.deployment())

    async def patch(kind: str, body: Any, **options: Any) -> dict[str, Any]:
        media = f"application/{kind}"
        stored = await bench.registry.patch(bench.ctx, DEPLOYMENTS, "default", "d", media, body, **options)
        return dict(stored.obj)

    image = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}}}
    out = await patch("strategic-merge-patch+json", image)
    assert out["spec"]["template"]["spec"]["containers"][0]["image"] == "i:2"
    assert out["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    out = await patch("merge-patch+json; charset=utf-8", b'{"metadata":{"labels":{"a":"b"}}}')
    assert out["metadata"]["labels"] == {"a": "b"}
    out = await patch("json-patch+json", [{"op": "replace", "path": "/spec/replicas", "value": 7}])
    assert out["spec"]["replicas"] == 7
    e = await refusal(patch("merge-patch+json", {"metadata": {"resourceVersion": "1"}}))
    assert e.reason == "Conflict"
    assert (await refusal(patch("merge-patch+json", {"metadata": {"name": "z"}}))).code == 400
    assert (await refusal(patch("xml", {}))).code == 415
    assert (await refusal(patch("merge-patch+json", b"{"))).code == 400
    e = await refusal(patch("merge-patch+json", {"spec": {"selector": {"matchLabels": {"app": "z"}}}}))
    assert e.reason == "Invalid"


@pytest.mark.parametrize(
    ("media", "patch", "message"),
    [
        (
            "strategic-merge-patch",
            {"metadata": {"labels": "no", "annotations": {"a": "b"}}},
            r'Invalid value: "map[metadata:map[annotations:map[a:b] labels:no]]": cannot restore map from string',
        ),
        (
            "strategic-merge-patch",
            {"spec": {"replicas": "x"}},
            'Invalid value: "map[spec:map[replicas:x]]": unrecognized type: int32',
        ),
        (
            "merge-patch",
            {"spec": {"replicas": "x"}},
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
    ],
)
async def test_a_patch_that_fits_no_type_is_invalid(
    bench: Any, make: Any, media: str, patch: dict[str, Any], message: str
) -> None:
    await bench.create("deployments.apps", make.deployment())
    asked = bench.registry.patch(bench.ctx, DEPLOYMENTS, "default", "d", f"application/{media}+json", patch)
    e = await refusal(asked)
    (cause,) = e.details["causes"]
    assert (e.code, e.reason, cause["field"]) == (422, "Invalid", "patch")
    assert cause["message"].endswith(message)


async def test_revision_zero_is_none(bench: Any, make: Any) -> None:
    await bench.create("deployments.apps", make.deployment())
    wish = make.deployment(replicas=5)
    wish["metadata"]["resourceVersion"] = "0"
    out = await bench.registry.update(bench.ctx, DEPLOYMENTS, "default", "d", wish)
    assert out.obj["spec"]["replicas"] == 5


async def test_a_pod_may_be_put_again_as_its_manifest_says(bench: Any, make: Any) -> None:
    manifest = make.pod(serviceAccountName="default", automountServiceAccountToken=False)
    made = await bench.create("pods", manifest)
    again = {**manifest, "metadata": {**manifest["metadata"], "annotations": {"a": "b"}}}
    out = await bench.registry.update(bench.ctx, PODS, "default", "p", again)
    assert out.obj["spec"] == made.obj["spec"] and out.obj["spec"]["preemptionPolicy"] == "PreemptLowerPriority"


@pytest.mark.parametrize(
    ("kind", "version", "message"),
    [
        ("Pod", "v1", 'Pod in version "v1" cannot be handled as a HorizontalPodAutoscaler: converting (v1.Pod) to '
         "(autoscaling.HorizontalPodAutoscaler): unknown conversion"),
        ("HorizontalPodAutoscaler", "autoscaling/v1", "the API version in the data (autoscaling/v1) does not match the "
         "expected API version (autoscaling/v2)"),
        ("Pod", "v9", 'Pod in version "v9" cannot be handled as a HorizontalPodAutoscaler: no kind "Pod" is registered '
         'for version "v9" in scheme'),
    ],
)  # fmt: skip
async def test_what_belongs_elsewhere_is_refused(bench: Any, kind: str, version: str, message: str) -> None:
    body = {"kind": kind, "apiVersion": version, "metadata": {"name": "x"}}
    e = await refusal(bench.create("horizontalpodautoscalers.autoscaling", body))
    assert (e.code, e.message) == (400, message)


async def test_who_owns_nothing_is_no_manager(bench: Any) -> None:
    made = await bench.create("configmaps", {"metadata": {"name": "empty"}})
    assert "managedFields" not in made.obj["metadata"]


async def test_a_scale_patch_that_fits_no_type_is_invalid(bench: Any, make: Any) -> None:
    await bench.create("deployments.apps", make.deployment())
    media, patch = "application/merge-patch+json", {"spec": {"replicas": "x"}}
    e = await refusal(bench.registry.patch(bench.ctx, DEPLOYMENTS, "default", "d", media, patch, subresource="scale"))
    assert (e.code, e.reason) == (422, "Invalid")
    assert "cannot unmarshal string into Go struct field ScaleSpec.spec.replicas of type int32" in e.message
    assert (await bench.get("deployments.apps", "d")).obj["spec"]["replicas"] == 2


LEASES = SCHEME.named("leases.coordination.k8s.io")


@pytest.mark.parametrize("version", [{}, {"resourceVersion": "0"}, {"resourceVersion": ""}])
async def test_some_kinds_are_replaced_at_a_revision_only(bench: Any, version: dict[str, str]) -> None:
    made = (await bench.create(LEASES.name, {"metadata": {"name": "l"}})).obj
    body = {"metadata": {"name": "l", **version}, "spec": {"holderIdentity": "me"}}
    e = await refusal(bench.registry.update(bench.ctx, LEASES, "default", "l", body))
    assert (e.code, e.message) == (
        422,
        'leases.coordination.k8s.io "l" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for '
        "an update",
    )
    body["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    out = await bench.registry.update(bench.ctx, LEASES, "default", "l", body)
    assert (out.obj["spec"], out.created) == ({"holderIdentity": "me"}, False)


async def test_replacing_what_is_not_there_creates_some_kinds(bench: Any) -> None:
    body = {"metadata": {"name": "l", "resourceVersion": "7"}, "spec": {"holderIdentity": "me"}}
    out = await bench.registry.update(bench.ctx, LEASES, "default", "l", body)
    assert (out.created, out.obj["spec"]) == (True, {"holderIdentity": "me"})
    e = await refusal(bench.registry.update(bench.ctx, LEASES, "nowhere", "l", {"metadata": {"name": "l"}}))
    assert (e.code, e.message) == (404, 'namespaces "nowhere" not found')
    maps = SCHEME.named("configmaps")
    e = await refusal(bench.registry.update(bench.ctx, maps, "default", "l", {"metadata": {"name": "l"}}))
    assert (e.code, e.message) == (404, 'configmaps "l" not found')


@pytest.mark.parametrize("resource", [LEASES.name, "configmaps"])
async def test_a_replacement_of_an_object_that_is_gone_makes_no_other(bench: Any, resource: str) -> None:
    info = SCHEME.named(resource)
    made = (await bench.create(resource, {"metadata": {"name": "l"}})).fresh()
    await bench.delete(resource, "l")
    e = await refusal(bench.registry.update(bench.ctx, info, "default", "l", made))
    said = f"Precondition failed: UID in precondition: {made['metadata']['uid']}, UID in object meta: "
    assert (e.code, e.reason, e.message.endswith(said)) == (409, "Conflict", True)
    assert "StorageError: invalid object, Code: 4, Key: /registry/" in e.message
    assert not [k for k in bench.keys("/registry/") if k.endswith("/default/l")]


async def test_a_replacement_that_another_creates_first_replaces_it(bench: Any, monkeypatch: Any) -> None:
    events = SCHEME.named("events")
    involved = {"kind": "Pod", "name": "p", "namespace": "default"}
    body = {"metadata": {"name": "e"}, "involvedObject": involved, "message": "mine"}
    create = bench.registry._writer.create

    async def overtaken(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()
        await bench.create("events", body | {"message": "another's"})
        return await create(*args, **options)

    monkeypatch.setattr(bench.registry._writer, "create", overtaken)
    out = await bench.registry.update(bench.ctx, events, "default", "e", body)
    assert (out.created, out.obj["message"]) == (False, "mine")


async def test_scale(bench: Any, make: Any) -> None:
    await bench.create("deployments.apps", make.deployment())
    scale = (await bench.get("deployments.apps", "d", subresource="scale")).fresh()
    assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == ("Scale", {"replicas": 2}, "app=d")
    scale["spec"]["replicas"] = 4
    out = await bench.registry.update(bench.ctx, DEPLOYMENTS, "default", "d", scale, subresource="scale")
    assert out.obj["spec"] == {"replicas": 4}
    assert (await bench.get("deployments.apps", "d")).obj["spec"]["replicas"] == 4
    assert (
        await refusal(bench.registry.update(bench.ctx, DEPLOYMENTS, "default", "d", scale, subresource="scale"))
    ).code == 409
    media = "application/merge-patch+json"
    out = await bench.registry.patch(
        bench.ctx, DEPLOYMENTS, "default", "d", media, {"spec": {"replicas": 0}}, subresource="scale"
    )
    assert out.obj["spec"] == {"replicas": 0}


async def test_apply_creates_then_merges(bench: Any, make: Any) -> None:
    wish = {"apiVersion": "apps/v1", "kind": "Deployment", **make.deployment()}
    ctx = replace(bench.ctx, field_manager="me")
    media = "application/apply-patch+yaml"
    made = await bench.registry.patch(ctx, DEPLOYMENTS, "default", "d", media, wish)
    assert [(e["manager"], e["operation"]) for e in made.obj["metadata"]["managedFields"]] == [("me", "Apply")]
    await bench.registry.modify(
        bench.ctx, DEPLOYMENTS, "default", "d", lambda o: {**o, "spec": {**o["spec"], "replicas": 9}}
    )
    e = await refusal(bench.registry.patch(ctx, DEPLOYMENTS, "default", "d", media, wish))
    assert e.reason == "Conflict"
    assert 'conflict with "test"' in e.message
    forced = await bench.registry.patch(ctx, DEPLOYMENTS, "default", "d", media, wish, force=True)
    assert forced.obj["spec"]["replicas"] == 2
    again = await bench.registry.patch(ctx, DEPLOYMENTS, "default", "d", media, wish)
    assert again.revision == forced.revision
    assert (
        await refusal(bench.registry.patch(replace(ctx, field_manager=""), DEPLOYMENTS, "default", "d", media, wish))
    ).code == 422


async def test_kubectl_goes_over_to_server_side_apply(bench: Any) -> None:
    info = SCHEME.named("configmaps")
    annotation = "kubectl.kubernetes.io/last-applied-configuration"

    def wish(**data: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "c", "namespace": "default"},
            "data": data,
        }

    async def apply(manager: str, **data: str) -> dict[str, Any]:
        ctx = replace(bench.ctx, field_manager=manager)
        stored = await bench.registry.patch(ctx, info, "default", "c", "application/apply-patch+yaml", wish(**data))
        return dict(stored.obj)

    made = wish(a="1", b="1")
    made["metadata"]["annotations"] = {annotation: orjson.dumps(wish(a="1", b="1")).decode()}
    bench.ctx = replace(bench.ctx, field_manager="kubectl-client-side-apply")
    await bench.create("configmaps", made)
    assert (await refusal(apply("another", a="2"))).reason == "Conflict"
    out = await apply("kubectl", a="2", b="1")
    assert out["data"] == {"a": "2", "b": "1"}
    assert orjson.loads(out["metadata"]["annotations"][annotation]) == wish(a="2", b="1")
    await bench.registry.modify(bench.ctx, info, "default", "c", lambda o: {**o, "data": {"a": "2", "b": "theirs"}})
    e = await refusal(apply("kubectl", a="2", b="3"))
    assert [cause["field"] for cause in e.details["causes"]] == [".data.b"]


async def test_dry_run_stores_nothing(bench: Any, make: Any) -> None:
    bench.ctx = replace(bench.ctx, dry_run=True)
    revision = bench.store.revision
    assert (await bench.create("pods", make.pod())).obj["spec"]["priority"] == 0
    assert bench.store.revision == revision
    assert (await refusal(bench.create("pods", make.pod(), "nowhere"))).code == 404


async def test_a_lost_fence_is_told_apart(bench: Any) -> None:
    await bench.store.txn([], [("put", b"/sk8/leader/x", b"me", 0)])
    held = (await bench.store.range(b"/sk8/leader/x")).kvs[0].create_revision
    bench.ctx = bench.ctx.with_fence((b"/sk8/leader/x", "create", "=", held))
    await bench.create("configmaps", {"metadata": {"name": "ok"}})
    await bench.store.txn([], [("delete", b"/sk8/leader/x", None)])
    with pytest.raises(FenceLost):
        await bench.create("configmaps", {"metadata": {"name": "no"}})
    assert bench.keys("/registry/core/configmaps/default/no") == []


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [("outcome_unknown", 504, "Timeout"), ("unavailable", 503, "ServiceUnavailable"),
     ("too_large", 413, "RequestEntityTooLarge"), ("no_space", 500, "InternalError")],
)  # fmt: skip
async def test_store_errors_are_named(bench: Any, code: str, status: int, reason: str) -> None:
    bench.store.fail = code
    e = await refusal(bench.create("configmaps", {"metadata": {"name": "x"}}))
    assert (e.code, e.reason) == (status, reason)


async def test_secrets_are_sealed_and_fold_string_data(bench: Any) -> None:
    made = await bench.create("secrets", {"metadata": {"name": "x"}, "stringData": {"password": "hunter2"}})
    assert made.obj["data"] == {"password": "aHVudGVyMg=="}
    assert "stringData" not in made.obj
    value = bench.store._live[b"/registry/core/secrets/default/x"].value
    assert b"aHVudGVyMg" not in value
    assert (await bench.get("secrets", "x")).obj == made.obj


async def test_events_expire(bench: Any) -> None:
    for name in ("a", "b"):
        await bench.create("events", {"metadata": {"name": name}, "involvedObject": {"namespace": "default"}})
    assert len(bench.store._leases) == 1
    bench.now += 3000
    bench.store.tick()
    assert len(bench.keys("/registry/core/events/")) == 2
    bench.now += 700
    bench.store.tick()
    assert bench.keys("/registry/core/events/") == []


async def test_a_lost_event_lease_is_granted_anew(bench: Any) -> None:
    await bench.create("events", {"metadata": {"name": "a"}, "involvedObject": {"namespace": "default"}})
    await bench.store.lease_revoke(next(iter(bench.store._leases)))
    await bench.create("events", {"metadata": {"name": "b"}, "involvedObject": {"namespace": "default"}})
    assert bench.keys("/registry/core/events/") == ["/registry/core/events/default/b"]


async def test_strict_validation(bench: Any, make: Any) -> None:
    bad = make.pod()
    bad["spec"]["oops"] = 1
    bench.ctx = replace(bench.ctx, field_validation="Strict")
    e = await refusal(bench.create("pods", bad))
    assert 'strict decoding error: unknown field "spec.oops"' in e.message
    bench.ctx = replace(bench.ctx, field_validation="Warn")
    await bench.create("pods", bad)
    assert bench.ctx.warnings == ['unknown field "spec.oops"']


async def test_an_apply_names_each_item_once(bench: Any, make: Any) -> None:
    body = make.deployment()
    body.update(apiVersion="apps/v1", kind="Deployment")
    body["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A"}, {"name": "A"}]
    media = "application/apply-patch+yaml"
    e = await refusal(bench.registry.patch(bench.ctx, DEPLOYMENTS, "default", "d", media, body))
    assert (e.code, e.message) == (
        400,
        "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): "
        '.spec.template.spec.containers[name="c"].env: duplicate entries for key [name="A"]',
    )


async def test_an_owner_that_is_named_twice_is_kept_once(bench: Any) -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}
    other = {**owner, "name": "q"}
    made = await bench.create("configmaps", {"metadata": {"name": "x", "ownerReferences": [owner, other, owner]}})
    assert made.obj["metadata"]["ownerReferences"] == [owner, other]
    assert [w for w in bench.ctx.warnings if "ownerReferences" in w] == [
        ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may "
        "reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: u"
    ]


async def test_an_owner_that_admission_names_again_is_kept_once(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}

    async def mutate(self: Admission, request: Any) -> None:
        request.obj["metadata"].setdefault("ownerReferences", []).append(dict(owner))

    monkeypatch.setattr(Admission, "mutate", mutate)
    refs = {"ownerReferences": [owner]}
    made = await bench.create("configmaps", {"metadata": {"name": "x", **refs}})
    assert made.obj["metadata"]["ownerReferences"] == [owner]
    said = [w for w in bench.ctx.warnings if "ownerReferences" in w]
    assert len(said) == 1 and "duplicate entries after mutating admission happens; API server" in said[0]
    body = {"metadata": {"name": "x", "labels": {"a": "b"}, **refs}}
    changed = await bench.registry.update(bench.ctx, SCHEME.named("configmaps"), "default", "x", body)
    assert changed.obj["metadata"]["ownerReferences"] == [owner]
