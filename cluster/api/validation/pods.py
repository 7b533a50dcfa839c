"""Validation of pods and pod templates (k8s.io/kubernetes pkg/apis/core/validation).

Pure. A pod's spec may change after creation only in its images, tolerations (added), activeDeadlineSeconds
(shortened) and a negative terminationGracePeriodSeconds (to 1).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson

from cluster.api import quantity
from cluster.api.pods import is_extended
from cluster.api.validation import downward, fields, ips, podplacement, podvolumes
from cluster.api.validation.fields import Faults
from cluster.api.validation.securitycontext import validate_container_security, validate_pod_security

Object = dict[str, Any]

_RESTART = ("Always", "Never", "OnFailure")
_DNS = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_PULL = ("Always", "IfNotPresent", "Never")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_UNCHANGED = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


_sound: set[bytes] = set()
"""Specs that were found without fault, as JSON: the pods of one template are validated once."""
_REMEMBERED = 1024
_LONGEST = 8192


def validate_pod(faults: Faults, pod: Object) -> None:
    spec = pod.get("spec") or {}
    raw = orjson.dumps(spec)
    if raw in _sound:
        return
    before = len(faults.causes)
    validate_pod_spec(faults, "spec", spec)
    if spec.get("nodeName") and spec.get("schedulingGates"):
        faults.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared")
    if len(faults.causes) == before and len(raw) <= _LONGEST:
        if len(_sound) >= _REMEMBERED:
            _sound.clear()
        _sound.add(raw)


def validate_template(faults: Faults, at: str, template: Object, claim_volumes: Collection[str] = ()) -> None:
    """`claim_volumes`: names that containers may mount besides spec.volumes (a StatefulSet's claim templates)."""
    metadata = template.get("metadata") or {}
    fields.check_labels(faults, at + ".metadata.labels", metadata.get("labels"))
    fields.check_annotations(faults, at + ".metadata.annotations", metadata.get("annotations"))
    validate_pod_spec(faults, at + ".spec", template.get("spec") or {}, claim_volumes)


def validate_pod_spec(faults: Faults, at: str, spec: Object, claim_volumes: Collection[str] = ()) -> None:
    volumes = podvolumes.validate_volumes(faults, at + ".volumes", spec.get("volumes") or []) | set(claim_volumes)
    claims = _claims(faults, at + ".resourceClaims", spec.get("resourceClaims") or [])
    if not spec.get("containers"):
        faults.required(at + ".containers")
    names: set[str] = set()
    for field in ("containers", "initContainers"):
        for i, c in enumerate(spec.get(field) or ()):
            where = f"{at}.{field}[{i}]"
            _container(faults, where, c, volumes, claims, spec, init=field == "initContainers")
            if c.get("name") in names:
                faults.duplicate(where + ".name", c.get("name"))
            names.add(c.get("name", ""))
    _host_ports(faults, at, spec)
    ips.validate_pod_addresses(faults, at, spec)
    validate_pod_security(faults, at, spec)
    faults.enum(at + ".restartPolicy", spec.get("restartPolicy"), _RESTART)
    faults.enum(at + ".dnsPolicy", spec.get("dnsPolicy"), _DNS)
    faults.non_negative(at + ".terminationGracePeriodSeconds", spec.get("terminationGracePeriodSeconds"))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= 2**31 - 1:
        faults.invalid(at + ".activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    fields.check_labels(faults, at + ".nodeSelector", spec.get("nodeSelector"))
    for field in ("serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"):
        if spec.get(field):
            faults.check(f"{at}.{field}", spec[field], fields.dns_subdomain(spec[field]))
    for field in ("hostname", "subdomain"):
        if spec.get(field):
            faults.check(f"{at}.{field}", spec[field], fields.dns_label(spec[field]))
    podplacement.validate_placement(faults, at, spec)
    if spec.get("os") is not None:
        faults.enum(at + ".os.name", spec["os"].get("name") or "", ("linux", "windows"))


def _claims(faults: Faults, at: str, claims: list[Object]) -> set[Any]:
    """Their names."""
    for i, claim in enumerate(claims):
        named = [f for f in ("resourceClaimName", "resourceClaimTemplateName") if claim.get(f) is not None]
        which = "`resourceClaimName`{}`resourceClaimTemplateName`"
        if not named:
            faults.invalid(f"{at}[{i}]", claim, "must specify one of: " + which.format(", "))
        elif len(named) > 1:
            faults.invalid(f"{at}[{i}]", claim, f"at most one of {which.format(' or ')} may be specified")
    return {c.get("name") for c in claims}


def _container(
    faults: Faults, at: str, c: Object, volumes: set[str], claims: set[Any], spec: Object, *, init: bool
) -> None:
    name = c.get("name", "")
    if not name:
        faults.required(at + ".name")
    else:
        faults.check(at + ".name", name, fields.dns_label(name))
    image = c.get("image", "")
    if not image:
        faults.required(at + ".image")
    elif image != image.strip():
        faults.invalid(at + ".image", image, "must not have leading or trailing whitespace")
    faults.enum(at + ".imagePullPolicy", c.get("imagePullPolicy"), _PULL)
    faults.enum(at + ".terminationMessagePolicy", c.get("terminationMessagePolicy"), ("FallbackToLogsOnError", "File"))
    _ports(faults, at + ".ports", c.get("ports") or [])
    for i, e in enumerate(c.get("env") or ()):
        _env(faults, f"{at}.env[{i}]", e)
    for i, e in enumerate(c.get("envFrom") or ()):
        _env_from(faults, f"{at}.envFrom[{i}]", e)
    privileged = bool((c.get("securityContext") or {}).get("privileged"))
    mounts = c.get("volumeMounts") or []
    podvolumes.validate_mounts(faults, at + ".volumeMounts", mounts, volumes, privileged=privileged)
    resources(faults, at + ".resources", c.get("resources") or {})
    validate_container_security(faults, at, c)
    sidecar = c.get("restartPolicy") == "Always"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if probe in c:
            if init and not sidecar:
                faults.forbidden(f"{at}.{probe}", "may not be set for init containers without restartPolicy=Always")
            _probe(faults, f"{at}.{probe}", c[probe], readiness=probe == "readinessProbe")
    if c.get("lifecycle") and init and not sidecar:
        faults.forbidden(at + ".lifecycle", "may not be set for init containers without restartPolicy=Always")
    for hook in ("postStart", "preStop"):
        handler = (c.get("lifecycle") or {}).get(hook)
        if handler is not None:
            _handler(faults, f"{at}.lifecycle.{hook}", handler, (*_HANDLERS[:3], "sleep"))


def validate_container(faults: Faults, at: str, c: Object, volumes: set[str], spec: Object) -> None:
    """One container on its own (an ephemeral one)."""
    _container(faults, at, c, volumes, set(), spec, init=False)


def _ports(faults: Faults, at: str, ports: list[Object]) -> None:
    names: set[str] = set()
    for i, p in enumerate(ports):
        where = f"{at}[{i}]"
        if p.get("name"):
            faults.check(where + ".name", p["name"], fields.port_name(p["name"]))
            if p["name"] in names:
                faults.duplicate(where + ".name", p["name"])
            names.add(p["name"])
        if not p.get("containerPort"):
            faults.required(where + ".containerPort")
        else:
            faults.check(where + ".containerPort", p["containerPort"], fields.port_number(p["containerPort"]))
        if p.get("hostPort"):
            faults.check(where + ".hostPort", p["hostPort"], fields.port_number(p["hostPort"]))
        faults.enum(where + ".protocol", p.get("protocol"), _PROTOCOLS)


def _host_ports(faults: Faults, at: str, spec: Object) -> None:
    seen: set[tuple[Any, ...]] = set()
    for i, c in enumerate(spec.get("containers") or ()):
        for j, p in enumerate(c.get("ports") or ()):
            where = f"{at}.containers[{i}].ports[{j}]"
            if spec.get("hostNetwork") and p.get("hostPort") != p.get("containerPort"):
                faults.invalid(
                    where + ".containerPort", p.get("containerPort"), "must match `hostPort` when `hostNetwork` is true"
                )
            if p.get("hostPort"):
                key = (p.get("protocol"), p.get("hostIP", ""), p["hostPort"])
                if key in seen:
                    faults.duplicate(where + ".hostPort", f"{key[0]}/{key[1]}/{key[2]}")
                seen.add(key)


def _env(faults: Faults, at: str, e: Object) -> None:
    if not e.get("name"):
        faults.required(at + ".name")
    else:
        faults.check(at + ".name", e["name"], fields.env_var_name(e["name"]))
    source = e.get("valueFrom")
    if source is None:
        return
    if len(source) != 1:
        why = "may not have more than one field specified at a time" if source else (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        )  # fmt: skip
        faults.invalid(at + ".valueFrom", "", why)
    elif e.get("value"):
        faults.invalid(at + ".valueFrom", "", "may not be specified when `value` is not empty")
    downward.validate_source(faults, at + ".valueFrom", source)
    for kind in ("configMapKeyRef", "secretKeyRef"):
        if kind in source:
            if not source[kind].get("name"):
                faults.required(f"{at}.valueFrom.{kind}.name")
            if not source[kind].get("key"):
                faults.required(f"{at}.valueFrom.{kind}.key")


def _env_from(faults: Faults, at: str, e: Object) -> None:
    if e.get("prefix"):
        faults.check(at + ".prefix", e["prefix"], fields.env_var_name(e["prefix"]))
    present = [k for k in ("configMapRef", "secretRef") if e.get(k) is not None]
    for kind in present:
        if not e[kind].get("name"):
            faults.required(f"{at}.{kind}.name")
    if not present:
        faults.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
    elif len(present) > 1:
        faults.invalid(at, "", "may not have more than one field specified at a time")


def _resource_name(faults: Faults, at: str, name: str) -> None:
    why = fields.qualified_name(name)
    faults.check(at, name, why)
    standard = name in ("cpu", "memory", "ephemeral-storage") or name.startswith("hugepages-")
    if not why and "/" not in name and not standard:
        faults.invalid(at, name, "must be a standard resource type or fully qualified")


def resources(faults: Faults, at: str, r: Object) -> None:
    limits, requests = r.get("limits") or {}, r.get("requests") or {}
    for field, amounts in (("limits", limits), ("requests", requests)):
        for name, value in amounts.items():
            where = f"{at}.{field}[{name}]"
            _resource_name(faults, where, name)
            if value[:1] == "-":
                faults.invalid(where, value, "must be greater than or equal to 0")
            elif is_extended(name) and quantity.parse_quantity(value).denominator != 1:
                faults.invalid(where, value, "must be an integer")
    for name, value in requests.items():
        if name in limits and quantity.parse_quantity(value) > quantity.parse_quantity(limits[name]):
            why = f"must be less than or equal to {name} limit of {limits[name]}"
            faults.invalid(f"{at}.requests", value, why)
        elif name not in limits and is_extended(name):
            faults.required(f"{at}.limits[{name}]", "Limit must be set for non overcommitable resources")


def _probe(faults: Faults, at: str, probe: Object, *, readiness: bool) -> None:
    _handler(faults, at, probe, _HANDLERS)
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        faults.non_negative(f"{at}.{field}", probe.get(field))
    if not readiness and probe.get("successThreshold", 1) != 1:
        faults.invalid(at + ".successThreshold", probe["successThreshold"], "must be 1")
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and (readiness or grace <= 0):
        if readiness:
            faults.invalid(at + ".terminationGracePeriodSeconds", grace, "must not be set for readinessProbes")
        else:
            faults.invalid(at + ".terminationGracePeriodSeconds", grace, "must be greater than 0")


def _handler(faults: Faults, at: str, handler: Object, kinds: tuple[str, ...]) -> None:
    present = [k for k in kinds if k in handler]
    if not present:
        faults.required(at, "must specify a handler type")
    for extra in present[1:]:
        faults.forbidden(f"{at}.{extra}", "may not specify more than 1 handler type")
    if "exec" in handler and not handler["exec"].get("command"):
        faults.required(at + ".exec.command")
    for kind in ("httpGet", "tcpSocket", "grpc"):
        if kind not in handler:
            continue
        port = handler[kind].get("port", 0)
        if isinstance(port, int):
            faults.check(f"{at}.{kind}.port", port, fields.port_number(port))
        else:
            faults.check(f"{at}.{kind}.port", port, fields.port_name(port))
    if "httpGet" in handler:
        faults.enum(at + ".httpGet.scheme", handler["httpGet"].get("scheme"), ("HTTP", "HTTPS"))


def validate_pod_update(faults: Faults, new: Object, old: Object) -> None:
    a, b = dict(new["spec"]), dict(old["spec"])
    for field in ("containers", "initContainers"):
        if len(a.get(field) or ()) != len(b.get(field) or ()):
            faults.forbidden("spec." + field, "pod updates may not add or remove containers")
            return
        if field in a:
            a[field] = [{**c, "image": o.get("image")} for c, o in zip(a[field], b[field], strict=True)]
    added = [t for t in b.get("tolerations") or () if t not in (a.get("tolerations") or ())]
    if not added:
        a["tolerations"] = b.get("tolerations")
        if a["tolerations"] is None:
            del a["tolerations"]
    before, after = b.get("activeDeadlineSeconds"), a.get("activeDeadlineSeconds")
    if after is not None and (before is None or after <= before):
        a["activeDeadlineSeconds"] = before
        if before is None:
            del a["activeDeadlineSeconds"]
    grace = b.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0 and a.get("terminationGracePeriodSeconds") == 1:
        a["terminationGracePeriodSeconds"] = grace
    if not b.get("nodeName") and b.get("schedulingGates"):
        for field in ("schedulingGates", "nodeSelector", "affinity"):
            a.pop(field, None)
            b.pop(field, None)
    if a != b:
        faults.forbidden("spec", _UNCHANGED)
