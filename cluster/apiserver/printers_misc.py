"""What `kubectl get` prints for storage, RBAC, networking, coordination and scheduling. Pure.

Source: Kubernetes pkg/printers/internalversion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.api.selectors import from_label_selector
from cluster.apiserver.tables import (
    AGE,
    CREATED_AT,
    NAME,
    Cells,
    Object,
    Printer,
    age,
    at,
    col,
    count,
    format_selector,
    name_of,
    text,
    wide,
)

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def _flag(value: Any, default: bool = False) -> str:
    return "true" if (default if value is None else value) else "false"


def _storage_class(o: Object, now: float) -> Cells:
    default = text(o, "metadata", "annotations", _DEFAULT_CLASS) == "true"
    return [
        name_of(o) + (" (default)" if default else ""),
        str(o.get("provisioner", "")),
        str(o.get("reclaimPolicy") or "Delete"),
        str(o.get("volumeBindingMode") or "Immediate"),
        _flag(o.get("allowVolumeExpansion")),
        age(o, now),
    ]


def _volume_attachment(o: Object, now: float) -> Cells:
    return [
        name_of(o),
        text(o, "spec", "attacher"),
        text(o, "spec", "source", "persistentVolumeName"),
        text(o, "spec", "nodeName"),
        _flag(at(o, "status", "attached")),
        age(o, now),
    ]


def _lease(o: Object, now: float) -> Cells:
    return [name_of(o), text(o, "spec", "holderIdentity"), age(o, now)]


def _limited(items: list[str], most: int = 3) -> str:
    shown = ",".join(items[:most])
    return shown + (f" + {len(items) - most} more..." if len(items) > most else "")


def _endpoint_slice(o: Object, now: float) -> Cells:
    ports = [("*" if p.get("port") is None else str(p["port"])) for p in o.get("ports") or ()]
    addresses = [str(a) for e in o.get("endpoints") or () for a in e.get("addresses") or ()]
    return [
        name_of(o),
        str(o.get("addressType", "")),
        _limited(ports) or "<unset>",
        _limited(addresses) or "<unset>",
        age(o, now),
    ]


def _role(o: Object, now: float) -> Cells:
    return [name_of(o), at(o, "metadata", "creationTimestamp")]


def _binding(o: Object, now: float) -> Cells:
    ref = o.get("roleRef") or {}
    subjects = o.get("subjects") or []
    users = [str(s.get("name")) for s in subjects if s.get("kind") == "User"]
    groups = [str(s.get("name")) for s in subjects if s.get("kind") == "Group"]
    accounts = [f"{s.get('namespace', '')}/{s.get('name')}" for s in subjects if s.get("kind") == "ServiceAccount"]
    return [
        name_of(o),
        f"{ref.get('kind')}/{ref.get('name')}",
        age(o, now),
        ", ".join(users),
        ", ".join(groups),
        ", ".join(accounts),
    ]


def _priority_class(o: Object, now: float) -> Cells:
    return [
        name_of(o),
        int(o.get("value") or 0),
        _flag(o.get("globalDefault")),
        age(o, now),
        str(o.get("preemptionPolicy") or "PreemptLowerPriority"),
    ]


def _ip_address(o: Object, now: float) -> Cells:
    ref = at(o, "spec", "parentRef") or {}
    kind = ".".join(filter(None, (str(ref.get("resource", "")), str(ref.get("group") or ""))))
    return [name_of(o), "/".join(filter(None, (kind, ref.get("namespace"), ref.get("name")))), age(o, now)]


def _service_cidr(o: Object, now: float) -> Cells:
    return [name_of(o), ",".join(at(o, "spec", "cidrs") or ()), age(o, now)]


def _name_and_age(o: Object, now: float) -> Cells:
    return [name_of(o), age(o, now)]


def _resource_claim(o: Object, now: float) -> Cells:
    states = ["deleted"] if at(o, "metadata", "deletionTimestamp") else []
    allocated = at(o, "status", "allocation") is not None
    states.append("allocated" if allocated else "pending")
    if at(o, "status", "reservedFor"):
        states.append("reserved")
    return [name_of(o), ",".join(states), age(o, now)]


def _resource_slice(o: Object, now: float) -> Cells:
    spec = o.get("spec") or {}
    pool = (spec.get("pool") or {}).get("name", "")
    return [name_of(o), str(spec.get("nodeName") or "<unset>"), str(spec.get("driver", "")), pool, age(o, now)]


def _network_policy(o: Object, now: float) -> Cells:
    return [name_of(o), format_selector(at(o, "spec", "podSelector")), age(o, now)]


def _ingress(o: Object, now: float) -> Cells:
    hosts = list(dict.fromkeys(str(r["host"]) for r in at(o, "spec", "rules") or () if r.get("host")))
    addresses = [str(i.get("ip") or i.get("hostname") or "") for i in at(o, "status", "loadBalancer", "ingress") or ()]
    return [
        name_of(o),
        text(o, "spec", "ingressClassName", default="<none>"),
        _limited(hosts) or "*",
        ",".join(addresses),
        "80, 443" if at(o, "spec", "tls") else "80",
        age(o, now),
    ]


def _csr(o: Object, now: float) -> Cells:
    types = [str(c.get("type")) for c in at(o, "status", "conditions") or ()]
    word = "Denied" if "Denied" in types else "Approved" if "Approved" in types else "Pending"
    if "Failed" in types:
        word += ",Failed"
    if at(o, "status", "certificate"):
        word += ",Issued"
    seconds = at(o, "spec", "expirationSeconds")
    return [
        name_of(o),
        age(o, now),
        text(o, "spec", "signerName"),
        text(o, "spec", "username"),
        "<none>" if seconds is None else f"{seconds}s",
        word,
    ]


def _csi_node(o: Object, now: float) -> Cells:
    return [name_of(o), len(at(o, "spec", "drivers") or []), age(o, now)]


def _csi_driver(o: Object, now: float) -> Cells:
    spec = o.get("spec") or {}
    requests = ",".join(str(t.get("audience")) for t in spec.get("tokenRequests") or ()) or "<unset>"
    return [
        name_of(o),
        _flag(spec.get("attachRequired"), True),
        _flag(spec.get("podInfoOnMount")),
        _flag(spec.get("storageCapacity")),
        requests,
        _flag(spec.get("requiresRepublish")),
        ",".join(spec.get("volumeLifecycleModes") or ["Persistent"]),
        age(o, now),
    ]


def _webhooks(o: Object, now: float) -> Cells:
    return [name_of(o), len(o.get("webhooks") or ()), age(o, now)]


def _policy(rules: str) -> Callable[[Object, float], Cells]:
    def cells(o: Object, now: float) -> Cells:
        spec = o.get("spec") or {}
        kind = spec.get("paramKind")
        params = f"{kind.get('apiVersion', '')}/{kind.get('kind', '')}" if kind else "<unset>"
        return [name_of(o), len(spec.get(rules) or ()), params, age(o, now)]

    return cells


def _policy_binding(o: Object, now: float) -> Cells:
    spec = o.get("spec") or {}
    ref, params = spec.get("paramRef") or {}, "<unset>"
    if ref.get("name"):
        params = f"{ref.get('namespace') or '*'}/{ref['name']}"
    elif ref.get("selector") is not None:
        params = str(from_label_selector(ref["selector"]))
    return [name_of(o), str(spec.get("policyName", "")), params, age(o, now)]


def _crd(o: Object, now: float) -> Cells:
    return [name_of(o), at(o, "metadata", "creationTimestamp")]


def _api_service(o: Object, now: float) -> Cells:
    service = at(o, "spec", "service")
    where = f"{service.get('namespace')}/{service.get('name')}" if service else "Local"
    found = [c for c in at(o, "status", "conditions") or () if c.get("type") == "Available"]
    state = "Unknown" if not found else str(found[0].get("status"))
    if found and state != "True" and found[0].get("reason"):
        state += f" ({found[0]['reason']})"
    return [name_of(o), where, state, age(o, now)]


def _flow_schema(o: Object, now: float) -> Cells:
    return [
        name_of(o),
        text(o, "spec", "priorityLevelConfiguration", "name"),
        count(o, "spec", "matchingPrecedence"),
        text(o, "spec", "distinguisherMethod", "type", default="<none>"),
        age(o, now),
        _dangling(o),
    ]


def _dangling(o: Object) -> str:
    """Whether the flow schema's priority level is missing, as its status says."""
    for c in at(o, "status", "conditions") or ():
        if c.get("type") == "Dangling":
            return str(c.get("status"))
    return "?"


def _priority_level(o: Object, now: float) -> Cells:
    limited = at(o, "spec", "limited") or {}
    queuing = at(limited, "limitResponse", "queuing") or {}
    shares = limited.get("nominalConcurrencyShares") if limited else at(o, "spec", "exempt", "nominalConcurrencyShares")
    sizes = [queuing.get(k, "<none>") for k in ("queues", "handSize", "queueLengthLimit")]
    return [name_of(o), text(o, "spec", "type"), "<none>" if shares is None else shares, *sizes, age(o, now)]


def _ingress_class(o: Object, now: float) -> Cells:
    ref = at(o, "spec", "parameters")
    shown = "<none>"
    if ref:
        group = f".{ref['apiGroup']}" if ref.get("apiGroup") else ""
        shown = f"{ref.get('kind')}{group}/{ref.get('name')}"
    return [name_of(o), text(o, "spec", "controller"), shown, age(o, now)]


def _runtime_class(o: Object, now: float) -> Cells:
    return [name_of(o), str(o.get("handler", "")), age(o, now)]


def _storage_capacity(o: Object, now: float) -> Cells:
    return [name_of(o), str(o.get("storageClassName", "")), text(o, "capacity", default="<unset>")]


def _attributes_class(o: Object, now: float) -> Cells:
    return [name_of(o), str(o.get("driverName", "")), age(o, now)]


_RBAC = "rbac.authorization.k8s.io"
_BOUND = (wide("Users"), wide("Groups"), wide("ServiceAccounts"))

PRINTERS = {
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": Printer(
        (NAME, col("Webhooks", "integer"), AGE), _webhooks
    ),
    "validatingwebhookconfigurations.admissionregistration.k8s.io": Printer(
        (NAME, col("Webhooks", "integer"), AGE), _webhooks
    ),
    "mutatingadmissionpolicies.admissionregistration.k8s.io": Printer(
        (NAME, col("Mutations", "integer"), col("ParamKind"), AGE), _policy("mutations")
    ),
    "validatingadmissionpolicies.admissionregistration.k8s.io": Printer(
        (NAME, col("Validations", "integer"), col("ParamKind"), AGE), _policy("validations")
    ),
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io": Printer(
        (NAME, col("PolicyName"), col("ParamRef"), AGE), _policy_binding
    ),
    "validatingadmissionpolicybindings.admissionregistration.k8s.io": Printer(
        (NAME, col("PolicyName"), col("ParamRef"), AGE), _policy_binding
    ),
    "storageclasses.storage.k8s.io": Printer(
        (NAME, col("Provisioner"), col("ReclaimPolicy"), col("VolumeBindingMode"), col("AllowVolumeExpansion"), AGE),
        _storage_class,
    ),
    "volumeattachments.storage.k8s.io": Printer(
        (NAME, col("Attacher"), col("PV"), col("Node"), col("Attached"), AGE), _volume_attachment
    ),
    "csinodes.storage.k8s.io": Printer((NAME, col("Drivers", "integer"), AGE), _csi_node),
    "csidrivers.storage.k8s.io": Printer(
        (
            NAME,
            col("AttachRequired"),
            col("PodInfoOnMount"),
            col("StorageCapacity"),
            col("TokenRequests"),
            col("RequiresRepublish"),
            col("Modes"),
            AGE,
        ),
        _csi_driver,
    ),
    "leases.coordination.k8s.io": Printer((NAME, col("Holder"), AGE), _lease),
    "endpointslices.discovery.k8s.io": Printer(
        (NAME, col("AddressType"), col("Ports"), col("Endpoints"), AGE), _endpoint_slice
    ),
    f"roles.{_RBAC}": Printer((NAME, CREATED_AT), _role),
    f"clusterroles.{_RBAC}": Printer((NAME, CREATED_AT), _role),
    f"rolebindings.{_RBAC}": Printer((NAME, col("Role"), AGE, *_BOUND), _binding),
    f"clusterrolebindings.{_RBAC}": Printer((NAME, col("Role"), AGE, *_BOUND), _binding),
    "priorityclasses.scheduling.k8s.io": Printer(
        (NAME, col("Value", "integer"), col("Global-Default", "boolean"), AGE, col("PreemptionPolicy")), _priority_class
    ),
    "networkpolicies.networking.k8s.io": Printer((NAME, col("Pod-Selector"), AGE), _network_policy),
    "ingresses.networking.k8s.io": Printer(
        (NAME, col("Class"), col("Hosts"), col("Address"), col("Ports"), AGE), _ingress
    ),
    "certificatesigningrequests.certificates.k8s.io": Printer(
        (NAME, AGE, col("SignerName"), col("Requestor"), col("RequestedDuration"), col("Condition")), _csr
    ),
    "customresourcedefinitions.apiextensions.k8s.io": Printer((NAME, CREATED_AT), _crd),
    "apiservices.apiregistration.k8s.io": Printer((NAME, col("Service"), col("Available"), AGE), _api_service),
    "flowschemas.flowcontrol.apiserver.k8s.io": Printer(
        (
            NAME,
            col("PriorityLevel"),
            col("MatchingPrecedence", "integer"),
            col("DistinguisherMethod"),
            AGE,
            col("MissingPL"),
        ),
        _flow_schema,
    ),
    "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io": Printer(
        (
            NAME,
            col("Type"),
            col("NominalConcurrencyShares"),
            col("Queues"),
            col("HandSize"),
            col("QueueLengthLimit"),
            AGE,
        ),
        _priority_level,
    ),
    "ipaddresses.networking.k8s.io": Printer((NAME, col("ParentRef"), AGE), _ip_address),
    "servicecidrs.networking.k8s.io": Printer((NAME, col("CIDRs"), AGE), _service_cidr),
    "resourceclaims.resource.k8s.io": Printer((NAME, col("State"), AGE), _resource_claim),
    "resourceclaimtemplates.resource.k8s.io": Printer((NAME, AGE), _name_and_age),
    "deviceclasses.resource.k8s.io": Printer((NAME, AGE), _name_and_age),
    "resourceslices.resource.k8s.io": Printer((NAME, col("Node"), col("Driver"), col("Pool"), AGE), _resource_slice),
    "ingressclasses.networking.k8s.io": Printer((NAME, col("Controller"), col("Parameters"), AGE), _ingress_class),
    "runtimeclasses.node.k8s.io": Printer((NAME, col("Handler"), AGE), _runtime_class),
    "csistoragecapacities.storage.k8s.io": Printer((NAME, col("StorageClassName"), col("Capacity")), _storage_capacity),
    "volumeattributesclasses.storage.k8s.io": Printer((NAME, col("DriverName"), AGE), _attributes_class),
}
