"""The kinds this cluster serves, and how each is addressed.

Pure data. Discovery, OpenAPI paths, RBAC names, store keys and clients all derive from this table, so a kind exists
everywhere or nowhere. Names, short names and categories are those of Kubernetes 1.3x discovery.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.api.crd.versions import CustomVersion

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
STATUS_VERBS = ("get", "patch", "update")


@dataclass(frozen=True, slots=True)
class ResourceInfo:
    """`subresources` are names as in URLs ("status").

    `view_of` names the resource whose stored objects this one shows in another version or group ("" when it is stored
    itself); `deprecated` is the sentence that clients are warned with.
    `custom` is the compiled version of a custom resource, None for built-in kinds.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: tuple[str, ...] = ()
    view_of: str = ""
    deprecated: str = ""
    custom: CustomVersion | Any = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """`deployments.apps`, `pods`: how clients and tables name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        return str(self.custom.list_kind) if self.custom is not None else self.kind + "List"


def subresource_kind(info: ResourceInfo, subresource: str) -> tuple[str, str, str]:
    """Group, version and kind that a subresource speaks."""
    if subresource == "proxy":
        return "", "v1", info.kind + "ProxyOptions"
    return {
        "scale": ("autoscaling", "v1", "Scale"),
        "binding": ("", "v1", "Binding"),
        "eviction": ("policy", "v1", "Eviction"),
        "token": ("authentication.k8s.io", "v1", "TokenRequest"),
        "exec": ("", "v1", "PodExecOptions"),
        "attach": ("", "v1", "PodAttachOptions"),
        "portforward": ("", "v1", "PodPortForwardOptions"),
    }.get(subresource, (info.group, info.version, info.kind))


# Relayed to a machine or a pod, never stored.
RELAYED = frozenset(("log", "exec", "attach", "portforward", "proxy"))


def subresource_verbs(subresource: str) -> tuple[str, ...]:
    return {
        "binding": ("create",),
        "eviction": ("create",),
        "token": ("create",),
        "log": ("get",),
        "exec": ("create", "get"),
        "attach": ("create", "get"),
        "portforward": ("create", "get"),
        "proxy": ("create", "delete", "get", "patch", "update"),
        "finalize": ("update",),
    }.get(subresource, STATUS_VERBS)


class Scheme:
    """Lookup by name, by plural, by kind. Names are those of stored resources; a view has its hub's objects."""

    def __init__(self, infos: Iterable[ResourceInfo]) -> None:
        self._served = tuple(infos)
        self._all = tuple(i for i in self._served if not i.view_of)
        self._by_name = {i.name: i for i in self._all}
        self._by_resource = {(i.group, i.version, i.plural): i for i in self._served}
        self._by_kind = {(i.group, i.version, i.kind): i for i in self._served}
        if len(self._by_name) != len(self._all) or len(self._by_kind) != len(self._served):
            raise ValueError("two kinds share a name")

    def named(self, name: str) -> ResourceInfo:
        """`deployments.apps` or `pods`; raises KeyError."""
        return self._by_name[name]

    def resource(self, group: str, version: str, plural: str) -> ResourceInfo | None:
        return self._by_resource.get((group, version, plural))

    def for_kind(self, group: str, version: str, kind: str) -> ResourceInfo | None:
        return self._by_kind.get((group, version, kind))

    def for_object(self, obj: dict[str, object]) -> ResourceInfo | None:
        """By the object's own apiVersion and kind."""
        group, _, version = str(obj.get("apiVersion") or "").rpartition("/")
        return self.for_kind(group, version, str(obj.get("kind") or ""))

    def hub(self, info: ResourceInfo) -> ResourceInfo:
        """The resource that is stored: `info` itself unless it is a view."""
        return self._by_name[info.view_of] if info.view_of else info

    def all(self) -> list[ResourceInfo]:
        """What is stored; each object is in one of them."""
        return list(self._all)

    def served(self) -> list[ResourceInfo]:
        """All that clients can ask for: `all` and the views of it."""
        return list(self._served)


def _r(
    gv: str,
    kind: str,
    plural: str,
    short: str = "",
    *,
    cluster: bool = False,
    cats: str = "",
    subs: str = "",
    verbs: tuple[str, ...] = ALL_VERBS,
    view_of: str = "",
    deprecated: str = "",
) -> ResourceInfo:
    group, _, version = gv.rpartition("/")
    return ResourceInfo(
        group,
        version,
        kind,
        plural,
        kind.lower(),
        not cluster,
        tuple(short.split()),
        tuple(cats.split()),
        verbs,
        tuple(subs.split()),
        view_of,
        deprecated,
    )


_ADMISSION = "admissionregistration.k8s.io/v1"
_RBAC = "rbac.authorization.k8s.io/v1"
_STORAGE = "storage.k8s.io/v1"
_NETWORKING = "networking.k8s.io/v1"
_FLOW = "flowcontrol.apiserver.k8s.io/v1"
_DRA = "resource.k8s.io/v1"
_SLICES_INSTEAD = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"

SCHEME = Scheme(
    (
        _r("v1", "ConfigMap", "configmaps", "cm"),
        _r("v1", "Endpoints", "endpoints", "ep", deprecated=_SLICES_INSTEAD),
        _r("v1", "Event", "events", "ev"),
        _r("v1", "LimitRange", "limitranges", "limits"),
        _r(
            "v1",
            "Namespace",
            "namespaces",
            "ns",
            cluster=True,
            subs="status finalize",
            verbs=tuple(v for v in ALL_VERBS if v != "deletecollection"),
        ),
        _r("v1", "Node", "nodes", "no", cluster=True, subs="status proxy"),
        _r("v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", subs="status"),
        _r("v1", "PersistentVolume", "persistentvolumes", "pv", cluster=True, subs="status"),
        _r(
            "v1",
            "Pod",
            "pods",
            "po",
            cats="all",
            subs="status binding ephemeralcontainers eviction log exec attach portforward proxy resize",
        ),
        _r("v1", "PodTemplate", "podtemplates"),
        _r("v1", "ReplicationController", "replicationcontrollers", "rc", cats="all", subs="status scale"),
        _r("v1", "ResourceQuota", "resourcequotas", "quota", subs="status"),
        _r("v1", "Secret", "secrets"),
        _r("v1", "ServiceAccount", "serviceaccounts", "sa", subs="token"),
        _r("v1", "Service", "services", "svc", cats="all", subs="status proxy"),
        _r(_ADMISSION, "MutatingAdmissionPolicy", "mutatingadmissionpolicies", cluster=True, cats="api-extensions"),
        _r(
            _ADMISSION,
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            cluster=True,
            cats="api-extensions",
        ),
        _r(
            _ADMISSION,
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            cluster=True,
            cats="api-extensions",
        ),
        _r(
            _ADMISSION,
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            cluster=True,
            cats="api-extensions",
            subs="status",
        ),
        _r(
            _ADMISSION,
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            cluster=True,
            cats="api-extensions",
        ),
        _r(
            _ADMISSION,
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            cluster=True,
            cats="api-extensions",
        ),
        _r(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "crd crds",
            cluster=True,
            cats="api-extensions",
            subs="status",
        ),
        _r(
            "apiregistration.k8s.io/v1",
            "APIService",
            "apiservices",
            cluster=True,
            cats="api-extensions",
            subs="status",
        ),
        _r("apps/v1", "ControllerRevision", "controllerrevisions"),
        _r("apps/v1", "DaemonSet", "daemonsets", "ds", cats="all", subs="status"),
        _r("apps/v1", "Deployment", "deployments", "deploy", cats="all", subs="status scale"),
        _r("apps/v1", "ReplicaSet", "replicasets", "rs", cats="all", subs="status scale"),
        _r("apps/v1", "StatefulSet", "statefulsets", "sts", cats="all", subs="status scale"),
        _r("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", cats="all", subs="status"),
        _r(
            "autoscaling/v1",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "hpa",
            cats="all",
            subs="status",
            view_of="horizontalpodautoscalers.autoscaling",
        ),
        _r("batch/v1", "CronJob", "cronjobs", "cj", cats="all", subs="status"),
        _r("batch/v1", "Job", "jobs", cats="all", subs="status"),
        _r(
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "csr",
            cluster=True,
            subs="approval status",
        ),
        _r("coordination.k8s.io/v1", "Lease", "leases"),
        _r("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
        _r("events.k8s.io/v1", "Event", "events", "ev", view_of="events"),
        _r(_FLOW, "FlowSchema", "flowschemas", cluster=True, subs="status"),
        _r(_FLOW, "PriorityLevelConfiguration", "prioritylevelconfigurations", cluster=True, subs="status"),
        _r(_NETWORKING, "Ingress", "ingresses", "ing", subs="status"),
        _r(_NETWORKING, "IngressClass", "ingressclasses", cluster=True),
        _r(_NETWORKING, "IPAddress", "ipaddresses", "ip", cluster=True),
        _r(_NETWORKING, "NetworkPolicy", "networkpolicies", "netpol"),
        _r(_NETWORKING, "ServiceCIDR", "servicecidrs", cluster=True, subs="status"),
        _r("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", cluster=True),
        _r("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", subs="status"),
        _r(_RBAC, "ClusterRoleBinding", "clusterrolebindings", cluster=True),
        _r(_RBAC, "ClusterRole", "clusterroles", cluster=True),
        _r(_RBAC, "RoleBinding", "rolebindings"),
        _r(_RBAC, "Role", "roles"),
        _r(_DRA, "DeviceClass", "deviceclasses", cluster=True),
        _r(_DRA, "ResourceClaim", "resourceclaims", subs="status"),
        _r(_DRA, "ResourceClaimTemplate", "resourceclaimtemplates"),
        _r(_DRA, "ResourceSlice", "resourceslices", cluster=True),
        _r("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "pc", cluster=True),
        _r(_STORAGE, "CSIDriver", "csidrivers", cluster=True),
        _r(_STORAGE, "CSINode", "csinodes", cluster=True),
        _r(_STORAGE, "CSIStorageCapacity", "csistoragecapacities"),
        _r(_STORAGE, "StorageClass", "storageclasses", "sc", cluster=True),
        _r(_STORAGE, "VolumeAttachment", "volumeattachments", cluster=True, subs="status"),
        _r(_STORAGE, "VolumeAttributesClass", "volumeattributesclasses", "vac", cluster=True),
    )
)


def _review(group: str, kind: str, plural: str, *, namespaced: bool = False) -> ResourceInfo:
    return ResourceInfo(group, "v1", kind, plural, kind.lower(), namespaced, verbs=("create",))


_AUTHENTICATION, _AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"

REVIEWS = (
    _review(_AUTHENTICATION, "TokenReview", "tokenreviews"),
    _review(_AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews"),
    _review(_AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", namespaced=True),
    _review(_AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    _review(_AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
    _review(_AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews"),
)
_REVIEWS_BY_NAME = {info.name: info for info in REVIEWS}


def creatable(name: str) -> ResourceInfo:
    """By the name of a stored resource, or of a review, which is answered and kept nowhere. Raises KeyError."""
    return _REVIEWS_BY_NAME.get(name) or SCHEME.named(name)


# Answered by the API server itself, never stored.
EDGE = (
    *REVIEWS,
    _r("v1", "Binding", "bindings", verbs=("create",)),
    _r(
        "v1",
        "ComponentStatus",
        "componentstatuses",
        "cs",
        cluster=True,
        verbs=("get", "list"),
        deprecated="v1 ComponentStatus is deprecated in v1.19+",
    ),
    _r("metrics.k8s.io/v1beta1", "NodeMetrics", "nodes", cluster=True, verbs=("get", "list")),
    _r("metrics.k8s.io/v1beta1", "PodMetrics", "pods", verbs=("get", "list")),
)
