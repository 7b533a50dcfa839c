"""The shape of every kind, from Kubernetes' published definitions.

Reads the definitions once, lazily, from the data of the `kubernetes_validate` package (Kubernetes' own OpenAPI as
JSON schema); otherwise pure. They are compiled to a small graph of `Node`s, shared by type checking, strategic merge
patch and server-side apply, and the raw text is dropped again: processes that never validate never load it, and the
others keep only the graph of the kinds they meet.

Invariants: a Node never changes once built; recursive definitions are cycles in the graph, not copies.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from cluster.api.resource_metrics import definitions as metrics_definitions

if TYPE_CHECKING:
    from cluster.api.scheme import ResourceInfo

Definition = dict[str, Any]


class Kind(IntEnum):
    """What a value is, once decoded. Those from QUANTITY on are leaves with a format of their own; the last is a JSON
    schema, a list of them, or a boolean (`elem` is the schema's struct)."""

    STRUCT = 0
    MAP = 1
    LIST = 2
    ANY = 3
    STRING = 4
    BOOL = 5
    INT32 = 6
    INT64 = 7
    FLOAT = 8
    QUANTITY = 9
    INT_OR_STRING = 10
    TIME = 11
    MICRO_TIME = 12
    BYTES = 13
    SCHEMA = 14


class Node:
    """One place in the shape of a kind.

    `type_name` is Go's name for error texts. `list_type` is atomic, set or map, with `list_keys` for map; `merge_key`
    and `strategies` are strategic merge patch's. `atomic` maps and structs are owned whole by server-side apply.
    `by_value`: fields that are structs without a pointer in Go, so always there; `encoded_empty`: those that Go writes
    as null when they are empty. Field ownership tells them from fields that come and go.
    """

    __slots__ = (
        "atomic", "by_value", "defaults", "elem", "encoded_empty", "fields", "kind", "list_keys", "list_type",
        "merge_key", "required", "strategies", "type_name",
    )  # fmt: skip

    def __init__(self, kind: Kind, type_name: str) -> None:
        self.kind = kind
        self.type_name = type_name
        self.fields: dict[str, Node] = {}
        self.elem: Node | None = None
        self.required: frozenset[str] = frozenset()
        self.list_type = "atomic"
        self.list_keys: tuple[str, ...] = ()
        self.merge_key = ""
        self.strategies: frozenset[str] = frozenset()
        self.atomic = False
        self.defaults: dict[str, Any] = {}
        self.by_value: frozenset[str] = frozenset()
        self.encoded_empty: frozenset[str] = frozenset()

    def child(self, key: str) -> Node | None:
        if self.kind is Kind.SCHEMA and self.elem is not None:
            return self.elem.fields.get(key)
        return self.fields.get(key) if self.kind is Kind.STRUCT else self.elem

    def __repr__(self) -> str:
        return f"Node({self.kind.name}, {self.type_name})"


_SPECIAL = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": (Kind.QUANTITY, "resource.Quantity"),
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": (Kind.INT_OR_STRING, "intstr.IntOrString"),
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": (Kind.TIME, "v1.Time"),
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": (Kind.MICRO_TIME, "v1.MicroTime"),
}
_PACKAGE = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
_SCHEMAS = frozenset(_PACKAGE + n for n in ("JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool"))
_SCALARS = {
    ("string", ""): (Kind.STRING, "string"),
    ("string", "byte"): (Kind.BYTES, "[]uint8"),
    ("string", "date-time"): (Kind.TIME, "v1.Time"),
    ("string", "int-or-string"): (Kind.INT_OR_STRING, "intstr.IntOrString"),
    ("boolean", ""): (Kind.BOOL, "bool"),
    ("integer", "int32"): (Kind.INT32, "int32"),
    ("integer", "int64"): (Kind.INT64, "int64"),
    ("integer", ""): (Kind.INT64, "int64"),
    ("number", "double"): (Kind.FLOAT, "float64"),
    ("number", ""): (Kind.FLOAT, "float64"),
}
_LEAVES = {what: Node(*what) for what in {*_SPECIAL.values(), *_SCALARS.values()}}
# Kubernetes publishes these defaults; the data leaves them out. Keys of list items need them: an item without a
# protocol is the item with protocol TCP.
_DEFAULTS = {
    "io.k8s.api.core.v1.ContainerPort": {"protocol": "TCP"},
    "io.k8s.api.core.v1.ServicePort": {"protocol": "TCP"},
}
# Structs that Go's types hold by value though they are optional (the required ones all are, and these three wherever
# they occur). The definitions do not tell; k8s.io/api does.
_ALWAYS_BY_VALUE = frozenset(("metadata", "spec", "status"))
_BY_VALUE = {
    "apiextensions.v1.CustomResourceDefinitionStatus": ("acceptedNames",),
    "apps.v1.DaemonSetSpec": ("updateStrategy",),
    "apps.v1.DeploymentSpec": ("strategy",),
    "apps.v1.ReplicaSetSpec": ("template",),
    "apps.v1.StatefulSetSpec": ("updateStrategy",),
    "core.v1.Container": ("resources",),
    "core.v1.ContainerStatus": ("lastState", "state"),
    "core.v1.EphemeralContainer": ("resources",),
    "core.v1.Event": ("source",),
    "core.v1.NodeDaemonEndpoints": ("kubeletEndpoint",),
    "core.v1.NodeStatus": ("daemonEndpoints", "nodeInfo"),
    "core.v1.PersistentVolumeClaimSpec": ("resources",),
    "core.v1.PodTemplate": ("template",),
    "core.v1.ServiceStatus": ("loadBalancer",),
    "discovery.v1.Endpoint": ("conditions",),
    "events.v1.Event": ("deprecatedSource", "regarding"),
    "networking.v1.IngressServiceBackend": ("port",),
    "networking.v1.IngressStatus": ("loadBalancer",),
    "networking.v1.NetworkPolicySpec": ("podSelector",),
    "resource.v1.AllocationResult": ("devices",),
    "resource.v1.ResourceClaimSpec": ("devices",),
}
# Optional, and yet without "omitempty".
_ENCODED_EMPTY = {"apiextensions.v1.CustomResourceDefinitionStatus": ("conditions", "storedVersions")}
ANY = Node(Kind.ANY, "interface {}")


def _data_dir() -> Path:
    spec = importlib.util.find_spec("kubernetes_validate")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package kubernetes-validate, which holds Kubernetes' API definitions, is not installed")
    root = Path(spec.submodule_search_locations[0]) / "kubernetes-json-schema"
    versions = [p for p in root.iterdir() if re.fullmatch(r"v\d+\.\d+\.\d+-local", p.name)]
    return max(versions, key=lambda p: tuple(int(x) for x in re.findall(r"\d+", p.name)))


def data_version() -> str:
    """The Kubernetes version of the definitions, as in v1.34.0."""
    return _data_dir().name.removesuffix("-local")


def load_definitions() -> dict[str, Definition]:
    """All definitions, freshly parsed (some 10 MB: keep no reference longer than needed)."""
    doc = orjson.loads((_data_dir() / "_definitions.json").read_bytes())
    definitions: dict[str, Definition] = doc.get("$defs") or doc["definitions"]
    for name, fields in _DEFAULTS.items():
        for field, value in fields.items():
            definitions[name]["properties"][field]["default"] = value
    definitions.update(metrics_definitions())
    return definitions


def _ref(schema: Definition) -> str:
    ref = schema.get("$ref")
    return str(ref).rsplit("/", 1)[-1] if ref else ""


def _type(schema: Definition) -> str:
    t = schema.get("type", "")
    if isinstance(t, list):
        t = next((x for x in t if x != "null"), "")
    return str(t)


def _go_name(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[-2:])


class _Compiler:
    """Definitions to Nodes; every definition once, so recursion ends."""

    def __init__(self, definitions: dict[str, Definition]) -> None:
        self.definitions = definitions
        self.nodes: dict[str, Node] = {}

    def definition(self, name: str) -> Node:
        if name in _SPECIAL:
            return _LEAVES[_SPECIAL[name]]
        node = self.nodes.get(name)
        if node is not None:
            return node
        if name in _SCHEMAS:
            node = self.nodes[name] = Node(Kind.SCHEMA, "v1.JSONSchemaProps")
            node.elem = self.definition(_PACKAGE + "JSONSchemaProps")
            return node
        schema = self.definitions[name]
        if "properties" not in schema:
            node = self.nodes[name] = ANY if _type(schema) in ("object", "") else self.schema(schema)
            return node
        node = self.nodes[name] = Node(Kind.STRUCT, _go_name(name))
        node.atomic = schema.get("x-kubernetes-map-type") == "atomic"
        node.required = frozenset(schema.get("required") or ())
        short = ".".join(name.split(".")[-3:])
        held = {f for f in node.required if _ref(schema["properties"].get(f) or {})}
        node.by_value = frozenset((*held, *_ALWAYS_BY_VALUE, *_BY_VALUE.get(short, ())))
        node.encoded_empty = node.required | frozenset(_ENCODED_EMPTY.get(short, ()))
        for field, sub in schema["properties"].items():
            node.fields[field] = self.schema(sub)
            if "default" in sub:
                node.defaults[field] = sub["default"]
        return node

    def schema(self, schema: Definition) -> Node:
        ref = _ref(schema)
        if ref:
            return self._annotated(self.definition(ref), schema)
        kind = _type(schema)
        if kind == "array":
            return self._list(schema)
        if kind == "object" and "additionalProperties" in schema:
            node = Node(Kind.MAP, "map[string]string")
            node.elem = self.schema(schema["additionalProperties"])
            node.type_name = "map[string]" + node.elem.type_name
            return self._annotated(node, schema)
        if kind in ("object", ""):
            return ANY
        what = _SCALARS.get((kind, schema.get("format") or "")) or _SCALARS[kind, ""]
        return _LEAVES[what]

    def _list(self, schema: Definition) -> Node:
        elem = self.schema(schema.get("items") or {})
        node = Node(Kind.LIST, "[]" + elem.type_name)
        node.elem = elem
        node.list_type = schema.get("x-kubernetes-list-type") or "atomic"
        node.list_keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
        node.merge_key = schema.get("x-kubernetes-patch-merge-key") or ""
        node.strategies = frozenset(filter(None, (schema.get("x-kubernetes-patch-strategy") or "").split(",")))
        return node

    def _annotated(self, node: Node, schema: Definition) -> Node:
        """`node` as seen through a field that says more about it; shares its fields, which may not be filled yet."""
        strategies = frozenset(filter(None, (schema.get("x-kubernetes-patch-strategy") or "").split(",")))
        atomic = schema.get("x-kubernetes-map-type") == "atomic" or node.atomic
        if node.kind not in (Kind.STRUCT, Kind.MAP) or (not strategies and atomic == node.atomic):
            return node
        seen = Node(node.kind, node.type_name)
        seen.fields, seen.elem, seen.defaults = node.fields, node.elem, node.defaults
        seen.required, seen.by_value, seen.encoded_empty = node.required, node.by_value, node.encoded_empty
        seen.strategies, seen.atomic = strategies, atomic
        return seen


EXTRA_KINDS = (
    ("autoscaling", "v1", "Scale"),
    ("", "v1", "Binding"),
    ("policy", "v1", "Eviction"),
    ("authentication.k8s.io", "v1", "TokenRequest"),
    ("authentication.k8s.io", "v1", "TokenReview"),
    ("authorization.k8s.io", "v1", "SubjectAccessReview"),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview"),
    ("authorization.k8s.io", "v1", "LocalSubjectAccessReview"),
)

Gvk = tuple[str, str, str]


def definition_names(definitions: dict[str, Definition]) -> dict[Gvk, str]:
    """Which definition describes a group, version and kind."""
    out: dict[Gvk, str] = {}
    for name, schema in definitions.items():
        for gvk in schema.get("x-kubernetes-group-version-kind") or ():
            out.setdefault((gvk["group"], gvk["version"], gvk["kind"]), name)
    # Eviction and a few others carry no kind of their own; their definition name says it
    for group, version, kind in EXTRA_KINDS:
        package = "core" if not group else group.split(".")[0]
        out.setdefault((group, version, kind), f"io.k8s.api.{package}.{version}.{kind}")
    return out


def compile_kinds(kinds: Iterable[Gvk]) -> dict[Gvk, Node]:
    definitions = load_definitions()
    names = definition_names(definitions)
    compiler = _Compiler(definitions)
    return {gvk: compiler.definition(names[gvk]) for gvk in kinds if names.get(gvk) in definitions}


@lru_cache(maxsize=1)
def _compiled() -> dict[Gvk, Node]:
    from cluster.api.scheme import SCHEME

    kinds = [(i.group, i.version, i.kind) for i in SCHEME.served()]
    return compile_kinds([*kinds, *EXTRA_KINDS])


def node_for(group: str, version: str, kind: str) -> Node:
    """The root node of a kind this cluster serves; raises KeyError for others."""
    return _compiled()[group, version, kind]


def node_of(info: ResourceInfo) -> Node:
    """The root node of a resource, built in or custom."""
    if info.custom is not None:
        node: Node = info.custom.node
        return node
    return node_for(info.group, info.version, info.kind)
