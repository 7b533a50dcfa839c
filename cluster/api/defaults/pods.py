"""Defaults of pods and pod templates (k8s.io/kubernetes pkg/apis/core/v1/defaults.go).

Pure, in place. A Pod gets a little more than a template does: requests from limits and enableServiceLinks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

Object = dict[str, Any]

_MODE = 0o644


@lru_cache(maxsize=1024)
def pull_policy(image: str) -> str:
    """Always for `latest` or no tag, IfNotPresent for a tag or digest."""
    if "@" in image:
        return "IfNotPresent"
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return "IfNotPresent" if colon and tag != "latest" else "Always"


def _field_ref(source: Object | None) -> None:
    if source is not None:
        source.setdefault("apiVersion", "v1")


def _http_get(action: Object | None) -> None:
    get = (action or {}).get("httpGet")
    if get is not None:
        if not get.get("path"):
            get["path"] = "/"
        if not get.get("scheme"):
            get["scheme"] = "HTTP"


def _probe(probe: Object | None) -> None:
    if probe is None:
        return
    for field, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        if not probe.get(field):
            probe[field] = value
    _http_get(probe)
    grpc = probe.get("grpc")
    if grpc is not None:
        grpc.setdefault("service", "")


def default_container(c: Object) -> None:
    if not c.get("imagePullPolicy"):
        c["imagePullPolicy"] = pull_policy(c.get("image", ""))
    if not c.get("terminationMessagePath"):
        c["terminationMessagePath"] = "/dev/termination-log"
    if not c.get("terminationMessagePolicy"):
        c["terminationMessagePolicy"] = "File"
    c.setdefault("resources", {})
    for p in c.get("ports") or ():
        if not p.get("protocol"):
            p["protocol"] = "TCP"
    for e in c.get("env") or ():
        source = e.get("valueFrom")
        if source:
            _field_ref(source.get("fieldRef"))
            if "resourceFieldRef" in source:
                source["resourceFieldRef"].setdefault("divisor", "0")
    _probe(c.get("livenessProbe"))
    _probe(c.get("readinessProbe"))
    _probe(c.get("startupProbe"))
    lifecycle = c.get("lifecycle")
    if lifecycle:
        _http_get(lifecycle.get("postStart"))
        _http_get(lifecycle.get("preStop"))


def _downward_items(source: Object) -> None:
    for item in source.get("items") or ():
        _field_ref(item.get("fieldRef"))
        if "resourceFieldRef" in item:
            item["resourceFieldRef"].setdefault("divisor", "0")


def _projected(source: Object) -> None:
    source.setdefault("defaultMode", _MODE)
    for s in source.get("sources") or ():
        if "serviceAccountToken" in s:
            s["serviceAccountToken"].setdefault("expirationSeconds", 3600)
        if "downwardAPI" in s:
            _downward_items(s["downwardAPI"])


def default_volume_source(v: Object) -> None:
    if len(v) <= 1:
        v["emptyDir"] = {}
        return
    for kind in ("secret", "configMap"):
        if kind in v:
            v[kind].setdefault("defaultMode", _MODE)
    if "downwardAPI" in v:
        v["downwardAPI"].setdefault("defaultMode", _MODE)
        _downward_items(v["downwardAPI"])
    elif "projected" in v:
        _projected(v["projected"])
    elif "hostPath" in v:
        v["hostPath"].setdefault("type", "")
    elif "ephemeral" in v:
        claim = (v["ephemeral"].get("volumeClaimTemplate") or {}).get("spec")
        if claim is not None:
            claim.setdefault("volumeMode", "Filesystem")
    elif "iscsi" in v:
        v["iscsi"].setdefault("iscsiInterface", "default")
    elif "rbd" in v:
        for field, value in (("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")):
            v["rbd"].setdefault(field, value)


def default_pod_spec(spec: Object) -> None:
    """What Pod and PodTemplate share."""
    if not spec.get("restartPolicy"):
        spec["restartPolicy"] = "Always"
    if spec.get("terminationGracePeriodSeconds") is None:
        spec["terminationGracePeriodSeconds"] = 30
    if not spec.get("dnsPolicy"):
        spec["dnsPolicy"] = "ClusterFirst"
    spec.setdefault("securityContext", {})
    if not spec.get("schedulerName"):
        spec["schedulerName"] = "default-scheduler"
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:  # the old name mirrors the new one
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for c in spec.get(field) or ():
            default_container(c)
            if spec.get("hostNetwork"):
                for p in c.get("ports") or ():
                    p.setdefault("hostPort", p.get("containerPort"))
    for v in spec.get("volumes") or ():
        default_volume_source(v)


def _requests_from_limits(c: Object) -> None:
    resources = c.get("resources")
    limits = resources.get("limits") if resources else None
    if limits:
        requests = resources.setdefault("requests", {})  # type: ignore[union-attr]
        for k, v in limits.items():
            requests.setdefault(k, v)


def default_pod(pod: Object) -> None:
    spec = pod.setdefault("spec", {})
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    for field in ("initContainers", "containers"):
        for c in spec.get(field) or ():
            _requests_from_limits(c)
    _requests_from_limits(spec)


def default_template(template: Object | None) -> None:
    if template is not None:
        default_pod_spec(template.setdefault("spec", {}))
