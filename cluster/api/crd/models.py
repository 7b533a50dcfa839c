"""Custom kinds as the published OpenAPI documents describe them, beside the built-in definitions.

Pure. kubectl explain, client-side validation and apply read them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from cluster.api import schema
from cluster.api.crd.versions import CustomVersion
from cluster.api.scheme import ResourceInfo

Doc = dict[str, Any]

_META = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1."
_API_VERSION = (
    "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized "
    "schemas to the latest internal value, and may reject unrecognized values. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
)
_KIND = (
    "Kind is a string value representing the REST resource this object represents. Servers may infer this from the "
    "endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
)
_IDENTITY: Doc = {
    "apiVersion": {"type": "string", "description": _API_VERSION},
    "kind": {"type": "string", "description": _KIND},
}


def model_name(custom: CustomVersion) -> str:
    """`com.example.stable.v1.CronTab` of stable.example.com/v1, as Kubernetes names it."""
    return ".".join([*reversed(custom.group.split(".")), custom.version, custom.kind])


def definitions(info: ResourceInfo) -> dict[str, Doc]:
    """The kind and its list, by model name, in the form of the built-in definitions."""
    custom: CustomVersion = info.custom
    name = model_name(custom)
    gvk = {"group": custom.group, "version": custom.version}
    kind = copy.deepcopy(custom.raw_schema)
    metadata = {"description": "Standard object's metadata.", "$ref": f"{_META}ObjectMeta"}
    kind["properties"] = {**(kind.get("properties") or {}), **_IDENTITY, "metadata": metadata}
    kind["x-kubernetes-group-version-kind"] = [{**gvk, "kind": custom.kind}]
    if custom.selectable:
        kind["x-kubernetes-selectable-fields"] = [{"fieldPath": path} for path in custom.selectable]
    items = {"type": "array", "items": {"$ref": f"#/definitions/{name}"}}
    listed: Doc = {
        "description": f"{custom.list_kind} is a list of {custom.kind}",
        "type": "object",
        "required": ["items"],
        "properties": {**_IDENTITY, "metadata": {"$ref": f"{_META}ListMeta"}, "items": items},
        "x-kubernetes-group-version-kind": [{**gvk, "kind": custom.list_kind}],
    }
    listed_name = name.removesuffix(custom.kind) + custom.list_kind
    return {name: kind, listed_name: listed}


def digest(infos: Sequence[ResourceInfo]) -> str:
    """Of what the document is made from."""
    made_of = [(repr(i), i.custom.list_kind, i.custom.raw_schema, i.custom.selectable) for i in infos]
    return hashlib.sha512(orjson.dumps([schema.data_version(), made_of])).hexdigest().upper()
