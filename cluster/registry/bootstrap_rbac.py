"""The roles and bindings every cluster starts with.

Pure data, after k8s.io/kubernetes plugin/pkg/auth/authorizer/rbac/bootstrappolicy, for the kinds this cluster serves.
Node identities need no role: the Node authorizer judges them.
"""

from __future__ import annotations

from typing import Any

from cluster.registry import bootstrap_controllers

Object = dict[str, Any]

_GROUP = "rbac.authorization.k8s.io"
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}

_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_ALL = [*_READ, *_WRITE]


def _rule(groups: str, resources: str, verbs: list[str], names: str = "") -> Object:
    rule: Object = {
        "apiGroups": ["" if g == "core" else g for g in groups.split()],
        "resources": resources.split(),
        "verbs": verbs,
    }
    if names:
        rule["resourceNames"] = names.split()
    return rule


def _urls(urls: str, verbs: list[str]) -> Object:
    return {"nonResourceURLs": urls.split(), "verbs": verbs}


_EVENTS = _rule("core events.k8s.io", "events", ["create", "patch", "update"])
_DISCOVERY_URLS = "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/"
_PUBLIC_URLS = "/healthz /livez /readyz /version /version/"

_VIEW_CORE = (
    "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers "
    "replicationcontrollers/scale serviceaccounts services services/status bindings events limitranges "
    "namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas "
    "resourcequotas/status namespaces"
)
_VIEW_APPS = (
    "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets "
    "replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"
)
_VIEW = [
    _rule("core", _VIEW_CORE, _READ),
    _rule("discovery.k8s.io", "endpointslices", _READ),
    _rule("apps", _VIEW_APPS, _READ),
    _rule("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status", _READ),
    _rule("batch", "cronjobs cronjobs/status jobs jobs/status", _READ),
    _rule("metrics.k8s.io", "nodes pods", _READ),
    _rule("policy", "poddisruptionbudgets poddisruptionbudgets/status", _READ),
    _rule("networking.k8s.io", "ingresses ingresses/status networkpolicies", _READ),
]
_EDIT = [
    _rule("core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy", _READ),
    _rule("core", "serviceaccounts", ["impersonate"]),
    _rule("core", "pods pods/attach pods/exec pods/portforward pods/proxy", _WRITE),
    _rule("core", "pods/eviction serviceaccounts/token", ["create"]),
    _rule(
        "core",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets "
        "serviceaccounts services services/proxy",
        _WRITE,
    ),
    _rule(
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets "
        "statefulsets/scale",
        _WRITE,
    ),
    _rule("autoscaling", "horizontalpodautoscalers", _WRITE),
    _rule("batch", "cronjobs jobs", _WRITE),
    _rule("policy", "poddisruptionbudgets", _WRITE),
    _rule("networking.k8s.io", "ingresses networkpolicies", _WRITE),
    _rule("coordination.k8s.io", "leases", _ALL),
]
_ADMIN = [
    _rule("authorization.k8s.io", "localsubjectaccessreviews", ["create"]),
    _rule(_GROUP, "rolebindings roles", _ALL),
]

_SCHEDULER = [
    _EVENTS,
    _rule("coordination.k8s.io", "leases", ["create", "get", "list", "update", "patch", "watch"]),
    _rule("core", "nodes namespaces services replicationcontrollers", _READ),
    _rule("core", "pods", ["delete", *_READ]),
    _rule("core", "bindings pods/binding", ["create"]),
    _rule("core", "pods/status", ["patch", "update"]),
    _rule("apps", "replicasets statefulsets deployments daemonsets", _READ),
    _rule("policy", "poddisruptionbudgets", _READ),
    _rule("scheduling.k8s.io", "priorityclasses", _READ),
    _rule("core", "persistentvolumeclaims persistentvolumes", [*_READ, "patch", "update"]),
    _rule("storage.k8s.io", "storageclasses volumeattachments csinodes csidrivers csistoragecapacities", _READ),
    _rule("authentication.k8s.io", "tokenreviews", ["create"]),
    _rule("authorization.k8s.io", "subjectaccessreviews", ["create"]),
]
# one identity for all controllers: garbage collection and namespace deletion reach every kind
_CONTROLLERS = [
    _rule("*", "*", _ALL),
    _rule("core", "serviceaccounts/token", ["create"]),
    _rule(_GROUP, "clusterroles", ["escalate"]),  # for the aggregation of roles
    _rule("certificates.k8s.io", "signers", ["approve", "sign"]),
]
_PROXIER = [
    _rule("core", "endpoints services", ["list", "watch"]),
    _rule("core", "nodes", _READ),
    _EVENTS,
    _rule("discovery.k8s.io", "endpointslices", ["list", "watch"]),
    _rule("networking.k8s.io", "networkpolicies", ["list", "watch"]),
    _rule("core", "pods namespaces", ["list", "watch"]),
]
_DNS = [
    _rule("core", "endpoints services pods namespaces", ["list", "watch"]),
    _rule("discovery.k8s.io", "endpointslices", ["list", "watch"]),
]
_BASIC_USER = [
    _rule("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", ["create"]),
    _rule("authentication.k8s.io", "selfsubjectreviews", ["create"]),
]
_NODE = [
    _rule("authentication.k8s.io", "tokenreviews", ["create"]),
    _rule("authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews", ["create"]),
    _rule("core", "services", _READ),
    _rule("core", "nodes", ["create", "patch", "update", *_READ]),
    _rule("core", "nodes/status", ["patch", "update"]),
    _EVENTS,
    _rule("core", "pods", ["create", "delete", *_READ]),
    _rule("core", "pods/status", ["patch", "update"]),
    _rule("core", "pods/eviction serviceaccounts/token", ["create"]),
    _rule("core", "configmaps secrets", _READ),
    _rule("core", "persistentvolumeclaims persistentvolumes", ["get"]),
    _rule("storage.k8s.io", "volumeattachments", ["get"]),
    _rule("coordination.k8s.io", "leases", ["create", "delete", "get", "patch", "update"]),
]
_KUBELET_API = [_rule("core", "nodes", ["get", "list", "watch", "proxy"]),
                _rule("core", "nodes/log nodes/metrics nodes/proxy nodes/stats", ["*"])]  # fmt: skip

_CSR = "system:certificates.k8s.io:certificatesigningrequests"
_ROLES: dict[str, list[Object]] = {
    "cluster-admin": [_rule("*", "*", ["*"]), _urls("*", ["*"])],
    "admin": [*_ADMIN, *_EDIT, *_VIEW],
    "edit": [*_EDIT, *_VIEW],
    "view": _VIEW,
    "system:aggregate-to-admin": _ADMIN,
    "system:aggregate-to-edit": _EDIT,
    "system:aggregate-to-view": _VIEW,
    "system:discovery": [_urls(_DISCOVERY_URLS, ["get"])],
    "system:public-info-viewer": [_urls(_PUBLIC_URLS, ["get"])],
    "system:monitoring": [_urls("/healthz /healthz/* /livez /livez/* /metrics /readyz /readyz/*", ["get"])],
    "system:basic-user": _BASIC_USER,
    "system:auth-delegator": [
        _rule("authentication.k8s.io", "tokenreviews", ["create"]),
        _rule("authorization.k8s.io", "subjectaccessreviews", ["create"]),
    ],
    "system:service-account-issuer-discovery": [
        _urls("/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
              ["get"])
    ],
    "system:node": _NODE,
    "system:node-proxier": _PROXIER,
    "system:kube-dns": _DNS,
    "system:kube-scheduler": _SCHEDULER,
    "system:kube-controller-manager": _CONTROLLERS,
    "system:kubelet-api-admin": _KUBELET_API,
    "system:heapster": [
        _rule("core", "events namespaces nodes pods", _READ),
        _rule("extensions", "deployments", _READ),
    ],
    "system:kube-aggregator": [_rule("core", "endpoints services", _READ)],
    "system:node-bootstrapper": [
        _rule("certificates.k8s.io", "certificatesigningrequests", ["create", *_READ]),
    ],
    "system:node-problem-detector": [
        _rule("core", "nodes", ["get"]),
        _rule("core", "nodes/status", ["patch"]),
        _EVENTS,
    ],
    "system:persistent-volume-provisioner": [
        _rule("core", "persistentvolumes", ["create", "delete", *_READ]),
        _rule("core", "persistentvolumeclaims", [*_READ, "update"]),
        _rule("storage.k8s.io", "storageclasses", _READ),
        _rule("core", "events", ["watch"]),
        _EVENTS,
    ],
    "system:volume-scheduler": [
        _rule("core", "persistentvolumes", [*_READ, "patch", "update"]),
        _rule("storage.k8s.io", "storageclasses", _READ),
        _rule("core", "persistentvolumeclaims", [*_READ, "patch", "update"]),
    ],
    **{f"{_CSR}:{name}": [_rule("certificates.k8s.io", f"certificatesigningrequests/{name}", ["create"])]
       for name in ("nodeclient", "selfnodeclient")},
    **{f"system:certificates.k8s.io:{name}-approver":
       [_rule("certificates.k8s.io", "signers", ["approve"], f"kubernetes.io/{name}")]
       for name in ("kube-apiserver-client", "kube-apiserver-client-kubelet", "kubelet-serving", "legacy-unknown")},
    **bootstrap_controllers.roles(),
}  # fmt: skip
_AGGREGATED = ("admin", "edit", "view")
# A role that others are gathered into may itself be gathered: who may edit may view.
_AGGREGATE_TO = {
    "edit": "admin",
    "view": "edit",
    "system:aggregate-to-admin": "admin",
    "system:aggregate-to-edit": "edit",
    "system:aggregate-to-view": "view",
}

_BINDINGS: dict[str, list[tuple[str, str]]] = {
    "cluster-admin": [("Group", "system:masters")],
    "system:monitoring": [("Group", "system:monitoring")],
    "system:discovery": [("Group", "system:authenticated")],
    "system:basic-user": [("Group", "system:authenticated")],
    "system:public-info-viewer": [("Group", "system:authenticated"), ("Group", "system:unauthenticated")],
    "system:service-account-issuer-discovery": [("Group", "system:serviceaccounts")],
    "system:node-proxier": [("User", "system:kube-proxy"), ("Group", "system:node-proxier")],
    "system:kube-scheduler": [("User", "system:kube-scheduler")],
    "system:kube-controller-manager": [("User", "system:kube-controller-manager")],
    "system:kube-dns": [("ServiceAccount", "kube-dns")],
    "system:volume-scheduler": [("User", "system:kube-scheduler")],
    "system:node": [],
    **{role: [("ServiceAccount", account)] for role, account in bootstrap_controllers.accounts().items()},
}


def cluster_roles() -> list[Object]:
    out: list[Object] = []
    for name, rules in _ROLES.items():
        role: Object = {"metadata": _metadata(name), "rules": rules}
        if name in _AGGREGATED:
            role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {_label(name): "true"}}]}
        if name in _AGGREGATE_TO:
            role["metadata"]["labels"][_label(_AGGREGATE_TO[name])] = "true"
        out.append(role)
    return out


def _label(role: str) -> str:
    return f"{_GROUP}/aggregate-to-{role}"


def cluster_role_bindings() -> list[Object]:
    return [
        {
            "metadata": _metadata(name),
            "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": name},
            "subjects": [_subject(kind, who) for kind, who in subjects],
        }
        for name, subjects in _BINDINGS.items()
    ]


def _subject(kind: str, who: str) -> Object:
    if kind == "ServiceAccount":
        return {"kind": kind, "name": who, "namespace": "kube-system"}
    return {"apiGroup": _GROUP, "kind": kind, "name": who}


def namespaced_roles() -> list[tuple[str, Object]]:
    """(namespace, Role) of those that are for one namespace, bound by whoever needs them."""
    reader = [_rule("core", "configmaps", _READ, "extension-apiserver-authentication")]
    name = "extension-apiserver-authentication-reader"
    return [("kube-system", {"metadata": _metadata(name), "rules": reader})]


def _metadata(name: str) -> Object:
    return {"name": name, "labels": dict(_LABELS), "annotations": {AUTOUPDATE: "true"}}
