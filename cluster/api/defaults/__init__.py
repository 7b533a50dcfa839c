"""Defaulting: what Kubernetes fills in before it validates and stores.

Pure; changes the object in place (the registry's own decoded tree). Each kind's function is that of k8s.io/kubernetes
`pkg/apis/*/v1/defaults.go`; applying one twice changes nothing more.
"""

from __future__ import annotations

from typing import Any

from cluster.api.crd import definition
from cluster.api.defaults import (
    admission,
    batch,
    cluster,
    devices,
    limits,
    networking,
    pods,
    services,
    storage,
    workloads,
)
from cluster.api.scheme import ResourceInfo
from cluster.api.validation import apiservices

_BY_NAME = {
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": admission.default_mutating_webhooks,
    "validatingwebhookconfigurations.admissionregistration.k8s.io": admission.default_validating_webhooks,
    "mutatingadmissionpolicies.admissionregistration.k8s.io": admission.default_policy,
    "validatingadmissionpolicies.admissionregistration.k8s.io": admission.default_policy,
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io": admission.default_policy_binding,
    "validatingadmissionpolicybindings.admissionregistration.k8s.io": admission.default_policy_binding,
    "pods": pods.default_pod,
    "services": services.default_service,
    "endpoints": services.default_endpoints,
    "endpointslices.discovery.k8s.io": services.default_endpoint_slice,
    "deployments.apps": workloads.default_deployment,
    "replicasets.apps": workloads.default_replica_set,
    "statefulsets.apps": workloads.default_stateful_set,
    "daemonsets.apps": workloads.default_daemon_set,
    "jobs.batch": batch.default_job,
    "cronjobs.batch": batch.default_cron_job,
    "horizontalpodautoscalers.autoscaling": workloads.default_autoscaler,
    "poddisruptionbudgets.policy": workloads.default_budget,
    "persistentvolumes": storage.default_volume,
    "persistentvolumeclaims": storage.default_claim,
    "storageclasses.storage.k8s.io": storage.default_storage_class,
    "secrets": storage.default_secret,
    "limitranges": limits.default_limit_range,
    "replicationcontrollers": workloads.default_replication_controller,
    "podtemplates": workloads.default_pod_template,
    "networkpolicies.networking.k8s.io": networking.default_network_policy,
    "ingressclasses.networking.k8s.io": networking.default_ingress_class,
    "csidrivers.storage.k8s.io": cluster.default_driver,
    "flowschemas.flowcontrol.apiserver.k8s.io": cluster.default_flow_schema,
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": cluster.default_priority_level,
    "resourceclaims.resource.k8s.io": devices.default_claim,
    "resourceclaimtemplates.resource.k8s.io": devices.default_claim_template,
    "namespaces": workloads.default_namespace,
    "customresourcedefinitions.apiextensions.k8s.io": definition.default,
    "apiservices.apiregistration.k8s.io": apiservices.default_api_service,
    "nodes": workloads.default_node,
    "rolebindings.rbac.authorization.k8s.io": workloads.default_role_binding,
    "clusterrolebindings.rbac.authorization.k8s.io": workloads.default_role_binding,
    "priorityclasses.scheduling.k8s.io": workloads.default_priority_class,
}


def apply(info: ResourceInfo, obj: dict[str, Any]) -> None:
    if info.custom is not None:
        info.custom.default(obj)
        return
    fn = _BY_NAME.get(info.name)
    if fn is not None:
        fn(obj)


def has(info: ResourceInfo) -> bool:
    return info.name in _BY_NAME
