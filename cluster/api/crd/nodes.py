"""A structural schema as the graph that server-side apply, and field ownership, are computed on.

Pure. Places that a schema leaves open are maps of maps, owned field by field, with lists owned whole (the deduced
schema of structured-merge-diff).
"""

from __future__ import annotations

from typing import Any

from cluster.api.crd.pruning import metadata_node
from cluster.api.crd.structural import MISSING, Schema
from cluster.api.schema import Kind, Node

_OPEN = Node(Kind.MAP, "map[string]interface {}")
_OPEN.elem = _OPEN
_LEAF = Node(Kind.ANY, "interface {}")
_STRING = Node(Kind.STRING, "string")


class _OpenFields(dict[str, Node]):
    """Fields of an object that holds others, too: those that nothing is known of are open below."""

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, _OPEN)


def root_node(schema: Schema, kind: str) -> Node:
    """The node of a whole custom resource."""
    node = _with_identity(_struct(schema, kind))
    node.by_value = frozenset(("metadata",))
    return node


def _with_identity(node: Node) -> Node:
    node.fields.update(apiVersion=_STRING, kind=_STRING, metadata=metadata_node())
    return node


def _node(schema: Schema) -> Node:
    if schema.items is not None or schema.type == "array":
        return _list(schema)
    if schema.properties:
        node = _struct(schema, "object")
        return _with_identity(node) if schema.embedded else node
    if schema.additional is not None:
        node = Node(Kind.MAP, "map[string]object")
        node.elem = _node(schema.additional)
        node.atomic = schema.atomic_map
        return node
    if schema.preserve or schema.type == "object":
        return _atomic(_OPEN) if schema.atomic_map else _OPEN
    return _LEAF


def _atomic(node: Node) -> Node:
    out = Node(node.kind, node.type_name)
    out.elem, out.atomic = node.elem, True
    return out


def _struct(schema: Schema, name: str) -> Node:
    node = Node(Kind.STRUCT, name)
    fields = {k: _node(s) for k, s in schema.properties.items()}
    node.fields = _OpenFields(fields) if schema.preserve else fields
    node.required = frozenset(schema.required)
    node.defaults = {k: s.default for k, s in schema.properties.items() if s.default is not MISSING}
    node.atomic = schema.atomic_map
    return node


def _list(schema: Schema) -> Node:
    node = Node(Kind.LIST, "[]object")
    node.elem = _node(schema.items) if schema.items is not None else _LEAF
    node.list_type = schema.list_type
    node.list_keys = schema.list_keys
    return node
