"""What each kind does to itself on its way in: fields reset, kept or derived, before validation.

Pure, in place on the registry's own tree; time is an argument. These are the strategies of k8s.io/kubernetes
`pkg/registry/*/strategy.go`: a write of the main resource cannot touch status, a write of status touches nothing else.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.api import meta, pods
from cluster.api.crd import definition
from cluster.api.scheme import ResourceInfo
from cluster.registry import csr, podparts
from cluster.registry.context import UserInfo
from cluster.registry.servicefields import inherit

Object = dict[str, Any]
Create = Callable[[Object, float], None]
Update = Callable[[Object, Object], None]
StatusUpdate = Callable[[Object, Object, str, float], None]
Asked = Callable[[Object, UserInfo], None]


def _no_create(obj: Object, now: float) -> None:
    return None


def _no_update(new: Object, old: Object) -> None:
    return None


def _no_status(new: Object, old: Object, subresource: str, now: float) -> None:
    return None


def _nobody(obj: Object, user: UserInfo) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Strategy:
    """`has_status`: status is its own subresource. `generation`: counts changes of spec. `unconditional`: replacing
    without a resourceVersion is allowed (`AllowUnconditionalUpdate`). `upsert`: replacing what is not there creates it
    (`AllowCreateOnUpdate`). `status_labels`: a status write may change labels. `ttl_s`: objects
    expire. `on_status` says what a write of status (or approval) may change in it; `asked_by` notes who creates.
    `custom`: a custom resource, whose status write touches nothing but status. `on_delete`: what the first
    deletion does to the object, which may make it wait. `orphans`: a deletion that names no propagation leaves the
    dependents, as Kubernetes keeps it for these kinds (`DefaultGarbageCollectionPolicy`).
    """

    has_status: bool = False
    generation: bool = False
    unconditional: bool = True
    upsert: bool = False
    status_labels: bool = False
    ttl_s: int = 0
    graceful: bool = False
    custom: bool = False
    on_create: Create = _no_create
    on_update: Update = _no_update
    on_status: StatusUpdate = _no_status
    asked_by: Asked = _nobody
    on_delete: Create = _no_create
    orphans: bool = False


def _pod_create(pod: Object, now: float) -> None:
    pod["status"] = {"phase": "Pending", "qosClass": pods.qos_class(pod)}
    if pod["spec"].get("schedulingGates"):
        condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
        message = "Scheduling is blocked due to non-empty scheduling gates"
        pod["status"]["conditions"] = [{**condition, "lastTransitionTime": meta.rfc3339(now), "message": message}]


def _namespace_create(ns: Object, now: float) -> None:
    ns["status"] = {"phase": "Active"}
    finalizers = ns.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")


def _namespace_update(ns: Object, old: Object) -> None:
    ns["spec"] = old.get("spec") or {}


def _secret_fold(secret: Object) -> None:
    """stringData is write-only: it becomes data."""
    for k, v in (secret.pop("stringData", None) or {}).items():
        secret.setdefault("data", {})[k] = base64.b64encode(v.encode()).decode()


def _service_create(service: Object, now: float) -> None:
    service["status"] = {"loadBalancer": {}}


def _pending_create(obj: Object, now: float) -> None:
    obj["status"] = {"phase": "Pending"}


def _empty_status_create(obj: Object, now: float) -> None:
    obj["status"] = {}


def _replica_set_create(obj: Object, now: float) -> None:
    obj["status"] = {"replicas": 0}


def _daemon_set_create(obj: Object, now: float) -> None:
    zero = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady")
    obj["status"] = dict.fromkeys(zero, 0)


def _stateful_set_create(obj: Object, now: float) -> None:
    obj["status"] = {"replicas": 0, "availableReplicas": 0}


def _job_create(job: Object, now: float) -> None:
    """The selector and the template's labels name the job (unless manualSelector); a job without labels gets them."""
    job["status"] = {}
    metadata, spec = job["metadata"], job.get("spec") or {}
    template = spec.setdefault("template", {}).setdefault("metadata", {})
    if not spec.get("manualSelector"):
        uid, name = metadata["uid"], metadata.get("name", "")
        own = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": name}
        template["labels"] = {**(template.get("labels") or {}), "controller-uid": uid, "job-name": name, **own}
        if spec.get("selector") is None:
            spec["selector"] = {}
        spec["selector"].setdefault("matchLabels", {}).setdefault("batch.kubernetes.io/controller-uid", uid)
    if not metadata.get("labels") and template.get("labels"):
        metadata["labels"] = dict(template["labels"])


def _autoscaler_create(obj: Object, now: float) -> None:
    obj["status"] = {"desiredReplicas": 0, "currentMetrics": None}


def _budget_create(obj: Object, now: float) -> None:
    zero = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")
    obj["status"] = dict.fromkeys(zero, 0)


def _attachment_create(obj: Object, now: float) -> None:
    obj["status"] = {"attached": False}


def _custom_create(obj: Object, now: float) -> None:
    obj.pop("status", None)


_PLAIN = Strategy()
_CUSTOM = Strategy(generation=True, unconditional=False, custom=True)
_CUSTOM_WITH_STATUS = Strategy(
    has_status=True, generation=True, unconditional=False, custom=True, on_create=_custom_create
)
_RBAC = ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
_STORAGE = ("csidrivers", "csinodes", "csistoragecapacities", "volumeattributesclasses")
_BY_NAME = {
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": Strategy(generation=True, unconditional=False),
    "validatingwebhookconfigurations.admissionregistration.k8s.io": Strategy(generation=True, unconditional=False),
    "mutatingadmissionpolicies.admissionregistration.k8s.io": Strategy(generation=True, unconditional=False),
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io": Strategy(generation=True, unconditional=False),
    "validatingadmissionpolicies.admissionregistration.k8s.io": Strategy(
        has_status=True, generation=True, unconditional=False, on_create=_empty_status_create
    ),
    "validatingadmissionpolicybindings.admissionregistration.k8s.io": Strategy(generation=True, unconditional=False),
    "pods": Strategy(has_status=True, generation=True, status_labels=True, graceful=True, on_create=_pod_create),
    "services": Strategy(
        has_status=True, status_labels=True, upsert=True, on_create=_service_create, on_update=inherit
    ),
    "nodes": Strategy(has_status=True, status_labels=True),
    "namespaces": Strategy(
        has_status=True, status_labels=True, on_create=_namespace_create, on_update=_namespace_update
    ),
    "secrets": Strategy(on_create=lambda obj, now: _secret_fold(obj), on_update=lambda new, old: _secret_fold(new)),
    "events": Strategy(ttl_s=3600, upsert=True),
    "persistentvolumes": Strategy(has_status=True, status_labels=True, on_create=_pending_create),
    "persistentvolumeclaims": Strategy(has_status=True, status_labels=True, on_create=_pending_create),
    "resourcequotas": Strategy(has_status=True, on_create=_empty_status_create),
    "deployments.apps": Strategy(has_status=True, generation=True, on_create=_empty_status_create),
    "replicasets.apps": Strategy(has_status=True, generation=True, on_create=_replica_set_create),
    "statefulsets.apps": Strategy(has_status=True, generation=True, on_create=_stateful_set_create),
    "daemonsets.apps": Strategy(has_status=True, generation=True, on_create=_daemon_set_create),
    "horizontalpodautoscalers.autoscaling": Strategy(has_status=True, on_create=_autoscaler_create),
    "jobs.batch": Strategy(has_status=True, generation=True, on_create=_job_create, orphans=True),
    "cronjobs.batch": Strategy(has_status=True, generation=True, on_create=_empty_status_create),
    "poddisruptionbudgets.policy": Strategy(
        has_status=True, generation=True, unconditional=False, on_create=_budget_create
    ),
    "volumeattachments.storage.k8s.io": Strategy(has_status=True, unconditional=False, on_create=_attachment_create),
    "customresourcedefinitions.apiextensions.k8s.io": Strategy(
        has_status=True,
        generation=True,
        unconditional=False,
        on_create=definition.on_create,
        on_update=definition.on_update,
        on_delete=definition.on_delete,
    ),
    "apiservices.apiregistration.k8s.io": Strategy(
        has_status=True, unconditional=False, on_create=_empty_status_create
    ),
    "endpointslices.discovery.k8s.io": Strategy(generation=True),
    "replicationcontrollers": Strategy(has_status=True, generation=True, on_create=_replica_set_create, orphans=True),
    "podtemplates": Strategy(generation=True),
    "networkpolicies.networking.k8s.io": Strategy(generation=True),
    "ingresses.networking.k8s.io": Strategy(has_status=True, generation=True, on_create=_service_create),
    "ingressclasses.networking.k8s.io": Strategy(generation=True),
    "servicecidrs.networking.k8s.io": Strategy(has_status=True, generation=True, on_create=_empty_status_create),
    "resourceclaims.resource.k8s.io": Strategy(has_status=True, on_create=_empty_status_create),
    "deviceclasses.resource.k8s.io": Strategy(generation=True),
    "resourceslices.resource.k8s.io": Strategy(generation=True),
    "certificatesigningrequests.certificates.k8s.io": Strategy(
        has_status=True,
        on_create=_empty_status_create,
        on_update=csr.keep_request,
        on_status=csr.merge_status,
        asked_by=csr.note_requester,
    ),
    "leases.coordination.k8s.io": Strategy(unconditional=False, upsert=True),
    **dict.fromkeys(("endpoints", "limitranges"), Strategy(upsert=True)),
    **{f"{kind}.rbac.authorization.k8s.io": Strategy(upsert=True) for kind in _RBAC},
    "runtimeclasses.node.k8s.io": Strategy(unconditional=False, upsert=True),
    **{f"{kind}.storage.k8s.io": Strategy(unconditional=False) for kind in _STORAGE},
    "flowschemas.flowcontrol.apiserver.k8s.io": Strategy(
        has_status=True, generation=True, on_create=_empty_status_create
    ),
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": Strategy(
        has_status=True, generation=True, on_create=_empty_status_create
    ),
}


def strategy_for(info: ResourceInfo) -> Strategy:
    if info.custom is not None:
        return _CUSTOM_WITH_STATUS if info.custom.has_status else _CUSTOM
    return _BY_NAME.get(info.name, _PLAIN)


# --- metadata that only the server writes ---------------------------------------------------------------------------

_SERVER_OWNED = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)


def stamp_new(obj: Object, uid: str, now: float, strategy: Strategy) -> None:
    """Metadata of a new object. The kind's own `on_create` comes once admission has changed what it wanted."""
    metadata = obj["metadata"]
    for field in (*_SERVER_OWNED, "resourceVersion", "managedFields"):
        metadata.pop(field, None)
    metadata["uid"] = uid
    metadata["creationTimestamp"] = meta.rfc3339(now)
    if strategy.generation:
        metadata["generation"] = 1


def carry_over(new: Object, old: Object) -> None:
    """Metadata that an update cannot change."""
    metadata, before = new["metadata"], old["metadata"]
    for field in _SERVER_OWNED:
        if field in before:
            metadata[field] = before[field]
        else:
            metadata.pop(field, None)
    metadata.pop("resourceVersion", None)


def merge_for_update(new: Object, old: Object, subresource: str, strategy: Strategy, now: float) -> None:
    """Keep from `old` what this write must not touch, then derive."""
    if subresource in podparts.SUBRESOURCES:
        podparts.take_part(new, old, subresource)
    carry_over(new, old)
    if subresource in ("status", "approval"):
        for key in list(new):
            if key not in ("metadata", "status", "kind", "apiVersion"):
                del new[key]
        for key, value in old.items():
            if key not in ("metadata", "status", "kind", "apiVersion"):
                new[key] = value
        if strategy.custom:
            mine = new["metadata"].get("managedFields")
            new["metadata"] = {k: v for k, v in old["metadata"].items() if k != "resourceVersion"}
            if mine is not None:
                new["metadata"]["managedFields"] = mine
            return
        _keep_metadata(new, old, labels=not strategy.status_labels)
        strategy.on_status(new, old, subresource, now)
        return
    if strategy.has_status:
        if "status" in old:
            new["status"] = old["status"]
        else:
            new.pop("status", None)
    if subresource == "finalize":
        spec = new.get("spec")
        new["metadata"] = {**old["metadata"]}
        new["metadata"].pop("resourceVersion", None)
        new["spec"] = {**(old.get("spec") or {}), "finalizers": (spec or {}).get("finalizers") or []}
        return
    strategy.on_update(new, old)


def _keep_metadata(new: Object, old: Object, labels: bool) -> None:
    fields = ["ownerReferences", "finalizers"] + (["labels"] if labels else [])
    for field in fields:
        if field in old["metadata"]:
            new["metadata"][field] = old["metadata"][field]
        else:
            new["metadata"].pop(field, None)


def bump_generation(new: Object, old: Object, strategy: Strategy) -> None:
    """A change outside metadata and status is a new generation."""
    if not strategy.generation:
        return
    aside = {"metadata", "kind", "apiVersion"} | ({"status"} if strategy.has_status or not strategy.custom else set())
    changed = any(new.get(k) != old.get(k) for k in {**new, **old} if k not in aside)
    generation = old["metadata"].get("generation", 0)
    new["metadata"]["generation"] = generation + 1 if changed else generation or 1
