"""Admission: accounts, priority, tolerations, storage defaults, node restriction."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from cluster.api.scheme import SCHEME
from cluster.registry.context import UserInfo
from cluster.registry.types import Binding, RegistryConfig
from tests.support.api_errors import refusal

NODE = UserInfo("system:node:m1", groups=("system:nodes", "system:authenticated"))


async def test_pods_get_an_account_and_its_token(bench: Any, make: Any) -> None:
    spec = (await bench.create("pods", make.pod())).obj["spec"]
    assert spec["serviceAccountName"] == "default"
    mount = spec["containers"][0]["volumeMounts"][0]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    assert mount["name"].startswith("kube-api-access-") and mount["name"] == spec["volumes"][0]["name"]
    assert "serviceAccountToken" in spec["volumes"][0]["projected"]["sources"][0]
    bare = (await bench.create("pods", make.pod("q", automountServiceAccountToken=False))).obj["spec"]
    assert "volumes" not in bare
    e = await refusal(bench.create("pods", make.pod("r", serviceAccountName="ghost")))
    assert e.message == (
        'pods "r" is forbidden: error looking up service account default/ghost: serviceaccount "ghost" not found'
    )


async def test_a_namespace_and_its_pods_come_in_one_file(bench: Any, make: Any) -> None:
    """The controller that makes a namespace's default account is a moment behind; another account is not waited for."""
    await bench.create("namespaces", {"metadata": {"name": "new"}}, "")
    pod = asyncio.create_task(bench.create("pods", make.pod(), "new"))
    await asyncio.sleep(0)
    await bench.create("serviceaccounts", {"metadata": {"name": "default"}}, "new")
    assert (await pod).obj["spec"]["serviceAccountName"] == "default"
    await bench.delete("serviceaccounts", "default", "new")
    refused = await asyncio.gather(*(refusal(bench.create("pods", make.pod(n), "new")) for n in ("p1", "p2")))
    assert [e.code for e in refused] == [403, 403]


async def test_a_namespace_that_goes_is_what_is_wrong_not_its_account(bench: Any, make: Any) -> None:
    await bench.create("namespaces", {"metadata": {"name": "old"}}, "")
    await bench.create("configmaps", {"metadata": {"name": "c"}}, "old")
    await bench.delete("namespaces", "old", "")
    refused = await refusal(bench.create("pods", make.pod(), "old"))
    assert refused.code == 403 and "being terminated" in refused.message


async def test_a_controller_that_lacks_an_account_says_the_same_each_time(bench: Any, make: Any) -> None:
    def made_by_a_controller() -> Any:
        pod = make.pod(serviceAccountName="ghost")
        return pod | {"metadata": {"generateName": "rs-"}}

    said = {(await refusal(bench.create("pods", made_by_a_controller()))).message for _ in range(2)}
    assert said == {
        'pods "rs-" is forbidden: error looking up service account default/ghost: serviceaccount "ghost" not found'
    }


async def test_a_remembered_account_that_changed_is_read_again(bench: Any, make: Any) -> None:
    await bench.create("pods", make.pod())
    other = bench.another()

    def secrets(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "imagePullSecrets": [{"name": "reg"}]}

    await other.modify(bench.ctx, SCHEME.named("serviceaccounts"), "default", "default", secrets)
    made = await bench.create("pods", make.pod("q"))
    assert made.obj["spec"]["imagePullSecrets"] == [{"name": "reg"}]


async def test_tolerations_for_lost_nodes(bench: Any, make: Any) -> None:
    spec = (await bench.create("pods", make.pod())).obj["spec"]
    assert [(t["key"], t["tolerationSeconds"]) for t in spec["tolerations"]] == [
        ("node.kubernetes.io/not-ready", 300),
        ("node.kubernetes.io/unreachable", 300),
    ]
    own = [{"operator": "Exists"}]
    assert (await bench.create("pods", make.pod("q", tolerations=own))).obj["spec"]["tolerations"] == own


async def test_priority(bench: Any, make: Any) -> None:
    await bench.create("priorityclasses.scheduling.k8s.io", {"metadata": {"name": "high"}, "value": 1000}, "")
    spec = (await bench.create("pods", make.pod(priorityClassName="high"))).obj["spec"]
    assert (spec["priority"], spec["preemptionPolicy"]) == (1000, "PreemptLowerPriority")
    e = await refusal(bench.create("pods", make.pod("q", priorityClassName="none")))
    assert e.message == 'pods "q" is forbidden: no PriorityClass with name none was found'
    assert (await refusal(bench.create("pods", make.pod("q", priority=5)))).code == 403
    bench.now += 10
    default = {"metadata": {"name": "normal"}, "value": 10, "globalDefault": True}
    await bench.create("priorityclasses.scheduling.k8s.io", default, "")
    bench.now += 10
    assert (await bench.create("pods", make.pod("r"))).obj["spec"]["priority"] == 10


async def test_claims_get_the_default_class_and_protection(bench: Any) -> None:
    marked = {"storageclass.kubernetes.io/is-default-class": "true"}
    for name, marks in (("block", marked), ("other", {})):
        obj = {"metadata": {"name": name, "annotations": marks}, "provisioner": "block.sk8.io"}
        await bench.create("storageclasses.storage.k8s.io", obj, "")
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = (await bench.create("persistentvolumeclaims", {"metadata": {"name": "c"}, "spec": spec})).obj
    assert claim["spec"]["storageClassName"] == "block"
    assert claim["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
    assert claim["status"] == {"phase": "Pending"}
    none = {"metadata": {"name": "d"}, "spec": {**spec, "storageClassName": ""}}
    assert (await bench.create("persistentvolumeclaims", none)).obj["spec"]["storageClassName"] == ""


async def test_node_restriction(bench: Any, make: Any) -> None:
    pods, nodes = SCHEME.named("pods"), SCHEME.named("nodes")
    for name in ("mine", "theirs"):
        await bench.create("pods", make.pod(name))
    await bench.registry.bind(bench.ctx, [Binding("default", "mine", "", "m1"), Binding("default", "theirs", "", "m2")])
    admin, bench.ctx = bench.ctx, replace(bench.ctx, user=NODE)

    def running(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "status": {**obj["status"], "phase": "Running"}}

    await bench.registry.modify(bench.ctx, pods, "default", "mine", running, subresource="status")
    e = await refusal(bench.registry.modify(bench.ctx, pods, "default", "theirs", running, subresource="status"))
    assert 'node "m1" can only update status for pods with spec.nodeName set to itself' in e.message
    assert (await refusal(bench.delete("pods", "theirs"))).code == 403
    assert (await refusal(bench.create("pods", make.pod("x")))).code == 403
    await bench.create("nodes", {"metadata": {"name": "m1"}}, "")
    assert (await refusal(bench.create("nodes", {"metadata": {"name": "m2"}}, ""))).code == 403

    def taint(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}

    assert (await refusal(bench.registry.modify(bench.ctx, nodes, "", "m1", taint))).code == 403
    await bench.registry.modify(admin, nodes, "", "m1", taint)
    await bench.delete("pods", "mine", grace_period_s=0)


async def test_a_machine_labels_itself_only_with_what_describes_it(bench: Any) -> None:
    await bench.create("nodes", {"metadata": {"name": "m1"}}, "")
    bench.ctx = replace(bench.ctx, user=NODE)

    async def label(key: str) -> None:
        def change(node: dict[str, Any]) -> dict[str, Any]:
            return {**node, "metadata": {**node["metadata"], "labels": {key: "x"}}}

        await bench.registry.modify(bench.ctx, SCHEME.named("nodes"), "", "m1", change)

    for fine in ("disk", "example.com/disk", "kubernetes.io/hostname", "node.kubernetes.io/instance-type"):
        await label(fine)
    for wrong in ("node-role.kubernetes.io/worker", "node-restriction.kubernetes.io/a", "k8s.io/b"):
        e = await refusal(label(wrong))
        assert f"is not allowed to modify labels: {wrong}" in e.message, e.message


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({}, ""),
        ({"serviceAccountName": "deployment-controller"}, "a mirror pod may not reference service accounts"),
        ({"imagePullSecrets": [{"name": "loot"}]}, "reference secrets"),
        ({"volumes": [{"name": "v", "secret": {"secretName": "loot"}}]}, "reference secrets"),
        ({"volumes": [{"name": "v", "configMap": {"name": "loot"}}]}, "reference configmaps"),
        ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "loot"}}]}, "reference persistentvolumecl"),
    ],
)
async def test_a_machine_gives_itself_no_right_to_read(bench: Any, make: Any, spec: Any, what: str) -> None:
    """Regression: a mirror pod that named a Secret made its machine a reader of that Secret."""
    bench.ctx = replace(bench.ctx, user=NODE)
    pod = make.pod(**spec)
    pod["spec"]["nodeName"] = "m1"
    pod["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "1"}
    if not what:
        assert (await bench.create("pods", pod)).obj["spec"]["nodeName"] == "m1"
        return
    e = await refusal(bench.create("pods", pod))
    assert e.code == 403
    assert what in e.message


async def test_a_kind_that_is_encrypted_stays_so_when_it_is_bound(bench: Any, make: Any) -> None:
    """Regression: binding wrote the Pod in clear."""
    config = RegistryConfig(encryption_keys={"k1": b"k" * 32}, encrypted_resources=("pods",))
    registry = bench.another(config=config)
    pods = SCHEME.named("pods")
    env = [{"name": "KEY", "value": "hushhush"}]
    await registry.create(bench.ctx, pods, "default", make.pod(containers=[{"name": "c", "image": "i:1", "env": env}]))
    assert await registry.bind(bench.ctx, [Binding("default", "p", "", "m1")]) == [None]
    (kv,) = (await bench.store.range(b"/registry/core/pods/default/p")).kvs
    assert b"hushhush" not in kv.value
    assert (await registry.get(bench.ctx, pods, "default", "p")).obj["spec"]["nodeName"] == "m1"


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_claim_grows_only_where_its_class_says_so(bench: Any, allowed: bool) -> None:
    """Regression: any claim was told that it had grown, and no disk did."""
    await bench.create(
        "storageclasses.storage.k8s.io",
        {"metadata": {"name": "block"}, "provisioner": "block.sk8.io", "allowVolumeExpansion": allowed},
        "",
    )
    requests = {"resources": {"requests": {"storage": "1Gi"}}}
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "block", "volumeName": "v", **requests}
    await bench.create("persistentvolumeclaims", {"metadata": {"name": "c"}, "spec": spec})
    claims = SCHEME.named("persistentvolumeclaims")

    def bound(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "status": {"phase": "Bound"}}

    def grow(obj: dict[str, Any]) -> dict[str, Any]:
        return {**obj, "spec": {**obj["spec"], "resources": {"requests": {"storage": "2Gi"}}}}

    await bench.registry.modify(bench.ctx, claims, "default", "c", bound, subresource="status")
    if allowed:
        await bench.registry.modify(bench.ctx, claims, "default", "c", grow)
        return
    e = await refusal(bench.registry.modify(bench.ctx, claims, "default", "c", grow))
    assert e.code == 403 and "the storageclass that provisions the pvc must support resize" in e.message
