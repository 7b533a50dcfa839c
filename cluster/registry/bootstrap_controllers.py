"""The roles of Kubernetes' own controllers, `system:controller:<name>`, each bound to its account in kube-system.

Pure data, after k8s.io/kubernetes plugin/pkg/auth/authorizer/rbac/bootstrappolicy. sk8's controllers run under one
identity (system:kube-controller-manager) and need none of them: they are here for those who bring a controller of
Kubernetes along, or refer to a role by name.

A line is `verbs / groups / resources`, and `/ names` where a rule has them; core is the group without a name.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

PREFIX = "system:controller:"
_READ = "get list watch"
_EVENTS = "create patch update / core events.k8s.io / events"

_CONTROLLERS: dict[str, tuple[str, ...]] = {
    "attachdetach-controller": (
        "list watch / core / persistentvolumes persistentvolumeclaims",
        f"{_READ} / core / nodes",
        "patch update / core / nodes/status",
        "list watch / core / pods",
        _EVENTS,
        "get create delete list watch / storage.k8s.io / volumeattachments",
        f"{_READ} / storage.k8s.io / csidrivers",
        f"{_READ} / storage.k8s.io / csinodes",
    ),
    "certificate-controller": (
        "get list watch delete / certificates.k8s.io / certificatesigningrequests",
        "update / certificates.k8s.io / certificatesigningrequests/status certificatesigningrequests/approval",
        "approve / certificates.k8s.io / signers / kubernetes.io/kube-apiserver-client-kubelet",
        "sign / certificates.k8s.io / signers / kubernetes.io/legacy-unknown kubernetes.io/kube-apiserver-client "
        "kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving",
        "create / authorization.k8s.io / subjectaccessreviews",
        _EVENTS,
    ),
    "clusterrole-aggregation-controller": (
        "escalate get list watch update patch / rbac.authorization.k8s.io / clusterroles",
    ),
    "cronjob-controller": (
        "get list watch update / batch / cronjobs",
        "get list watch create update delete patch / batch / jobs",
        "update / batch / cronjobs/status",
        "update / batch / cronjobs/finalizers",
        "list watch delete / core / pods",
        _EVENTS,
    ),
    "daemon-set-controller": (
        f"{_READ} / extensions apps / daemonsets",
        "update / extensions apps / daemonsets/status",
        "update / extensions apps / daemonsets/finalizers",
        "list watch / core / nodes",
        "list watch create delete patch / core / pods",
        "create / core / pods/binding",
        "get list watch create delete update patch / apps / controllerrevisions",
        _EVENTS,
    ),
    "deployment-controller": (
        "get list watch update / extensions apps / deployments",
        "update / extensions apps / deployments/status",
        "update / extensions apps / deployments/finalizers",
        "get list watch create update patch delete / apps extensions / replicasets",
        "get list watch update / core / pods",
        _EVENTS,
    ),
    "disruption-controller": (
        f"{_READ} / extensions apps / deployments",
        f"{_READ} / apps extensions / replicasets",
        f"{_READ} / core / replicationcontrollers",
        f"{_READ} / policy / poddisruptionbudgets",
        f"{_READ} / apps / statefulsets",
        "update / policy / poddisruptionbudgets/status",
        "patch update / core / pods/status",
        "get / * / */scale",
        _EVENTS,
    ),
    "endpoint-controller": (
        f"{_READ} / core / services pods",
        "get list watch create update delete / core / endpoints",
        "create / core / endpoints/restricted",
        _EVENTS,
    ),
    "endpointslice-controller": (
        f"{_READ} / core / services pods nodes",
        "update / core / services/finalizers",
        "get list watch create update delete / discovery.k8s.io / endpointslices",
        _EVENTS,
    ),
    "endpointslicemirroring-controller": (
        f"{_READ} / core / services endpoints",
        "update / core / services/finalizers",
        "update / core / endpoints/finalizers",
        "get list watch create update delete / discovery.k8s.io / endpointslices",
        _EVENTS,
    ),
    "ephemeral-volume-controller": (
        f"{_READ} / core / pods",
        "update / core / pods/finalizers",
        "get list watch create / core / persistentvolumeclaims",
        _EVENTS,
    ),
    "expand-controller": (
        "get list watch update patch / core / persistentvolumes",
        "update patch / core / persistentvolumeclaims/status",
        f"{_READ} / core / persistentvolumeclaims",
        _EVENTS,
    ),
    "generic-garbage-collector": ("get list watch patch update delete / * / *", _EVENTS),
    "horizontal-pod-autoscaler": (
        f"{_READ} / autoscaling / horizontalpodautoscalers",
        "update / autoscaling / horizontalpodautoscalers/status",
        "get update / * / */scale",
        "list watch / core / pods",
        "list watch / metrics.k8s.io / pods",
        f"{_READ} / custom.metrics.k8s.io / *",
        f"{_READ} / external.metrics.k8s.io / *",
        _EVENTS,
    ),
    "job-controller": (
        "get list watch update patch / batch / jobs",
        "update / batch / jobs/status",
        "update / batch / jobs/finalizers",
        "list watch create delete patch / core / pods",
        _EVENTS,
    ),
    "legacy-service-account-token-cleaner": (
        "get / core / configmaps / kube-apiserver-legacy-service-account-token-tracking",
        "patch delete / core / secrets",
    ),
    "namespace-controller": (
        "get list watch delete / core / namespaces",
        "update / core / namespaces/finalize namespaces/status",
        "get list watch delete deletecollection / * / *",
    ),
    "node-controller": (
        "get list watch update delete patch / core / nodes",
        "patch update / core / nodes/status",
        "patch update / core / pods/status",
        "list watch get delete / core / pods",
        _EVENTS,
    ),
    "persistent-volume-binder": (
        "get list watch update create delete / core / persistentvolumes",
        "update / core / persistentvolumes/status",
        "get list watch update / core / persistentvolumeclaims",
        "update / core / persistentvolumeclaims/status",
        "list watch get create delete / core / pods",
        f"{_READ} / storage.k8s.io / storageclasses",
        "list watch / core / nodes",
        _EVENTS,
        "watch / core / events",
    ),
    "pod-garbage-collector": (
        "list watch delete / core / pods",
        f"{_READ} / core / nodes",
        "patch / core / pods/status",
    ),
    "pv-protection-controller": ("get list watch update / core / persistentvolumes", _EVENTS),
    "pvc-protection-controller": (
        "get list watch update / core / persistentvolumeclaims",
        "list watch get / core / pods",
        _EVENTS,
    ),
    "replicaset-controller": (
        "get list watch update / apps extensions / replicasets",
        "update / apps extensions / replicasets/status",
        "update / apps extensions / replicasets/finalizers",
        "list watch patch create delete / core / pods",
        _EVENTS,
    ),
    "replication-controller": (
        "get list watch update / core / replicationcontrollers",
        "update / core / replicationcontrollers/status",
        "update / core / replicationcontrollers/finalizers",
        "list watch patch create delete / core / pods",
        _EVENTS,
    ),
    "resourcequota-controller": ("list watch / * / *", "update / core / resourcequotas/status", _EVENTS),
    "root-ca-cert-publisher": ("create update / core / configmaps", _EVENTS),
    "route-controller": ("list watch / core / nodes", "patch / core / nodes/status", _EVENTS),
    "service-account-controller": ("create / core / serviceaccounts", _EVENTS),
    "service-controller": (
        f"{_READ} / core / services",
        "patch update / core / services/status",
        "list watch / core / nodes",
        _EVENTS,
    ),
    "statefulset-controller": (
        "list watch / core / pods",
        f"{_READ} / apps / statefulsets",
        "update / apps / statefulsets/status",
        "update / apps / statefulsets/finalizers",
        "get create delete update patch / core / pods",
        "get create delete update patch list watch / apps / controllerrevisions",
        "get create list watch / core / persistentvolumeclaims",
        "update delete / core / persistentvolumeclaims",
        "update / core / pods/finalizers",
        _EVENTS,
    ),
    "ttl-after-finished-controller": ("get list watch delete / batch / jobs", _EVENTS),
    "ttl-controller": ("update patch list watch / core / nodes", _EVENTS),
    "validatingadmissionpolicy-status-controller": (
        f"{_READ} / admissionregistration.k8s.io / validatingadmissionpolicies",
        "get patch update / admissionregistration.k8s.io / validatingadmissionpolicies/status",
        _EVENTS,
    ),
}


def _rule(line: str) -> Object:
    verbs, groups, resources, *names = (part.split() for part in line.split(" / "))
    rule: Object = {
        "apiGroups": ["" if g == "core" else g for g in groups],
        "resources": resources,
        "verbs": sorted(verbs),
    }
    if names:
        rule["resourceNames"] = names[0]
    return rule


def roles() -> dict[str, list[Object]]:
    return {PREFIX + name: [_rule(line) for line in lines] for name, lines in _CONTROLLERS.items()}


def accounts() -> dict[str, str]:
    """Role -> the name of the account in kube-system it is bound to."""
    return {PREFIX + name: name for name in _CONTROLLERS}
