"""Validation: what Kubernetes refuses, with its words.

Pure. `create` and `update` return the causes of a 422; an empty list accepts. Objects are decoded and defaulted
already, so types are right and defaults are there. Rules are those of k8s.io/kubernetes `pkg/apis/*/validation` for
the fields this cluster gives a meaning to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.api.errors import Cause
from cluster.api.scheme import ResourceInfo
from cluster.api.validation import (
    addresses,
    admission,
    apiservices,
    autoscaling,
    batch,
    certificates,
    controlplane,
    csi,
    devices,
    ips,
    limits,
    metadata,
    networking,
    podparts,
    pods,
    services,
    storage,
    workloads,
)
from cluster.api.validation import cluster as cluster_kinds
from cluster.api.validation.fields import Faults

Object = dict[str, Any]
OnCreate = Callable[[Faults, Object], None]
OnUpdate = Callable[[Faults, Object, Object], None]

_CREATE: dict[str, OnCreate] = {
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": admission.validate_mutating_webhooks,
    "validatingwebhookconfigurations.admissionregistration.k8s.io": admission.validate_validating_webhooks,
    "mutatingadmissionpolicies.admissionregistration.k8s.io": admission.validate_mutating_policy,
    "validatingadmissionpolicies.admissionregistration.k8s.io": admission.validate_validating_policy,
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io": admission.validate_mutating_binding,
    "validatingadmissionpolicybindings.admissionregistration.k8s.io": admission.validate_validating_binding,
    "pods": pods.validate_pod,
    "deployments.apps": workloads.validate_deployment,
    "replicasets.apps": workloads.validate_replica_set,
    "statefulsets.apps": workloads.validate_stateful_set,
    "daemonsets.apps": workloads.validate_daemon_set,
    "controllerrevisions.apps": workloads.validate_revision,
    "horizontalpodautoscalers.autoscaling": autoscaling.validate_autoscaler,
    "jobs.batch": batch.validate_job,
    "cronjobs.batch": batch.validate_cron_job,
    "poddisruptionbudgets.policy": workloads.validate_budget,
    "services": services.validate_service,
    "endpoints": services.validate_endpoints,
    "endpointslices.discovery.k8s.io": services.validate_endpoint_slice,
    "persistentvolumes": storage.validate_volume,
    "persistentvolumeclaims": storage.validate_claim,
    "storageclasses.storage.k8s.io": storage.validate_storage_class,
    "volumeattachments.storage.k8s.io": storage.validate_attachment,
    "configmaps": storage.validate_config_map,
    "secrets": storage.validate_secret,
    "roles.rbac.authorization.k8s.io": cluster_kinds.validate_role,
    "clusterroles.rbac.authorization.k8s.io": cluster_kinds.validate_cluster_role,
    "rolebindings.rbac.authorization.k8s.io": cluster_kinds.validate_role_binding,
    "clusterrolebindings.rbac.authorization.k8s.io": cluster_kinds.validate_cluster_role_binding,
    "priorityclasses.scheduling.k8s.io": cluster_kinds.validate_priority_class,
    "leases.coordination.k8s.io": cluster_kinds.validate_lease,
    "events": cluster_kinds.validate_event,
    "nodes": cluster_kinds.validate_node,
    "customresourcedefinitions.apiextensions.k8s.io": cluster_kinds.validate_definition,
    "apiservices.apiregistration.k8s.io": apiservices.validate_api_service,
    "resourcequotas": limits.validate_quota,
    "limitranges": limits.validate_limit_range,
    "replicationcontrollers": workloads.validate_replication_controller,
    "podtemplates": workloads.validate_pod_template,
    "networkpolicies.networking.k8s.io": networking.validate_network_policy,
    "ingresses.networking.k8s.io": networking.validate_ingress,
    "ingressclasses.networking.k8s.io": networking.validate_ingress_class,
    "ipaddresses.networking.k8s.io": addresses.validate_ip_address,
    "servicecidrs.networking.k8s.io": addresses.validate_service_cidr,
    "deviceclasses.resource.k8s.io": devices.validate_class,
    "resourceclaims.resource.k8s.io": devices.validate_claim,
    "resourceclaimtemplates.resource.k8s.io": devices.validate_claim_template,
    "resourceslices.resource.k8s.io": devices.validate_slice,
    "csidrivers.storage.k8s.io": csi.validate_driver,
    "csinodes.storage.k8s.io": csi.validate_node,
    "csistoragecapacities.storage.k8s.io": csi.validate_capacity,
    "volumeattributesclasses.storage.k8s.io": csi.validate_attributes_class,
    "runtimeclasses.node.k8s.io": controlplane.validate_runtime_class,
    "flowschemas.flowcontrol.apiserver.k8s.io": controlplane.validate_flow_schema,
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": controlplane.validate_priority_level,
    "certificatesigningrequests.certificates.k8s.io": certificates.validate_request,
}

_UPDATE: dict[str, OnUpdate] = {
    "pods": pods.validate_pod_update,
    "deployments.apps": workloads.validate_selector_update,
    "replicasets.apps": workloads.validate_selector_update,
    "statefulsets.apps": workloads.validate_stateful_set_update,
    "daemonsets.apps": workloads.validate_selector_update,
    "controllerrevisions.apps": workloads.validate_revision_update,
    "jobs.batch": batch.validate_job_update,
    "services": services.validate_service_update,
    "endpointslices.discovery.k8s.io": services.validate_endpoint_slice_update,
    "persistentvolumes": storage.validate_volume_update,
    "persistentvolumeclaims": storage.validate_claim_update,
    "storageclasses.storage.k8s.io": storage.validate_storage_class_update,
    "volumeattachments.storage.k8s.io": storage.validate_attachment_update,
    "configmaps": storage.validate_frozen_data,
    "secrets": storage.validate_secret_update,
    "rolebindings.rbac.authorization.k8s.io": cluster_kinds.validate_binding_update,
    "clusterrolebindings.rbac.authorization.k8s.io": cluster_kinds.validate_binding_update,
    "priorityclasses.scheduling.k8s.io": cluster_kinds.validate_priority_class_update,
    "nodes": cluster_kinds.validate_node_update,
    "apiservices.apiregistration.k8s.io": apiservices.validate_api_service_update,
    "resourcequotas": limits.validate_quota_update,
    "ingressclasses.networking.k8s.io": networking.validate_ingress_class_update,
    "ipaddresses.networking.k8s.io": addresses.validate_ip_address_update,
    "servicecidrs.networking.k8s.io": addresses.validate_service_cidr_update,
    "resourceclaims.resource.k8s.io": devices.validate_fixed_spec,
    "resourceclaimtemplates.resource.k8s.io": devices.validate_fixed_spec,
    "resourceslices.resource.k8s.io": devices.validate_slice_update,
    "csidrivers.storage.k8s.io": csi.validate_driver_update,
    "csinodes.storage.k8s.io": csi.validate_node_update,
    "csistoragecapacities.storage.k8s.io": csi.validate_capacity_update,
    "volumeattributesclasses.storage.k8s.io": csi.validate_attributes_class_update,
    "runtimeclasses.node.k8s.io": controlplane.validate_runtime_class_update,
}

_WHOLE_FIRST = frozenset(
    ("deployments.apps", "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch", "persistentvolumes",
     "persistentvolumeclaims", "storageclasses.storage.k8s.io", "rolebindings.rbac.authorization.k8s.io",
     "clusterrolebindings.rbac.authorization.k8s.io")
)  # fmt: skip
_PARTS: dict[tuple[str, str], OnUpdate] = {
    ("pods", "status"): ips.validate_pod_status,
    ("services", "status"): ips.validate_service_status,
    ("resourcequotas", "status"): limits.validate_quota_status,
    ("certificatesigningrequests.certificates.k8s.io", "status"): certificates.validate_status,
    ("certificatesigningrequests.certificates.k8s.io", "approval"): certificates.validate_approval,
    ("customresourcedefinitions.apiextensions.k8s.io", ""): cluster_kinds.validate_definition_update,
    ("customresourcedefinitions.apiextensions.k8s.io", "status"): cluster_kinds.validate_definition_status,
    ("pods", "ephemeralcontainers"): podparts.validate_ephemeral_update,
    ("pods", "resize"): podparts.validate_resize,
}


def create(info: ResourceInfo, obj: Object) -> list[Cause]:
    faults = Faults()
    metadata.validate(faults, info, obj["metadata"])
    if info.custom is not None:
        return [*faults.causes, *info.custom.validate(obj)]
    if info.name == "pods" and (obj.get("spec") or {}).get("ephemeralContainers"):
        faults.forbidden("spec.ephemeralContainers", "cannot be set on create")
    fn = _CREATE.get(info.name)
    if fn is not None:
        fn(faults, obj)
    return faults.causes


def update(info: ResourceInfo, new: Object, old: Object, subresource: str = "") -> list[Cause]:
    """A status write is checked for its metadata, and where the kind asks for it, its status."""
    faults = Faults()
    metadata.validate_update(faults, info, new["metadata"], old["metadata"])
    if info.custom is not None:
        return [*faults.causes, *info.custom.validate(new, old, status=subresource == "status")]
    if info.name == "pods":
        podparts.validate_mirror(faults, new, old)
    part = _PARTS.get((info.name, subresource))
    if part is not None:
        part(faults, new, old)
    if part is not None or subresource in ("status", "approval", "finalize"):
        return faults.causes
    spec_changed = any(new.get(k) != old.get(k) for k in {**new, **old} if k not in ("metadata", "status"))
    if spec_changed:
        _changed(faults, info, new, old)
    return list(dict.fromkeys(faults.causes))


def _changed(faults: Faults, info: ResourceInfo, new: Object, old: Object) -> None:
    """What is wrong with the object as it would be, and with its change. A kind whose change says all of it is judged
    as a whole only once that is right."""
    whole, change = _CREATE.get(info.name), _UPDATE.get(info.name)
    if whole is not None and info.name in _WHOLE_FIRST:
        whole(faults, new)
    if change is not None:
        change(faults, new, old)
    if whole is not None and info.name not in _WHOLE_FIRST and not faults.causes:
        whole(faults, new)


def has(info: ResourceInfo) -> bool:
    """Whether the kind has rules of its own."""
    return info.name in _CREATE or info.name in _UPDATE
