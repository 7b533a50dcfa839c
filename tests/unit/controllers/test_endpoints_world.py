"""Endpoints of Services as whole controllers on the in-memory store, and the packing of slices as a pure function."""

from __future__ import annotations

from typing import Any

from cluster.controllers.endpoints import EndpointsController, EndpointSliceController
from cluster.controllers.endpoints_core import legacy, plan_slices
from cluster.controllers.endpoints_mirroring import EndpointSliceMirroringController
from cluster.machinery.client import Obj
from tests.support.controller_world import World

BOTH = (EndpointSliceController, EndpointsController)
SLICES = "endpointslices.discovery.k8s.io"


def service(name: str = "web", **spec: Any) -> Obj:
    body = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": body}


def pod(name: str, app: str = "web", port_name: str = "web") -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app, "tier": "x"}},
        "spec": {
            "terminationGracePeriodSeconds": 30,
            "containers": [
                {"name": "main", "image": "x", "ports": [{"name": port_name, "containerPort": 8080}]},
            ],
        },
    }


async def start(w: World, *names: str) -> None:
    await w.namespace()
    await w.node("n1")
    for name in names:
        await w.create("pods", pod(name))
    await w.kubelet()


async def conditions(w: World) -> dict[str, Any]:
    found = {}
    for s in await w.items(SLICES):
        for e in s.get("endpoints") or []:
            found[e["targetRef"]["name"]] = e["conditions"]
    return found


async def test_ready_pods_become_endpoints_and_legacy_endpoints() -> None:
    async with World(*BOTH) as w:
        await start(w, "a", "b")
        await w.create("services", service())
        await w.settle()
        (s,) = await w.items(SLICES)
        assert s["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
        assert s["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
        assert await conditions(w) == {n: {"ready": True, "serving": True, "terminating": False} for n in "ab"}
        (e,) = await w.items("endpoints")
        assert {a["targetRef"]["name"] for a in e["subsets"][0]["addresses"]} == {"a", "b"}
        before = await w.revision()
        for c in w.controllers:
            c.resync()
        await w.settle()
        assert w.store.revision == before


async def test_an_unready_and_a_terminating_pod_leave_ready() -> None:
    async with World(*BOTH) as w:
        await start(w, "a", "b", "c")
        await w.create("services", service())
        await w.settle()
        pods = {p["metadata"]["name"]: p for p in await w.items("pods")}
        await w.pod_status(pods["a"], ready=False)
        await w.client.delete("pods", "b", "default")
        await w.settle()
        assert await conditions(w) == {
            "a": {"ready": False, "serving": False, "terminating": False},
            "b": {"ready": False, "serving": True, "terminating": True},
            "c": {"ready": True, "serving": True, "terminating": False},
        }
        (e,) = await w.items("endpoints")
        (subset,) = e["subsets"]
        assert [x["targetRef"]["name"] for x in subset["addresses"]] == ["c"]
        assert [x["targetRef"]["name"] for x in subset["notReadyAddresses"]] == ["a"]
        await w.client.delete("pods", "b", "default", grace_period_s=0)
        await w.settle()
        assert set(await conditions(w)) == {"a", "c"}


async def test_not_ready_addresses_are_published_on_wish_and_headless_is_marked() -> None:
    async with World(*BOTH) as w:
        await start(w, "a")
        await w.pod_status((await w.items("pods"))[0], ready=False)
        await w.create("services", service(publishNotReadyAddresses=True, clusterIP="None"))
        await w.settle()
        assert (await conditions(w))["a"] == {"ready": True, "serving": False, "terminating": False}
        (s,) = await w.items(SLICES)
        assert s["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


async def test_a_named_target_port_is_looked_up_in_each_pod() -> None:
    async with World(*BOTH) as w:
        await start(w, "a")
        await w.create("services", service(ports=[{"port": 80, "targetPort": "web"}]))
        await w.settle()
        (s,) = await w.items(SLICES)
        assert s["ports"][0]["port"] == 8080


async def test_a_service_without_endpoints_has_one_slice_without_ports() -> None:
    async with World(*BOTH) as w:
        await start(w)
        await w.create("services", service())
        await w.settle()
        (s,) = await w.items(SLICES)
        assert not s.get("endpoints") and not s.get("ports")
        await w.create("pods", pod("a"))
        await w.kubelet()
        await w.settle()
        (s,) = await w.items(SLICES)
        assert [len(s[k]) for k in ("endpoints", "ports")] == [1, 1]


async def test_services_without_selector_and_foreign_slices_are_left_alone() -> None:
    async with World(*BOTH) as w:
        await start(w, "a")
        await w.create("services", service("kubernetes", selector=None))
        own = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.89.0.11"]}],
            "ports": [{"name": "https", "port": 6443}],
        }
        await w.create(SLICES, own)
        await w.settle()
        (s,) = await w.items(SLICES)
        assert s["endpoints"][0]["addresses"] == ["10.89.0.11"]
        assert await w.items("endpoints") == []


async def test_a_deleted_service_takes_its_endpoints_along() -> None:
    async with World(*BOTH) as w:
        await start(w, "a")
        await w.create("services", service())
        await w.settle()
        await w.client.delete("services", "web", "default")
        await w.settle()
        assert await w.items("endpoints") == []


def _running(i: int) -> Obj:
    return {
        "metadata": {"name": f"p{i}", "namespace": "default", "uid": f"u{i}"},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {
            "podIP": f"10.244.{i // 250}.{i % 250 + 1}",
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _named(created: tuple[Obj, ...]) -> list[Obj]:
    return [{**s, "metadata": {**s["metadata"], "name": f"s{i}"}} for i, s in enumerate(created)]


def test_slices_hold_at_most_the_limit_and_changes_touch_few() -> None:
    svc = service()
    svc["metadata"]["uid"] = "su"
    pods = [_running(i) for i in range(250)]
    plan = plan_slices(svc, pods, [], {})
    assert [len(s["endpoints"]) for s in plan.create] == [100, 100, 50]
    slices = _named(plan.create)
    assert plan_slices(svc, pods, slices, {}) == plan_slices(svc, pods, slices, {})
    same = plan_slices(svc, pods, slices, {})
    assert (same.create, same.update, same.delete) == ((), (), ())
    one_gone = plan_slices(svc, pods[1:], slices, {})
    assert [s["metadata"]["name"] for s in one_gone.update] == ["s0"]
    assert not one_gone.create and not one_gone.delete
    one_more = plan_slices(svc, [*pods, _running(250)], slices, {})
    assert [len(s["endpoints"]) for s in one_more.update] == [51] and not one_more.create
    none = plan_slices(svc, [], slices, {})
    assert len(none.update) + len(none.delete) == 3 and len(none.create) <= 1


def test_endpoints_of_more_than_a_thousand_pods_say_that_they_are_cut() -> None:
    """Regression: the annotation was set only when the object was made, and never taken away."""
    svc, mark = service(), {"endpoints.kubernetes.io/over-capacity": "truncated"}
    pods = [_running(i) for i in range(1001)]
    full = legacy(svc, pods[:1000], None)
    assert full is not None and "annotations" not in full["metadata"]
    assert len(full["subsets"][0]["addresses"]) == 1000
    full["metadata"]["annotations"] = {"note": "x"}
    cut = legacy(svc, pods, full)
    assert cut is not None and cut["metadata"]["annotations"] == {"note": "x", **mark}
    assert len(cut["subsets"][0]["addresses"]) == 1000 and legacy(svc, pods, cut) is None
    fits = legacy(svc, pods[:1000], cut)
    assert fits is not None and fits["metadata"]["annotations"] == {"note": "x"}
    plan = plan_slices({**svc, "metadata": {**svc["metadata"], "uid": "su"}}, pods, [], {})
    assert sum(len(s["endpoints"]) for s in plan.create) == 1001, "EndpointSlices have all of them"


# ---- Endpoints made by hand


def by_hand(**subset: Any) -> Obj:
    meta = {"name": "web", "namespace": "default", "labels": {"team": "a"}, "annotations": {"note": "x"}}
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": [subset]}


def without_selector() -> Obj:
    made = service()
    del made["spec"]["selector"]
    return made


ALL = (*BOTH, EndpointSliceMirroringController)


async def test_endpoints_made_by_hand_are_mirrored_as_they_change() -> None:
    async with World(*ALL) as w:
        await w.namespace()
        await w.create("services", without_selector())
        ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
        addresses = [{"ip": "10.1.1.1", "nodeName": "n1"}]
        made = await w.create(
            "endpoints", by_hand(addresses=addresses, notReadyAddresses=[{"ip": "fd00::1"}], ports=ports)
        )
        await w.settle()
        found = {s["addressType"]: s for s in await w.items(SLICES)}
        assert found["IPv4"]["endpoints"] == [
            {"addresses": ["10.1.1.1"], "conditions": {"ready": True}, "nodeName": "n1"}
        ]
        assert found["IPv6"]["endpoints"] == [{"addresses": ["fd00::1"], "conditions": {"ready": False}}]
        meta = found["IPv4"]["metadata"]
        assert meta["labels"] == {
            "team": "a",
            "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
        }
        assert meta["annotations"] == {"note": "x"}
        assert [(r["kind"], r["uid"]) for r in meta["ownerReferences"]] == [("Endpoints", made["metadata"]["uid"])]
        changed = [{"addresses": [{"ip": "10.1.1.2"}], "ports": ports}]
        await w.client.patch("endpoints", "web", {"subsets": changed}, "default")
        await w.settle()
        (only,) = await w.items(SLICES)
        assert [e["addresses"] for e in only["endpoints"]] == [["10.1.1.2"]]
        await w.client.delete("endpoints", "web", "default")
        await w.settle()
        assert not await w.items(SLICES)


async def test_mirroring_ends_where_a_selector_or_a_label_says_so() -> None:
    async with World(*ALL) as w:
        await w.namespace()
        await w.create("services", without_selector())
        await w.create("endpoints", by_hand(addresses=[{"ip": "10.1.1.1"}], ports=[{"port": 80}]))
        await w.settle()
        assert len(await w.items(SLICES)) == 1
        label = "endpointslice.kubernetes.io/skip-mirror"
        await w.client.patch("endpoints", "web", {"metadata": {"labels": {label: "true"}}}, "default")
        await w.settle()
        assert not await w.items(SLICES)
        await w.client.patch("endpoints", "web", {"metadata": {"labels": {label: None}}}, "default")
        await w.settle()
        assert len(await w.items(SLICES)) == 1
        await w.client.patch("services", "web", {"spec": {"selector": {"app": "none"}}}, "default")
        await w.settle()
        managers = {s["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] for s in await w.items(SLICES)}
        assert managers == {"endpointslice-controller.k8s.io"}


def test_traffic_distribution_hints_at_each_zone_unless_one_is_unknown() -> None:
    made = service(trafficDistribution="PreferClose")
    pods = []
    for i in range(3):
        p = pod(f"p{i}")
        p["metadata"]["uid"] = str(i)
        p["spec"]["nodeName"] = f"n{i}"
        ready = [{"type": "Ready", "status": "True"}]
        p["status"] = {"phase": "Running", "podIP": f"10.0.0.{i}", "conditions": ready}
        pods.append(p)
    made["metadata"]["uid"] = "s"

    def hints(zones: dict[str, str]) -> list[Any]:
        (slice_,) = plan_slices(made, pods, [], zones).create
        return [e.get("hints") for e in slice_["endpoints"]]

    wanted = [{"forZones": [{"name": z}]} for z in ("a", "b", "a")]
    assert hints({"n0": "a", "n1": "b", "n2": "a"}) == wanted
    assert hints({"n0": "a", "n1": "b"}) == [None] * 3
