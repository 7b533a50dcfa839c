"""What `sk8 trace` puts together of what the parts remember."""

from __future__ import annotations

from typing import Any

from cluster.cli.trace_tell import Facts, as_json, event_time, render, told

CREATED = "2026-11-27T06:42:23Z"
AT = 1795761743.0
UID = "u-1"


def event(reason: str, at: float, message: str = "", **more: Any) -> dict[str, Any]:
    """As client-go and our recorder name it: with the nanosecond of its first occurrence."""
    who = {"kind": "Pod", "name": "web", "uid": UID}
    meta = {"name": f"web.{int(at * 1e9):016x}", "creationTimestamp": CREATED}
    made = {"metadata": meta, "involvedObject": who, "reason": reason, "message": message, "type": "Normal"}
    return made | {"firstTimestamp": CREATED, "count": 1} | more


def pod(**status: Any) -> dict[str, Any]:
    meta = {"namespace": "default", "name": "web", "uid": UID, "creationTimestamp": CREATED}
    meta["managedFields"] = [{"manager": "kubectl-run", "time": CREATED}]
    return {"metadata": meta, "spec": {"nodeName": "m2", "serviceAccountName": "default"}, "status": status}


def facts(**more: Any) -> Facts:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-27T06:42:25Z"}
    endpoint = {"addresses": ["10.1.1.4"], "conditions": {"ready": True}, "targetRef": {"uid": UID}}
    labels = {"kubernetes.io/service-name": "web"}
    found: dict[str, Any] = {
        "pod": pod(qosClass="BestEffort", conditions=[ready]),
        "events": [event("Scheduled", AT + 0.9), event("Pulled", AT + 1.4, "image pulled")],
        "created": 2071,
        "revisions": [(2071, {"spec": {}}), (2072, {"spec": {"nodeName": "m2"}})],
        "story": [
            {"at": AT + 0.91, "step": "seen", "about": ""},
            {"at": AT + 1.2, "step": "sandbox ready", "about": "10.1.1.4"},
            {"at": AT + 1.7, "step": "container started", "about": "c"},
        ],
        "decisions": [
            {"at": AT + 0.88, "node": "m2", "message": "", "nodes": [{"name": "m2", "refused": [], "total": 80}]}
        ],
        "slices": [{"metadata": {"name": "web-x", "creationTimestamp": "2026-11-27T06:42:25Z", "labels": labels},
                    "endpoints": [endpoint]}],
        "synced": {"m1": AT + 2.3, "m3": AT - 100},
    }  # fmt: skip
    return Facts(**(found | more))


def test_the_way_is_in_order_and_complete() -> None:
    steps = told(facts())
    assert [s.step for s in steps] == [
        "created", "admitted", "stored", "scheduled", "bound", "seen", "sandbox ready", "image", "container started",
        "ready", "endpoint", "programmed",
    ]  # fmt: skip
    about = {s.step: s.about for s in steps}
    assert about["created"] == "by kubectl-run"
    assert about["stored"] == "at revision 2071"
    assert about["scheduled"] == "onto m2: score 80, best of 1 that fit"
    assert about["bound"] == "to m2 at revision 2072"
    assert about["endpoint"] == "ready in Service web: 10.1.1.4"
    assert about["programmed"].startswith("Service web on m1 ")


def test_times_are_as_exact_as_what_told_them() -> None:
    lines = {line.split()[2]: line.split()[:2] for line in render(facts()).splitlines()[3:]}
    assert lines["created"] == ["06:42:23", "+0"]
    assert lines["seen"] == ["06:42:23.910", "+0.910"]


def test_a_creation_that_an_event_tells_of_is_exact() -> None:
    made = event("SuccessfulCreate", AT + 0.123, "Created pod: web")
    step = next(s for s in told(facts(events=[made])) if s.step == "created")
    assert step.exact and abs(step.at - AT - 0.123) < 1e-6


def test_a_name_without_a_time_leaves_the_event_its_seconds() -> None:
    assert event_time(event("X", AT) | {"metadata": {"name": "by.hand", "creationTimestamp": CREATED}}) == (AT, False)
    assert event_time(event("X", AT + 5000)) == (AT, False), "a hexadecimal that is no time of this event"


def test_a_compacted_binding_has_no_revision() -> None:
    steps = told(facts(revisions=[(3000, {"spec": {"nodeName": "m2"}})]))
    assert next(s.about for s in steps if s.step == "bound") == "to m2"


def test_refusals_warnings_and_silence_are_told() -> None:
    refused = {"at": AT + 0.5, "node": "", "message": "0/3 nodes are available", "nodes": None}
    warned = event("BackOff", AT + 3, "Back-off restarting", type="Warning", count=4)
    seen = facts(decisions=[refused], events=[warned], silent={"the store": "no leader"})
    text = render(seen)
    assert any(line.split()[2:] == ["refused", "0/3", "nodes", "are", "available"] for line in text.splitlines())
    assert "Back-off restarting (4 times)" in text
    assert text.endswith("not asked: the store: no leader")
    assert as_json(seen)["silent"] == {"the store": "no leader"}


def test_an_old_slice_does_not_make_a_pod_reachable_before_it_was_ready() -> None:
    old = facts()
    old.slices[0]["metadata"]["creationTimestamp"] = "2026-11-27T06:00:00Z"
    assert [s.step for s in told(old)] == [s.step for s in told(facts())]
    assert told(old)[-2].at == AT + 2
