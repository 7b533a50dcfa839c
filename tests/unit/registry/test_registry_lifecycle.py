"""Deletion, namespaces, binding, eviction."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry.context import internal_context
from cluster.registry.types import Binding, DeleteOptions
from tests.support.api_errors import refusal

PODS = SCHEME.named("pods")


async def test_unscheduled_pod_goes_at_once(bench: Any, make: Any) -> None:
    await bench.create("pods", make.pod())
    assert (await bench.delete("pods", "p")).removed
    assert (await refusal(bench.get("pods", "p"))).code == 404


async def test_scheduled_pod_waits_for_its_kubelet(bench: Any, make: Any) -> None:
    await bench.create("pods", make.pod())
    assert await bench.registry.bind(bench.ctx, [Binding("default", "p", "", "m1")]) == [None]
    marked = await bench.delete("pods", "p")
    assert not marked.removed
    assert marked.obj["metadata"]["deletionGracePeriodSeconds"] == 30
    assert marked.obj["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:50Z"
    again = await bench.delete("pods", "p")
    assert again.revision == marked.revision
    shorter = await bench.delete("pods", "p", grace_period_s=5)
    assert shorter.obj["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:25Z"
    assert (await bench.delete("pods", "p", grace_period_s=0)).removed


async def test_terminal_pod_needs_no_grace(bench: Any, make: Any) -> None:
    await bench.create("pods", make.pod())
    await bench.registry.bind(bench.ctx, [Binding("default", "p", "", "m1")])

    def failed(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "status": {**obj["status"], "phase": "Failed"}}

    await bench.registry.modify(bench.ctx, PODS, "default", "p", failed, subresource="status")
    assert (await bench.delete("pods", "p")).removed


async def test_preconditions(bench: Any) -> None:
    made = await bench.create("configmaps", {"metadata": {"name": "x"}})
    e = await refusal(bench.delete("configmaps", "x", uid="other"))
    assert (e.reason, e.message) == (
        "Conflict",
        'Operation cannot be fulfilled on ConfigMap "x": the UID in the precondition (other) does not match the UID in '
        f"record ({made.uid}). The object might have been deleted and then recreated",
    )
    assert (await refusal(bench.delete("configmaps", "x", resource_version="1"))).reason == "Conflict"
    assert (await refusal(bench.delete("configmaps", "x", propagation="Sideways"))).code == 422


async def test_finalizers_hold_until_the_last_is_gone(bench: Any) -> None:
    await bench.create("configmaps", {"metadata": {"name": "x", "finalizers": ["a.io/x"]}})
    marked = await bench.delete("configmaps", "x")
    assert "deletionTimestamp" in marked.obj["metadata"]
    e = await refusal(
        bench.registry.modify(
            bench.ctx, SCHEME.named("configmaps"), "default", "x",
            lambda o: {**o, "metadata": {**o["metadata"], "finalizers": ["a.io/x", "a.io/y"]}},
        )
    )  # fmt: skip
    assert e.reason == "Invalid"

    def release(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "metadata": {**obj["metadata"], "finalizers": []}}

    await bench.registry.modify(bench.ctx, SCHEME.named("configmaps"), "default", "x", release)
    assert (await refusal(bench.get("configmaps", "x"))).code == 404


async def test_propagation_becomes_finalizers(bench: Any, make: Any) -> None:
    await bench.create("deployments.apps", make.deployment("a"))
    await bench.create("deployments.apps", make.deployment("b"))
    await bench.create("deployments.apps", make.deployment("c"))
    foreground = await bench.delete("deployments.apps", "a", propagation="Foreground")
    assert foreground.obj["metadata"]["finalizers"] == ["foregroundDeletion"]
    orphan = await bench.delete("deployments.apps", "b", propagation="Orphan")
    assert orphan.obj["metadata"]["finalizers"] == ["orphan"]
    assert (await bench.delete("deployments.apps", "c", propagation="Background")).removed


@pytest.mark.parametrize("resource", ["jobs.batch", "replicationcontrollers"])
async def test_jobs_and_replication_controllers_leave_their_pods_unless_told(bench: Any, resource: str) -> None:
    """As batch/v1 and core/v1 of Kubernetes do; a finalizer or an option that says otherwise wins."""
    pods = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    pods["spec"]["restartPolicy"] = "Never" if resource == "jobs.batch" else "Always"
    for name in ("told-nothing", "told-background", "already-foreground"):
        await bench.create(resource, {"metadata": {"name": name}, "spec": {"template": pods}})
    assert (await bench.delete(resource, "told-nothing")).obj["metadata"]["finalizers"] == ["orphan"]
    assert (await bench.delete(resource, "told-background", propagation="Background")).removed
    await bench.delete(resource, "already-foreground", propagation="Foreground")
    again = await bench.delete(resource, "already-foreground")
    assert again.obj["metadata"]["finalizers"] == ["foregroundDeletion"]


async def test_who_deletes_a_job_and_says_nothing_of_its_pods_is_warned(bench: Any) -> None:
    pods = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}
    for name in ("a", "b"):
        await bench.create("jobs.batch", {"metadata": {"name": name}, "spec": {"template": pods}})
    await bench.delete("jobs.batch", "a", propagation="Orphan")
    assert bench.ctx.warnings == []
    await bench.delete("jobs.batch", "b")
    assert [w.split(";")[0] for w in bench.ctx.warnings] == [
        "child pods are preserved by default when jobs are deleted"
    ]


async def test_namespace_lives_and_dies(bench: Any) -> None:
    made = await bench.create("namespaces", {"metadata": {"name": "n"}}, "")
    assert made.obj["metadata"]["labels"] == {"kubernetes.io/metadata.name": "n"}
    assert made.obj["status"] == {"phase": "Active"}
    await bench.create("configmaps", {"metadata": {"name": "x"}}, "n")
    dying = await bench.delete("namespaces", "n", "")
    assert dying.obj["status"] == {"phase": "Terminating"}
    e = await refusal(bench.create("configmaps", {"metadata": {"name": "y"}}, "n"))
    assert e.code == 403
    assert "because it is being terminated" in e.message
    assert e.details is not None and e.details["causes"][0]["reason"] == "NamespaceTerminating"
    obj = dying.fresh()
    obj["spec"]["finalizers"] = []
    await bench.registry.update(bench.ctx, SCHEME.named("namespaces"), "", "n", obj, subresource="finalize")
    assert (await refusal(bench.get("namespaces", "n", ""))).code == 404
    assert bench.keys("/sk8/nsphase/n") == []
    assert (await refusal(bench.delete("namespaces", "default", ""))).code == 403


async def test_bind_is_one_transaction_for_the_batch(bench: Any, make: Any) -> None:
    for i in range(5):
        await bench.create("pods", make.pod(f"p{i}"))
    txns = bench.store.txns
    batch = [Binding("default", f"p{i}", "", "m1") for i in range(5)]
    assert await bench.registry.bind(bench.ctx, batch) == [None] * 5
    assert bench.store.txns == txns + 1
    bound = (await bench.get("pods", "p0")).obj
    assert bound["spec"]["nodeName"] == "m1"
    assert [(c["type"], c["status"]) for c in bound["status"]["conditions"]] == [("PodScheduled", "True")]


async def test_bind_tells_each_outcome(bench: Any, make: Any) -> None:
    for name in ("a", "b"):
        await bench.create("pods", make.pod(name))
    await bench.registry.bind(bench.ctx, [Binding("default", "a", "", "m1")])
    out = await bench.registry.bind(
        bench.ctx,
        [Binding("default", "a", "", "m2"), Binding("default", "b", "", "m2"), Binding("default", "z", "", "m2"),
         Binding("default", "b", "wrong-uid", "m2")],
    )  # fmt: skip
    assert [e.reason if e else "" for e in out] == ["Conflict", "", "NotFound", "Conflict"]
    assert (await bench.get("pods", "a")).obj["spec"]["nodeName"] == "m1"


async def test_bind_falls_back_when_one_pod_changed_meanwhile(bench: Any, make: Any) -> None:
    for name in ("a", "b"):
        await bench.create("pods", make.pod(name))
    core, once = bench.registry._core, False
    real = core.commit

    async def commit(ctx: Any, plan: Any, **how: Any) -> int:
        nonlocal once
        if not once:
            once = True
            await bench.another().bind(bench.ctx, [Binding("default", "a", "", "m9")])
        return int(await real(ctx, plan, **how))

    core.commit = commit
    out = await bench.registry.bind(bench.ctx, [Binding("default", n, "", "m1") for n in ("a", "b")])
    assert [e.reason if e else "" for e in out] == ["Conflict", ""]


async def test_pods_that_belong_together_are_bound_all_or_none(bench: Any, make: Any) -> None:
    for name in ("a", "b", "c"):
        await bench.create("pods", make.pod(name))
    await bench.registry.bind(bench.ctx, [Binding("default", "b", "", "m9")])
    wanted = [Binding("default", name, "", "m1") for name in ("a", "b", "c")]
    out = await bench.registry.bind(bench.ctx, wanted, together=True)
    assert [e is not None and e.code for e in out] == [409, 409, 409]
    assert "because pod b, which it must run together with" in out[0].message
    assert "nodeName" not in (await bench.get("pods", "a")).obj["spec"]
    assert await bench.registry.bind(bench.ctx, [wanted[0], wanted[2]], together=True) == [None, None]


async def test_pods_bound_together_are_tried_again_when_one_changed_meanwhile(bench: Any, make: Any) -> None:
    for name in ("a", "b"):
        await bench.create("pods", make.pod(name))
    raced = False

    async def racing(*args: Any, **kwargs: Any) -> Any:
        nonlocal raced
        if not raced:
            raced = True
            body = (await bench.get("pods", "a")).fresh()
            body["metadata"]["labels"] = {"touched": "yes"}
            await bench.another().update(bench.ctx, PODS, "default", "a", body)
        return await commit(*args, **kwargs)

    core = bench.registry._binder._core
    commit = core.commit
    core.commit = racing
    wanted = [Binding("default", name, "", "m1") for name in ("a", "b")]
    assert await bench.registry.bind(bench.ctx, wanted, together=True) == [None, None]
    assert (await bench.get("pods", "a")).obj["metadata"]["labels"] == {"touched": "yes"}


async def test_bind_reads_nothing_of_pods_that_the_caller_knows(bench: Any, make: Any, monkeypatch: Any) -> None:
    known = {("default", n): await bench.create("pods", make.pod(n)) for n in ("a", "b")}
    before = {key: copy.deepcopy(stored.obj) for key, stored in known.items()}

    read, real = [], bench.store.range

    async def noted(key: bytes, *args: Any, **options: Any) -> Any:
        read.append(key.decode())
        return await real(key, *args, **options)

    with monkeypatch.context() as m:
        m.setattr(bench.store, "range", noted)
        assert await bench.registry.bind(bench.ctx, _to("m1", "a", "b"), known) == [None, None]
    assert [key for key in read if "/pods/" in key] == []
    bound = await bench.get("pods", "a")
    assert bound.obj["spec"] == before["default", "a"]["spec"] | {"nodeName": "m1"}
    assert {key: stored.obj for key, stored in known.items()} == before, "what is known is shared"


async def test_bind_believes_no_old_knowledge(bench: Any, make: Any) -> None:
    known = {("default", n): await bench.create("pods", make.pod(n)) for n in ("changed", "fine", "gone", "gated")}
    await bench.registry.modify(
        bench.ctx,
        SCHEME.named("pods"),
        "default",
        "changed",
        lambda o: o | {"metadata": o["metadata"] | {"labels": {"a": "b"}}},
    )
    await bench.delete("pods", "gone", grace_period_s=0)
    gates = {"schedulingGates": [{"name": "wait"}]}
    known["default", "gated"] = await bench.create("pods", make.pod("once-gated", **gates))
    out = await bench.registry.bind(bench.ctx, _to("m1", "changed", "fine", "gone", "gated"), known)
    assert [e.reason if e else "" for e in out] == ["", "", "NotFound", ""]
    changed = (await bench.get("pods", "changed")).obj
    assert (changed["metadata"]["labels"], changed["spec"]["nodeName"]) == ({"a": "b"}, "m1")


def _to(node: str, *names: str) -> list[Binding]:
    return [Binding("default", name, "", node) for name in names]


async def test_binding_subresource_and_eviction(bench: Any, make: Any) -> None:
    await bench.create("pods", make.pod())
    body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "m1"}}
    await bench.create("pods", body, subresource="binding", name="p")
    assert (await bench.get("pods", "p")).obj["spec"]["nodeName"] == "m1"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    gone = await bench.create("pods", eviction, subresource="eviction", name="p")
    assert "deletionTimestamp" in gone.obj["metadata"]


async def test_delete_collection(bench: Any) -> None:
    for i in range(4):
        await bench.create("configmaps", {"metadata": {"name": f"x{i}", "labels": {"n": str(i % 2)}}})
    from cluster.api.selectors import parse_label_selector

    info = SCHEME.named("configmaps")
    gone = await bench.registry.delete_collection(
        bench.ctx, info, "default", DeleteOptions(), label_selector=parse_label_selector("n=1")
    )
    assert [s.obj["metadata"]["name"] for s in gone.items] == ["x1", "x3"]
    assert len((await bench.registry.list(bench.ctx, info, "default")).items) == 2


async def test_the_systems_priority_classes_stay(bench: Any) -> None:
    body = {"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}
    await bench.registry.create(internal_context("test"), SCHEME.named("priorityclasses.scheduling.k8s.io"), "", body)
    with pytest.raises(ApiError, match="this is a system priority class and cannot be deleted"):
        await bench.delete("priorityclasses.scheduling.k8s.io", "system-node-critical", "")
