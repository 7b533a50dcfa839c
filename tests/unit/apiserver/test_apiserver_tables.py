"""The cells that `kubectl get` prints."""

import pytest

from cluster.api.meta import rfc3339
from cluster.api.scheme import SCHEME
from cluster.apiserver import tables

NOW = 1_700_000_000.0


def cells(resource: str, obj: dict) -> dict[str, object]:
    printer = tables.printer_for(SCHEME.named(resource))
    obj.setdefault("metadata", {}).setdefault("name", "x")
    obj["metadata"].setdefault("creationTimestamp", rfc3339(NOW - 90))
    row = printer.row(obj, NOW)
    assert len(row) == len(printer.columns)
    return {c.name: v for c, v in zip(printer.columns, row, strict=True)}


def pod(status: dict, spec: dict | None = None, meta: dict | None = None) -> dict:
    return {"metadata": meta or {}, "spec": {"containers": [{"name": "c"}], **(spec or {})}, "status": status}


def running(ready: bool = True, restarts: int = 0, **more) -> dict:
    return {"name": "c", "ready": ready, "restartCount": restarts, "state": {"running": {}}, **more}


@pytest.mark.parametrize(
    ("what", "want"),
    [
        (pod({"phase": "Pending"}), ("0/1", "Pending", "0")),
        (pod({"phase": "Running", "containerStatuses": [running()]}), ("1/1", "Running", "0")),
        (
            pod({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}),
            ("0/1", "ContainerCreating", "0"),
        ),
        (
            pod(
                {
                    "phase": "Running",
                    "containerStatuses": [
                        {
                            "restartCount": 3,
                            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                            "lastState": {"terminated": {"finishedAt": rfc3339(NOW - 30)}},
                        }
                    ],
                }
            ),
            ("0/1", "CrashLoopBackOff", "3 (30s ago)"),
        ),
        (
            pod({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}]}),
            ("0/1", "Completed", "0"),
        ),
        (
            pod({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
            ("0/1", "ExitCode:3", "0"),
        ),
        (
            pod({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9, "exitCode": 137}}}]}),
            ("0/1", "Signal:9", "0"),
        ),
        (pod({"phase": "Failed", "reason": "Evicted"}), ("0/1", "Evicted", "0")),
        (
            pod(
                {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]},
                {"initContainers": [{"name": "i"}]},
            ),
            ("0/1", "Init:0/1", "0"),
        ),
        (
            pod(
                {
                    "phase": "Pending",
                    "initContainerStatuses": [
                        {"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
                    ],
                },
                {"initContainers": [{"name": "i"}]},
            ),
            ("0/1", "Init:Error", "0"),
        ),
        (
            pod(
                {"phase": "Running", "containerStatuses": [running()]},
                meta={"deletionTimestamp": rfc3339(NOW)},
            ),
            ("1/1", "Terminating", "0"),
        ),
        (
            pod(
                {
                    "phase": "Running",
                    "conditions": [{"type": "Initialized", "status": "True"}],
                    "initContainerStatuses": [{"name": "s", "started": True, "ready": True, "state": {"running": {}}}],
                    "containerStatuses": [running()],
                },
                {"initContainers": [{"name": "s", "restartPolicy": "Always"}]},
            ),
            ("2/2", "Running", "0"),
        ),
    ],
)
def test_pod_status(what, want):
    got = cells("pods", what)
    assert (got["Ready"], got["Status"], got["Restarts"]) == want


def test_pod_wide():
    status = {"phase": "Running", "podIPs": [{"ip": "10.244.0.5"}], "conditions": [{"type": "g", "status": "True"}]}
    got = cells("pods", pod(status, {"nodeName": "m1", "readinessGates": [{"conditionType": "g"}]}))
    assert (got["IP"], got["Node"], got["Nominated Node"], got["Readiness Gates"]) == (
        "10.244.0.5",
        "m1",
        "<none>",
        "1/1",
    )
    printer = tables.printer_for(SCHEME.named("pods"))
    assert [c.priority for c in printer.columns] == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_workloads():
    template = {"spec": {"containers": [{"name": "c", "image": "nginx:1.21"}]}}
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": "w"}}, "template": template}
    got = cells("deployments.apps", {"spec": spec, "status": {"readyReplicas": 2, "updatedReplicas": 3}})
    assert (got["Ready"], got["Up-to-date"], got["Available"], got["Age"]) == ("2/3", 3, 0, "90s")
    assert (got["Containers"], got["Images"], got["Selector"]) == ("c", "nginx:1.21", "app=w")
    got = cells("statefulsets.apps", {"spec": spec, "status": {}})
    assert got["Ready"] == "0/3"
    got = cells("daemonsets.apps", {"spec": spec, "status": {"desiredNumberScheduled": 2}})
    assert (got["Desired"], got["Node Selector"]) == (2, "<none>")


def test_services_and_nodes():
    spec = {"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}
    got = cells("services", {"spec": spec})
    assert (got["Type"], got["Cluster-IP"], got["External-IP"], got["Port(s)"]) == (
        "NodePort",
        "10.96.0.9",
        "<none>",
        "80:30080/TCP",
    )
    node = {
        "metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.89.0.11"}],
            "nodeInfo": {"kubeletVersion": "v1.34.0+sk8"},
        },
    }
    got = cells("nodes", node)
    assert (got["Status"], got["Roles"]) == ("Ready,SchedulingDisabled", "control-plane")
    assert (got["Internal-IP"], got["External-IP"], got["OS-Image"]) == ("10.89.0.11", "<none>", "<unknown>")


def test_storage_and_events():
    claim = {"spec": {"volumeName": "pv-1", "storageClassName": "block"}}
    claim["status"] = {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}
    got = cells("persistentvolumeclaims", claim)
    assert (got["Status"], got["Volume"], got["Capacity"], got["Access Modes"]) == ("Bound", "pv-1", "1Gi", "RWO")
    event = {
        "type": "Warning",
        "reason": "BackOff",
        "message": "again",
        "count": 4,
        "firstTimestamp": rfc3339(NOW - 600),
        "lastTimestamp": rfc3339(NOW - 5),
        "involvedObject": {"kind": "Pod", "name": "p"},
    }
    got = cells("events", event)
    assert (got["Last Seen"], got["Object"], got["Count"]) == ("5s", "pod/p", 4)


def test_scale_has_columns_of_its_own():
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}}
    scale |= {"spec": {"replicas": 3}, "status": {"replicas": 2}}
    printer = tables.printer_for(SCHEME.named("deployments.apps"), scale)
    assert [c.name for c in printer.columns] == ["Name", "Desired", "Available", "Age"]
    assert printer.row(scale, NOW)[:3] == ["web", 3, 2]


def test_every_kind_prints_an_empty_object():
    for info in SCHEME.all():
        assert cells(info.name, {}), info.name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (3600, "60m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (47 * 3600, "47h"),
        (50 * 3600, "2d2h"),
        (100 * 86400, "100d"),
        (800 * 86400, "2y70d"),
    ],
)
def test_human_duration(seconds, text):
    assert tables.human_duration(seconds) == text


def test_jobs_say_how_they_ended_before_how_they_were_about_to():
    def status(*types, **meta):
        conditions = [{"type": t, "status": "True"} for t in types]
        return cells("jobs.batch", {"metadata": meta, "status": {"conditions": conditions}})["Status"]

    assert status("SuccessCriteriaMet", "Complete") == "Complete"
    assert status("FailureTarget", "Failed") == "Failed"
    assert status("FailureTarget") == "FailureTarget"
    assert status("Suspended", deletionTimestamp="2026-01-01T00:00:00Z") == "Terminating"
    assert status() == "Running"
