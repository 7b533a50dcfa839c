"""What `kubectl get` prints for the core group's other kinds. Pure. Source: Kubernetes pkg/printers/internalversion."""

from __future__ import annotations

from typing import Any

from cluster.apiserver.tables import (
    AGE,
    NAME,
    Cells,
    Column,
    Object,
    Printer,
    age,
    at,
    col,
    containers,
    count,
    format_labels,
    name_of,
    since,
    text,
    wide,
)

_ACCESS_MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}
_ROLE = "node-role.kubernetes.io/"
_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"


def _ports(service: Object) -> str:
    parts = []
    for p in at(service, "spec", "ports") or ():
        node = f":{p['nodePort']}" if p.get("nodePort") else ""
        parts.append(f"{p.get('port')}{node}/{p.get('protocol', 'TCP')}")
    return ",".join(parts) or "<none>"


def _external_ip(service: Object) -> str:
    kind = text(service, "spec", "type", default="ClusterIP")
    if kind == "ExternalName":
        return text(service, "spec", "externalName", default="<none>")
    external = [str(ip) for ip in at(service, "spec", "externalIPs") or ()]
    if kind == "LoadBalancer":
        ingress = at(service, "status", "loadBalancer", "ingress") or []
        found = [str(i.get("ip") or i.get("hostname") or "") for i in ingress] + external
        return ",".join(f for f in found if f) or "<pending>"
    return ",".join(external) or "<none>"


def _service(o: Object, now: float) -> Cells:
    return [
        name_of(o),
        text(o, "spec", "type", default="ClusterIP"),
        text(o, "spec", "clusterIP", default="<none>"),
        _external_ip(o),
        _ports(o),
        age(o, now),
        format_labels(at(o, "spec", "selector")),
    ]


def _endpoints(o: Object, now: float) -> Cells:
    found: list[str] = []
    for subset in o.get("subsets") or ():
        addresses = [str(a.get("ip")) for a in subset.get("addresses") or ()]
        ports = subset.get("ports") or []
        if not ports:
            found += addresses
        for port in ports:
            found += [f"{a}:{port.get('port')}" for a in addresses]
    shown = ",".join(found[:3]) or "<none>"
    if len(found) > 3:
        shown += f" + {len(found) - 3} more..."
    return [name_of(o), shown, age(o, now)]


def _node_status(node: Object) -> str:
    word = "Unknown"
    for c in at(node, "status", "conditions") or ():
        if c.get("type") == "Ready":
            word = "Ready" if c.get("status") == "True" else "NotReady"
    return word + (",SchedulingDisabled" if at(node, "spec", "unschedulable") else "")


def _roles(node: Object) -> str:
    labels = at(node, "metadata", "labels") or {}
    found = {k[len(_ROLE) :] for k in labels if k.startswith(_ROLE) and len(k) > len(_ROLE)}
    if labels.get("kubernetes.io/role"):
        found.add(labels["kubernetes.io/role"])
    return ",".join(sorted(found)) or "<none>"


def _address(node: Object, kind: str) -> str:
    for a in at(node, "status", "addresses") or ():
        if a.get("type") == kind:
            return str(a.get("address"))
    return "<none>"


def _node(o: Object, now: float) -> Cells:
    info = at(o, "status", "nodeInfo") or {}
    return [
        name_of(o),
        _node_status(o),
        _roles(o),
        age(o, now),
        info.get("kubeletVersion", ""),
        _address(o, "InternalIP"),
        _address(o, "ExternalIP"),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _namespace(o: Object, now: float) -> Cells:
    return [name_of(o), text(o, "status", "phase"), age(o, now)]


def _config_map(o: Object, now: float) -> Cells:
    return [name_of(o), len(o.get("data") or {}) + len(o.get("binaryData") or {}), age(o, now)]


def _secret(o: Object, now: float) -> Cells:
    return [name_of(o), str(o.get("type", "")), len(o.get("data") or {}), age(o, now)]


def _service_account(o: Object, now: float) -> Cells:
    return [name_of(o), len(o.get("secrets") or []), age(o, now)]


def access_modes(modes: list[str] | None) -> str:
    return ",".join(short for long, short in _ACCESS_MODES.items() if long in (modes or []))


def _pv(o: Object, now: float) -> Cells:
    claim: dict[str, Any] = at(o, "spec", "claimRef") or {}
    terminating = bool(at(o, "metadata", "deletionTimestamp"))
    return [
        name_of(o),
        text(o, "spec", "capacity", "storage"),
        access_modes(at(o, "spec", "accessModes")),
        text(o, "spec", "persistentVolumeReclaimPolicy"),
        "Terminating" if terminating else text(o, "status", "phase"),
        f"{claim.get('namespace')}/{claim.get('name')}" if claim else "",
        text(o, "metadata", "annotations", _CLASS_ANNOTATION) or text(o, "spec", "storageClassName"),
        text(o, "spec", "volumeAttributesClassName", default="<unset>"),
        text(o, "status", "reason"),
        age(o, now),
        text(o, "spec", "volumeMode", default="<unset>"),
    ]


def _pvc(o: Object, now: float) -> Cells:
    terminating = bool(at(o, "metadata", "deletionTimestamp"))
    bound = text(o, "spec", "volumeName")
    return [
        name_of(o),
        "Terminating" if terminating else text(o, "status", "phase"),
        bound,
        text(o, "status", "capacity", "storage") if bound else "",
        access_modes(at(o, "status", "accessModes")) if bound else "",
        text(o, "metadata", "annotations", _CLASS_ANNOTATION) or text(o, "spec", "storageClassName"),
        text(o, "spec", "volumeAttributesClassName", default="<unset>"),
        age(o, now),
        text(o, "spec", "volumeMode", default="<unset>"),
    ]


def _event(o: Object, now: float) -> Cells:
    series = o.get("series") or {}
    first = o.get("firstTimestamp") or o.get("eventTime")
    last = series.get("lastObservedTime") or o.get("lastTimestamp") or first
    times = int(series.get("count") or o.get("count") or 1)
    target = o.get("involvedObject") or {}
    source = o.get("source") or {}
    where = [str(source.get("component") or o.get("reportingComponent") or "")]
    if source.get("host") or o.get("reportingInstance"):
        where.append(str(source.get("host") or o.get("reportingInstance")))
    name = str(target.get("name", ""))
    return [
        since(last, now),
        str(o.get("type", "")),
        str(o.get("reason", "")),
        f"{str(target.get('kind', '')).lower()}/{name}" if name else str(target.get("kind", "")).lower(),
        str(target.get("fieldPath", "")),
        ", ".join(where),
        str(o.get("message", "")).strip(),
        since(first, now),
        times,
        name_of(o),
    ]


def _quota_age(o: Object, now: float) -> Cells:
    hard, used = at(o, "status", "hard") or {}, at(o, "status", "used") or {}
    parts = [f"{k}: {used.get(k, 0)}/{v}" for k, v in sorted(hard.items())]
    requests = [p for p in parts if not p.startswith("limits")]
    limits = [p for p in parts if p.startswith("limits")]
    return [name_of(o), ", ".join(requests), ", ".join(limits), age(o, now)]


def _named_age(o: Object, now: float) -> Cells:
    created = at(o, "metadata", "creationTimestamp")
    return [name_of(o), created]


def _controller(o: Object, now: float) -> Cells:
    names, images = containers(o, "spec", "template", "spec")
    return [
        name_of(o),
        count(o, "spec", "replicas"),
        count(o, "status", "replicas"),
        count(o, "status", "readyReplicas"),
        age(o, now),
        names,
        images,
        format_labels(at(o, "spec", "selector")),
    ]


def _pod_template(o: Object, now: float) -> Cells:
    names, images = containers(o, "template", "spec")
    return [name_of(o), names, images, format_labels(at(o, "template", "metadata", "labels"))]


def _component_status(o: Object, now: float) -> Cells:
    status = message = error = ""
    for c in o.get("conditions") or ():
        if c.get("type") == "Healthy":
            status = "Healthy" if c.get("status") == "True" else "Unhealthy"
            message, error = str(c.get("message") or ""), str(c.get("error") or "")
    return [name_of(o), status or "Unknown", message, error]


PRINTERS = {
    "services": Printer(
        (NAME, col("Type"), col("Cluster-IP"), col("External-IP"), col("Port(s)"), AGE, wide("Selector")), _service
    ),
    "endpoints": Printer((NAME, col("Endpoints"), AGE), _endpoints),
    "nodes": Printer(
        (
            NAME,
            col("Status"),
            col("Roles"),
            AGE,
            col("Version"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ),
        _node,
    ),
    "namespaces": Printer((NAME, col("Status"), AGE), _namespace),
    "configmaps": Printer((NAME, col("Data"), AGE), _config_map),
    "secrets": Printer((NAME, col("Type"), col("Data"), AGE), _secret),
    "serviceaccounts": Printer((NAME, col("Secrets"), AGE), _service_account),
    "persistentvolumes": Printer(
        (
            NAME,
            col("Capacity"),
            col("Access Modes"),
            col("Reclaim Policy"),
            col("Status"),
            col("Claim"),
            col("StorageClass"),
            col("VolumeAttributesClass"),
            col("Reason"),
            AGE,
            wide("VolumeMode"),
        ),
        _pv,
    ),
    "persistentvolumeclaims": Printer(
        (
            NAME,
            col("Status"),
            col("Volume"),
            col("Capacity"),
            col("Access Modes"),
            col("StorageClass"),
            col("VolumeAttributesClass"),
            AGE,
            wide("VolumeMode"),
        ),
        _pvc,
    ),
    "events": Printer(
        (
            col("Last Seen"),
            col("Type"),
            col("Reason"),
            col("Object"),
            wide("Subobject"),
            wide("Source"),
            col("Message"),
            wide("First Seen"),
            wide("Count"),
            Column("Name", format="name", priority=1),
        ),
        _event,
    ),
    "resourcequotas": Printer((NAME, col("Request"), col("Limit"), AGE), _quota_age),
    "limitranges": Printer((NAME, Column("Created At", "date")), _named_age),
    "replicationcontrollers": Printer(
        (
            NAME,
            col("Desired", "integer"),
            col("Current", "integer"),
            col("Ready", "integer"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ),
        _controller,
    ),
    "podtemplates": Printer((NAME, col("Containers"), col("Images"), col("Pod Labels")), _pod_template),
    "componentstatuses": Printer((NAME, col("Status"), col("Message"), col("Error")), _component_status),
}
