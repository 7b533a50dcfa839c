"""metrics.k8s.io: what a kubelet's summary becomes."""

from __future__ import annotations

from typing import Any

from cluster.api import resource_metrics as forms

AT = "2026-01-01T00:00:00Z"


def part(cpu: int | None, memory: int) -> dict[str, Any]:
    rate = {} if cpu is None else {"usageNanoCores": cpu}
    return {"cpu": {"time": AT, **rate}, "memory": {"time": AT, "workingSetBytes": memory}}


def pod(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"podRef": {"namespace": "ns", "name": "p", "uid": "u"}, "containers": list(containers)}


def test_a_pod() -> None:
    summary = {"pods": [pod({"name": "b", **part(1_500_000, 2048)}, {"name": "a", **part(0, 5000)})]}
    (used,) = forms.pods_of(summary)
    shown = forms.pod_metrics(used, {"app": "x"})
    assert shown["metadata"] == {"name": "p", "namespace": "ns", "creationTimestamp": AT, "labels": {"app": "x"}}
    assert shown["containers"] == [
        {"name": "a", "usage": {"cpu": "0n", "memory": "4Ki"}},
        {"name": "b", "usage": {"cpu": "1500000n", "memory": "2Ki"}},
    ]
    assert (shown["timestamp"], shown["window"]) == (AT, "10s")


def test_a_pod_with_a_container_that_has_no_rate_yet_is_left_out() -> None:
    assert list(forms.pods_of({"pods": [pod({"name": "a", **part(1, 1)}, {"name": "b", **part(None, 1)})]})) == []
    assert list(forms.pods_of({"pods": [pod()]})) == [] and list(forms.pods_of({})) == []


def test_a_node() -> None:
    used = forms.node_of({"node": part(7, 1024)})
    assert used is not None and forms.node_metrics("m1", used, {})["usage"] == {"cpu": "7n", "memory": "1Ki"}
    assert forms.node_of({"node": part(None, 1)}) is None


def test_every_definition_that_is_referred_to_is_there() -> None:
    from cluster.api.schema import load_definitions

    known = load_definitions()
    for name, definition in forms.definitions().items():
        refs = {part.split("'")[0] for part in str(definition).split("#/$defs/")[1:]}
        assert refs <= set(known), name
