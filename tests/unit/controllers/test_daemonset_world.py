"""DaemonSets as a whole controller on the in-memory store."""

from __future__ import annotations

from typing import Any

import orjson

from cluster.api.placement import affinity_allows, untolerated
from cluster.controllers.daemonset import DaemonSetController
from cluster.controllers.daemonset_pods import target_node
from cluster.machinery.client import Obj, clone
from tests.support.controller_world import World, template

NODES = ("n1", "n2", "n3")


def daemon_set(name: str = "agent", image: str = "agent:1", pod_spec: Obj | None = None, **spec: Any) -> Obj:
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, image, **(pod_spec or {})),
            **spec,
        },
    }


async def start(w: World, nodes: tuple[str, ...] = NODES) -> None:
    await w.namespace()
    for name in nodes:
        await w.node(name)


async def get(w: World) -> Obj:
    return await w.client.get("daemonsets.apps", "agent", "default")


async def set_image(w: World, image: str) -> None:
    containers = [{"name": "main", "image": image}]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    await w.client.patch("daemonsets.apps", "agent", patch, "default")


async def placed(w: World) -> list[str]:
    return sorted(target_node(p) for p in await w.items("pods") if "deletionTimestamp" not in p["metadata"])


async def images(w: World) -> list[str]:
    return sorted(p["spec"]["containers"][0]["image"] for p in await w.items("pods"))


async def taint(w: World, node: str, *taints: Obj, **labels: str) -> None:
    patch: Obj = {"spec": {"taints": list(taints)}, "metadata": {"labels": labels}}
    await w.client.patch("nodes", node, patch)


def counts(ds: Obj) -> tuple[int, ...]:
    status = ds["status"]
    fields = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled")
    return tuple(status.get(f, 0) for f in (*fields, "numberAvailable", "numberUnavailable", "numberMisscheduled"))


async def test_one_pod_for_each_node_placed_by_affinity_to_its_name() -> None:
    async with World(DaemonSetController) as w:
        await start(w)
        await w.create("daemonsets.apps", daemon_set())
        await w.settle()
        assert await placed(w) == ["n1", "n2", "n3"]
        pod = (await w.items("pods"))[0]
        required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        field = required["nodeSelectorTerms"][0]["matchFields"][0]
        assert field == {"key": "metadata.name", "operator": "In", "values": [target_node(pod)]}
        tolerated = {(t["key"], t["effect"]) for t in pod["spec"]["tolerations"]}
        assert ("node.kubernetes.io/unschedulable", "NoSchedule") in tolerated
        assert ("node.kubernetes.io/unreachable", "NoExecute") in tolerated
        assert all("tolerationSeconds" not in t for t in pod["spec"]["tolerations"])
        assert counts(await get(w)) == (3, 3, 0, 3, 0, 3, 0)
        await w.settle_with_kubelet()
        assert counts(await get(w)) == (3, 3, 3, 3, 3, 0, 0)
        assert {e["reason"] for e in await w.items("events")} == {"SuccessfulCreate"}


async def test_a_new_node_gets_a_pod_and_a_node_that_goes_loses_it() -> None:
    async with World(DaemonSetController) as w:
        await start(w, ("n1",))
        await w.create("daemonsets.apps", daemon_set())
        await w.settle_with_kubelet()
        await w.node("n2")
        await w.settle()
        assert await placed(w) == ["n1", "n2"]
        await w.client.delete("nodes", "n1")
        await w.settle()
        assert await placed(w) == ["n2"]


async def test_selectors_and_taints_decide_where_it_runs() -> None:
    async with World(DaemonSetController) as w:
        await start(w)
        await taint(w, "n1", disk="ssd")
        await taint(w, "n2", {"key": "x", "effect": "NoSchedule"}, disk="ssd")
        await w.create("daemonsets.apps", daemon_set(pod_spec={"nodeSelector": {"disk": "ssd"}}))
        await w.settle_with_kubelet()
        assert await placed(w) == ["n1"]
        await taint(w, "n1", {"key": "x", "effect": "NoSchedule"}, disk="ssd")
        await w.settle()
        assert await placed(w) == ["n1"]  # NoSchedule lets it stay
        assert counts(await get(w))[6] == 1
        await taint(w, "n1", {"key": "x", "effect": "NoExecute"}, disk="ssd")
        await w.settle()
        assert await placed(w) == []


async def test_a_cordoned_node_keeps_and_gets_daemons() -> None:
    async with World(DaemonSetController) as w:
        await start(w, ("n1",))
        await taint(w, "n1", {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})
        await w.create("daemonsets.apps", daemon_set())
        await w.settle()
        assert await placed(w) == ["n1"]


async def test_no_second_pod_while_the_first_is_terminating() -> None:
    async with World(DaemonSetController) as w:
        await start(w, ("n1",))
        await w.create("daemonsets.apps", daemon_set())
        await w.settle_with_kubelet()
        pod = (await w.items("pods"))[0]
        await w.client.delete("pods", pod["metadata"]["name"], "default")
        await w.settle()
        assert len(await w.items("pods")) == 1
        await w.settle_with_kubelet()
        pods = await w.items("pods")
        assert len(pods) == 1 and pods[0]["metadata"]["uid"] != pod["metadata"]["uid"]


async def test_a_rolling_update_takes_away_one_at_a_time() -> None:
    async with World(DaemonSetController) as w:
        await start(w)
        await w.create("daemonsets.apps", daemon_set())
        await w.settle_with_kubelet()
        await set_image(w, "agent:2")
        for _ in range(20):
            await w.settle()
            running = [p for p in await w.items("pods") if "deletionTimestamp" not in p["metadata"]]
            assert sum(1 for p in running if (p.get("status") or {}).get("phase") == "Running") >= 2
            await w.kubelet()
        await w.settle()
        assert await images(w) == ["agent:2"] * 3
        assert counts(await get(w)) == (3, 3, 3, 3, 3, 0, 0)


async def test_max_unavailable_in_percent_rounds_up() -> None:
    async with World(DaemonSetController) as w:
        await start(w)
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}
        await w.create("daemonsets.apps", daemon_set(updateStrategy=strategy))
        await w.settle_with_kubelet()
        await set_image(w, "agent:2")
        await w.settle()
        going = [p for p in await w.items("pods") if "deletionTimestamp" in p["metadata"]]
        assert len(going) == 2


async def test_surge_makes_the_new_pod_first() -> None:
    async with World(DaemonSetController) as w:
        await start(w)
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        await w.create("daemonsets.apps", daemon_set(updateStrategy=strategy))
        await w.settle_with_kubelet()
        await set_image(w, "agent:2")
        await w.settle()
        assert await images(w) == ["agent:1"] * 3 + ["agent:2"]
        assert not [p for p in await w.items("pods") if "deletionTimestamp" in p["metadata"]]
        await w.settle_with_kubelet()
        assert await images(w) == ["agent:2"] * 3


async def test_on_delete_waits_for_the_user() -> None:
    async with World(DaemonSetController) as w:
        await start(w)
        await w.create("daemonsets.apps", daemon_set(updateStrategy={"type": "OnDelete"}))
        await w.settle_with_kubelet()
        await set_image(w, "agent:2")
        await w.settle_with_kubelet()
        assert await images(w) == ["agent:1"] * 3
        pod = (await w.items("pods"))[0]
        await w.client.delete("pods", pod["metadata"]["name"], "default", grace_period_s=0)
        await w.settle_with_kubelet()
        assert await images(w) == ["agent:1", "agent:1", "agent:2"]
        assert counts(await get(w))[3] == 1


async def test_failed_pods_are_replaced_with_a_growing_delay() -> None:
    async with World(DaemonSetController) as w:
        await start(w, ("n1",))
        await w.create("daemonsets.apps", daemon_set())
        await w.settle_with_kubelet()
        first = (await w.items("pods"))[0]
        await w.pod_status(first, ready=False, phase="Failed")
        await w.settle_with_kubelet()
        second = (await w.items("pods"))[0]
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        await w.pod_status(second, ready=False, phase="Failed")
        await w.settle()
        assert "deletionTimestamp" not in (await w.items("pods"))[0]["metadata"]
        await w.tick(1.5)
        await w.settle_with_kubelet()
        assert (await w.items("pods"))[0]["metadata"]["uid"] != second["metadata"]["uid"]
        assert "FailedDaemonPod" in {e["reason"] for e in await w.items("events")}


async def test_revisions_are_kept_for_undo() -> None:
    async with World(DaemonSetController) as w:
        await start(w, ("n1",))
        await w.create("daemonsets.apps", daemon_set(revisionHistoryLimit=1))
        for image in ("agent:2", "agent:3"):
            await w.settle_with_kubelet()
            await set_image(w, image)
        await w.settle_with_kubelet()
        revisions = await w.items("controllerrevisions.apps")
        assert sorted(r["revision"] for r in revisions) == [2, 3]
        pod = (await w.items("pods"))[0]
        newest = max(revisions, key=lambda r: int(r["revision"]))
        assert (
            newest["metadata"]["labels"]["controller-revision-hash"]
            == (pod["metadata"]["labels"]["controller-revision-hash"])
        )


async def test_a_settled_set_writes_nothing() -> None:
    async with World(DaemonSetController) as w:
        await start(w)
        await w.create("daemonsets.apps", daemon_set())
        await w.settle_with_kubelet()
        before = await w.revision()
        for c in w.controllers:
            c.resync()
        await w.settle()
        assert w.store.revision == before


def test_placement_rules() -> None:
    node = {"metadata": {"name": "n1", "labels": {"a": "5", "b": "x"}}}

    def allows(*expressions: Obj, fields: list[Obj] | None = None) -> bool:
        term = {"matchExpressions": list(expressions), "matchFields": fields or []}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        return affinity_allows({"affinity": {"nodeAffinity": required}}, clone(node))

    assert allows({"key": "a", "operator": "Gt", "values": ["4"]})
    assert not allows({"key": "b", "operator": "Lt", "values": ["4"]})
    assert allows({"key": "c", "operator": "NotIn", "values": ["x"]}, {"key": "b", "operator": "Exists"})
    assert not allows()
    assert allows(fields=[{"key": "metadata.name", "operator": "In", "values": ["n1"]}])
    assert not allows(fields=[{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}])
    taints = [{"key": "k", "value": "v", "effect": "NoSchedule"}]
    assert untolerated(taints, [{"key": "k", "value": "v"}], ("NoSchedule",)) is None
    assert untolerated(taints, [{"operator": "Exists", "effect": "NoExecute"}], ("NoSchedule",)) == taints[0]
    assert untolerated(taints, [], ("NoExecute",)) is None


async def test_a_revisions_data_has_its_keys_in_the_order_in_which_clients_compare_it() -> None:
    """Kubernetes' `daemon.Match` compares bytes with a patch that it marshals itself."""
    async with World(DaemonSetController) as w:
        await start(w, ("n1",))
        await w.create("daemonsets.apps", daemon_set())
        await w.settle()
        (revision,) = await w.items("controllerrevisions.apps")
        assert orjson.dumps(revision["data"]) == orjson.dumps(revision["data"], option=orjson.OPT_SORT_KEYS)
        assert next(iter(revision["data"]["spec"]["template"])) == "$patch"
