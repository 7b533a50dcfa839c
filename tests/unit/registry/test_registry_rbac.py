"""RBAC and Node authorizers, and the objects a cluster starts with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from cluster.api.errors import ApiError
from cluster.api.scheme import SCHEME
from cluster.registry import bootstrap
from cluster.registry.context import MASTERS, RequestContext, UserInfo
from cluster.registry.rbac import RbacAuthorizer, RbacRules, rule_allows
from cluster.registry.types import Attributes, Binding

RBAC = "rbac.authorization.k8s.io"
BOB = UserInfo("bob", groups=("system:authenticated", "devs"))
NODE = UserInfo("system:node:m1", groups=("system:nodes", "system:authenticated"))


@pytest.fixture
async def authorizer(bench: Any) -> AsyncIterator[RbacAuthorizer]:
    made = RbacAuthorizer(bench.store)
    task = asyncio.create_task(made.run())
    await bootstrap.ensure(bench.registry, bench.registry.config)
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _can(authorizer: RbacAuthorizer, user: UserInfo, verb: str, resource: str = "pods", **more: Any) -> bool:
    plural, _, group = resource.partition(".")
    return (await authorizer.authorize(user, Attributes(verb, group, plural, **more))).allowed


CSI_NODES = "csinodes.storage.k8s.io"


def test_a_rule_allows_its_verbs_on_its_resources_names_and_urls() -> None:
    rule = {"apiGroups": ["apps"], "resources": ["deployments", "*/scale"], "verbs": ["get"], "resourceNames": ["a"]}
    assert rule_allows(rule, Attributes("get", "apps", "deployments", name="a"))
    assert not rule_allows(rule, Attributes("get", "apps", "deployments", name="b"))
    assert not rule_allows(rule, Attributes("get", "apps", "deployments", "status", name="a"))
    assert rule_allows(rule, Attributes("get", "apps", "replicasets", "scale", name="a"))
    assert not rule_allows(rule, Attributes("list", "apps", "deployments", name="a"))
    urls = {"nonResourceURLs": ["/healthz/*", "/version"], "verbs": ["get"]}
    assert rule_allows(urls, Attributes("get", path="/healthz/ping"))
    assert not rule_allows(urls, Attributes("get", path="/versions"))
    assert not rule_allows(urls, Attributes("get", "", "pods"))


def _named(kind: str, name: str) -> dict[str, Any]:
    return {"apiGroup": RBAC, "kind": kind, "name": name}


def test_what_was_allowed_is_remembered_no_longer_than_it_holds() -> None:
    rules, asked = RbacRules(), Attributes("get", "", "configmaps", namespace="default", name="a")
    role = {"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}
    binding = {"roleRef": _named("Role", "reader"), "subjects": [{"kind": "User", "name": "bob"}]}
    rules.put("roles", "default", "reader", role)
    rules.put("rolebindings", "default", "b", binding)
    assert rules.allows(BOB, asked)
    assert not rules.allows(replace(BOB, name="eve"), asked)
    assert not rules.allows(BOB, replace(asked, namespace="other"))
    one = {"rules": [role["rules"][0] | {"resourceNames": ["b"]}]}
    rules.put("roles", "default", "reader", one)
    assert not rules.allows(BOB, asked), "the role is another now"
    assert rules.allows(BOB, replace(asked, name="b"))
    assert not rules.allows(BOB, asked), "one name is not all of them"
    rules.put("roles", "default", "reader", role)
    assert rules.allows(BOB, asked)
    rules.delete("rolebindings", "default", "b")
    assert not rules.allows(BOB, asked)


async def test_a_binding_counts_from_its_own_moment(bench: Any, authorizer: RbacAuthorizer) -> None:
    assert not await _can(authorizer, BOB, "list", namespace="default")
    ref = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "view"}
    obj = {"metadata": {"name": "b"}, "roleRef": ref, "subjects": [{"kind": "Group", "name": "devs"}]}
    await bench.create(f"rolebindings.{RBAC}", obj)
    assert await _can(authorizer, BOB, "list", namespace="default")
    assert not await _can(authorizer, BOB, "list", namespace="kube-system")
    assert not await _can(authorizer, BOB, "list", "secrets", namespace="default")
    assert not await _can(authorizer, BOB, "delete", namespace="default")
    await bench.delete(f"rolebindings.{RBAC}", "b")
    for _ in range(20):
        await asyncio.sleep(0)
    assert not await _can(authorizer, BOB, "list", namespace="default")


async def test_service_accounts_and_aggregation(bench: Any, authorizer: RbacAuthorizer) -> None:
    extra = {"metadata": {"name": "extra", "labels": {"to": "sum"}},
             "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}  # fmt: skip
    await bench.create(f"clusterroles.{RBAC}", extra, "")
    summed = {
        "metadata": {"name": "sum"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]},
    }
    await bench.create(f"clusterroles.{RBAC}", summed, "")
    subject = {"kind": "ServiceAccount", "name": "robot", "namespace": "default"}
    ref = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "sum"}
    await bench.create(
        f"clusterrolebindings.{RBAC}", {"metadata": {"name": "b"}, "roleRef": ref, "subjects": [subject]}, ""
    )
    robot = UserInfo("system:serviceaccount:default:robot", groups=("system:serviceaccounts",))
    assert await _can(authorizer, robot, "get", namespace="kube-system")
    assert not await _can(authorizer, robot, "list", namespace="kube-system")


async def test_built_in_identities(bench: Any, authorizer: RbacAuthorizer) -> None:
    assert await _can(authorizer, MASTERS, "escalate", "anything.at.all")
    scheduler = UserInfo("system:kube-scheduler")
    assert await _can(authorizer, scheduler, "create", subresource="binding", namespace="x")
    assert not await _can(authorizer, scheduler, "get", "secrets", namespace="x")
    proxy = UserInfo("system:kube-proxy", groups=("system:node-proxier",))
    assert await _can(authorizer, proxy, "watch", "endpointslices.discovery.k8s.io")
    anonymous = UserInfo("system:anonymous", groups=("system:unauthenticated",))
    assert (await authorizer.authorize(anonymous, Attributes("get", path="/version"))).allowed
    assert not (await authorizer.authorize(anonymous, Attributes("get", path="/api"))).allowed
    assert await _can(authorizer, BOB, "create", "selfsubjectaccessreviews.authorization.k8s.io")


async def test_a_node_reads_what_its_pods_need(bench: Any, make: Any, authorizer: RbacAuthorizer) -> None:
    registry = bench.another(authorizer=authorizer)
    ctx = RequestContext(NODE)
    await bench.create("secrets", {"metadata": {"name": "s"}})
    p = make.pod()
    p["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": "s"}}]
    await bench.create("pods", p)
    with pytest.raises(ApiError, match="no relationship found between node 'm1' and this object"):
        await registry.get(ctx, SCHEME.named("secrets"), "default", "s")
    await bench.registry.bind(bench.ctx, [Binding("default", "p", "", "m1")])
    await registry.get(ctx, SCHEME.named("secrets"), "default", "s")
    assert await _can(
        authorizer, NODE, "create", "serviceaccounts", subresource="token", namespace="default", name="default"
    )
    assert not await _can(authorizer, NODE, "list", "secrets", namespace="default")
    assert not await _can(authorizer, NODE, "get", "secrets", namespace="default", name="other")
    await bench.delete("pods", "p", grace_period_s=0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not await _can(authorizer, NODE, "get", "secrets", namespace="default", name="s")
    assert not await _can(authorizer, NODE, "update", "deployments.apps", namespace="default", name="d")


async def test_a_node_keeps_its_own_csinode(bench: Any, authorizer: RbacAuthorizer) -> None:
    registry, ctx, info = bench.another(authorizer=authorizer), RequestContext(NODE), SCHEME.named(CSI_NODES)
    for verb in ("get", "update", "patch", "delete"):
        assert await _can(authorizer, NODE, verb, CSI_NODES, name="m1")
        assert not await _can(authorizer, NODE, verb, CSI_NODES, name="m2")
    assert not await _can(authorizer, NODE, "list", CSI_NODES)
    csi_node = {"spec": {"drivers": [{"name": "d.example.com", "nodeID": "m1"}]}}
    await registry.create(ctx, info, "", {**csi_node, "metadata": {"name": "m1"}})
    with pytest.raises(ApiError, match="can only access CSINode with the same name as the requesting node"):
        await registry.create(ctx, info, "", {**csi_node, "metadata": {"name": "m2"}})


async def test_a_node_reads_the_volumes_of_its_claims(bench: Any, make: Any, authorizer: RbacAuthorizer) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "v"}
    await bench.create("persistentvolumeclaims", {"metadata": {"name": "c"}, "spec": spec})
    await bench.create("pods", make.pod(volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]))
    assert not await _can(authorizer, NODE, "get", "persistentvolumes", name="v")
    await bench.registry.bind(bench.ctx, [Binding("default", "p", "", "m1")])
    assert await _can(authorizer, NODE, "get", "persistentvolumeclaims", namespace="default", name="c")
    assert await _can(authorizer, NODE, "get", "persistentvolumes", name="v")


async def test_bootstrap_is_idempotent_and_heals_roles(bench: Any, authorizer: RbacAuthorizer) -> None:
    txns = bench.store.txns
    await bootstrap.ensure(bench.registry, bench.registry.config)
    assert bench.store.txns == txns
    info = SCHEME.named(f"clusterroles.{RBAC}")
    await bench.registry.modify(bench.ctx, info, "", "system:kube-scheduler", lambda o: {**o, "rules": []})
    await bootstrap.ensure(bench.registry, bench.registry.config)
    assert (await bench.get(f"clusterroles.{RBAC}", "system:kube-scheduler", "")).obj["rules"]
    dns = (await bench.get("services", "kube-dns", "kube-system")).obj
    assert dns["spec"]["clusterIP"] == "10.96.0.10"
    assert [p["name"] for p in dns["spec"]["ports"]] == ["dns", "dns-tcp", "metrics"]
    assert (await bench.get("services", "kubernetes")).obj["spec"]["clusterIP"] == "10.96.0.1"


async def test_bootstrap_by_three_at_once(make: Any) -> None:
    fresh = make.bench()
    await asyncio.gather(*(bootstrap.ensure(fresh.another(), fresh.registry.config) for _ in range(3)))
    assert len(fresh.keys("/registry/core/namespaces/")) == 4


# --- nobody grants what he does not hold


async def _as(bench: Any, authorizer: RbacAuthorizer, name: str, *rules: dict[str, Any]) -> Any:
    """A registry, and the context of a user who has these rules in namespace default and may write RBAC there."""
    write = {"apiGroups": [RBAC], "resources": ["*"], "verbs": ["create", "update", "get"]}
    await bench.create(f"roles.{RBAC}", {"metadata": {"name": name}, "rules": [write, *rules]})
    subjects = [{"kind": "User", "name": name, "apiGroup": RBAC}]
    ref = {"kind": "Role", "name": name, "apiGroup": RBAC}
    await bench.create(f"rolebindings.{RBAC}", {"metadata": {"name": name}, "subjects": subjects, "roleRef": ref})
    ctx = replace(bench.ctx, user=UserInfo(name, groups=("staff", "system:authenticated")))
    return bench.another(authorizer=authorizer), ctx


def _rule_of(resources: str, verbs: str, **more: Any) -> dict[str, Any]:
    return {"apiGroups": [""], "resources": resources.split(), "verbs": verbs.split(), **more}


async def test_a_role_holds_no_more_than_its_writer(bench: Any, authorizer: RbacAuthorizer) -> None:
    registry, ctx = await _as(bench, authorizer, "bob", _rule_of("pods", "get list"), _rule_of("*/log", "get"))
    roles = SCHEME.named(f"roles.{RBAC}")
    fine = {"metadata": {"name": "fine"}, "rules": [_rule_of("pods pods/log", "get")]}
    await registry.create(ctx, roles, "default", fine)
    greedy = [_rule_of("pods", "get delete patch"), _rule_of("secrets", "get", resourceNames=["s"])]
    with pytest.raises(ApiError) as e:
        await registry.create(ctx, roles, "default", {"metadata": {"name": "greedy"}, "rules": greedy})
    assert (e.value.code, e.value.message) == (
        403,
        'roles.rbac.authorization.k8s.io "greedy" is forbidden: user "bob" (groups=["staff" "system:authenticated"]) '
        "is attempting to grant RBAC permissions not currently held:\n"
        '{APIGroups:[""], Resources:["pods"], Verbs:["delete" "patch"]}\n'
        '{APIGroups:[""], Resources:["secrets"], ResourceNames:["s"], Verbs:["get"]}',
    )
    with pytest.raises(ApiError):
        await registry.modify(ctx, roles, "default", "fine", lambda o: {**o, "rules": greedy})
    label = {"a": "b"}
    await registry.modify(
        ctx, roles, "default", "fine", lambda o: {**o, "metadata": {**o["metadata"], "labels": label}}
    )


async def test_the_verbs_escalate_and_bind(bench: Any, authorizer: RbacAuthorizer) -> None:
    may = {"apiGroups": [RBAC], "resources": ["roles", "clusterroles"], "verbs": ["escalate"], "resourceNames": ["big"]}
    bind = {"apiGroups": [RBAC], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["root"]}
    registry, ctx = await _as(bench, authorizer, "eve", may, bind)
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    await bench.create(f"clusterroles.{RBAC}", {"metadata": {"name": "root"}, "rules": [everything]}, "")
    await bench.create(f"clusterroles.{RBAC}", {"metadata": {"name": "other"}, "rules": [everything]}, "")
    roles, bindings = SCHEME.named(f"roles.{RBAC}"), SCHEME.named(f"rolebindings.{RBAC}")
    await registry.create(ctx, roles, "default", {"metadata": {"name": "big"}, "rules": [everything]})

    def binding(role: str) -> dict[str, Any]:
        subjects = [{"kind": "User", "name": "eve", "apiGroup": RBAC}]
        return {"metadata": {"name": role}, "subjects": subjects, "roleRef": {"kind": "ClusterRole", "name": role}}

    with pytest.raises(ApiError, match="attempting to grant RBAC permissions not currently held"):
        await registry.create(ctx, bindings, "default", binding("other"))
    with pytest.raises(ApiError, match='"ghost" not found'):
        await registry.create(ctx, bindings, "default", binding("ghost"))
    await registry.create(ctx, bindings, "default", binding("root"))


async def test_only_who_holds_everything_gathers_roles(bench: Any, authorizer: RbacAuthorizer) -> None:
    registry, _ = await _as(bench, authorizer, "ann")
    subjects = [{"kind": "User", "name": "ann", "apiGroup": RBAC}]
    write = {"apiGroups": [RBAC], "resources": ["*"], "verbs": ["create"]}
    await bench.create(f"clusterroles.{RBAC}", {"metadata": {"name": "w"}, "rules": [write]}, "")
    ref = {"kind": "ClusterRole", "name": "w", "apiGroup": RBAC}
    await bench.create(
        f"clusterrolebindings.{RBAC}", {"metadata": {"name": "w"}, "subjects": subjects, "roleRef": ref}, ""
    )
    ctx = replace(bench.ctx, user=UserInfo("ann"))
    role = {"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}
    with pytest.raises(ApiError, match="must have cluster-admin privileges to use the aggregationRule"):
        await registry.create(ctx, SCHEME.named(f"clusterroles.{RBAC}"), "", role)
