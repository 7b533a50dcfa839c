"""The request as webhooks and CEL expressions see it: `AdmissionRequest` of admission.k8s.io/v1.

Pure.
"""

from __future__ import annotations

from typing import Any

from cluster.api import scheme
from cluster.registry.admission.request import Request

Object = dict[str, Any]


def admission_request(request: Request, uid: str, version: str = "") -> Object:
    """Without `object` and `oldObject`, which are large and variables of their own in CEL. `version`: the one in which
    they are shown, if it is not the request's."""
    info = request.info
    group, own, kind = scheme.subresource_kind(info, request.subresource)
    what = {"group": group, "version": own, "kind": kind}
    resource = {"group": info.group, "version": info.version, "resource": info.plural}
    shown = {"version": version} if version else {}
    kept = what if kind != info.kind else {**what, **shown}
    out: Object = {"uid": uid, "kind": kept, "resource": {**resource, **shown}}
    if request.subresource:
        out["subResource"] = out["requestSubResource"] = request.subresource
    out |= {"requestKind": what, "requestResource": resource}
    if request.name:
        out["name"] = request.name
    if request.namespace:
        out["namespace"] = request.namespace
    out |= {"operation": request.operation, "userInfo": request.ctx.user.to_dict()}
    out |= {"dryRun": request.ctx.dry_run, "options": options(request)}
    return out


def options(request: Request) -> Object:
    if request.operation == "CONNECT":
        return {}
    kind = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}[request.operation]
    out: Object = {"kind": kind, "apiVersion": "meta.k8s.io/v1"}
    ctx = request.ctx
    if ctx.dry_run:
        out["dryRun"] = ["All"]
    if ctx.field_manager and request.operation != "DELETE":
        out["fieldManager"] = ctx.field_manager
    if ctx.field_validation and request.operation != "DELETE":
        out["fieldValidation"] = ctx.field_validation
    return out
