"""What an object's writer is warned of, though it is accepted: texts for the Warning headers of the answer.

Pure. One file for a family of kinds, one generator for a kind: `advice(new, old)`, where `old` is None for a new
object. Nothing is looked for that is not asked for: who has heard enough stops. What is wrong with a template is told
when it is written, not whenever something else of its object changes. Source: the strategies' WarningsOnCreate and
WarningsOnUpdate, and pkg/api/*/warnings.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cluster.api.scheme import ResourceInfo
from cluster.api.validation.advice import custom, nodes, services, storage, workloads

Object = dict[str, Any]
Advice = Callable[[Object, Object | None], Iterator[str]]

_OF_KIND: dict[str, Advice] = {
    "pods": workloads.pod,
    "podtemplates": workloads.pod_template,
    "replicationcontrollers": workloads.named_workload,
    "deployments.apps": workloads.named_workload,
    "replicasets.apps": workloads.named_workload,
    "daemonsets.apps": workloads.workload,
    "statefulsets.apps": workloads.stateful_set,
    "jobs.batch": workloads.job,
    "cronjobs.batch": workloads.cron_job,
    "services": services.service,
    "ingresses.networking.k8s.io": services.ingress,
    "networkpolicies.networking.k8s.io": services.network_policy,
    "serviceaccounts": services.service_account,
    "persistentvolumes": storage.volume,
    "persistentvolumeclaims": storage.claim,
    "storageclasses.storage.k8s.io": storage.storage_class,
    "csistoragecapacities.storage.k8s.io": storage.capacity,
    "nodes": nodes.node,
    "runtimeclasses.node.k8s.io": nodes.runtime_class,
    "customresourcedefinitions.apiextensions.k8s.io": custom.definition,
}


def warnings(info: ResourceInfo, new: Object, old: Object | None = None) -> Iterator[str]:
    """For the answer to a create, or to an update of `old`."""
    advice = custom.resource if info.custom is not None else _OF_KIND.get(info.name)
    return advice(new, old) if advice is not None else iter(())
