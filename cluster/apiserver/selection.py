"""What part of a resource a list or watch asks for: namespace, name, node, labels, fields. Pure.

Of a field selector, `metadata.name`, `metadata.namespace` and a pod's `spec.nodeName` are answered from keys and cached
facts; only what remains decodes objects. Invariant: `matches` never looks beyond the entry it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.api import errors
from cluster.api.scheme import SCHEME, ResourceInfo
from cluster.api.selectors import FieldSelector, LabelSelector, parse_field_selector, parse_label_selector
from cluster.registry.reading import check_fields
from cluster.registry.viewing import hub_fields

if TYPE_CHECKING:
    from cluster.apiserver.cache import Entry


@dataclass(frozen=True, slots=True)
class Selection:
    """`name` and `node` are "" when not pinned; `fields` holds what is left of the field selector."""

    namespace: str = ""
    name: str = ""
    node: str = ""
    labels: LabelSelector | None = None
    fields: FieldSelector | None = None

    @property
    def filters(self) -> bool:
        """True when more than the namespace decides."""
        return bool(self.name or self.node or self.labels is not None or self.fields is not None)

    def matches(self, entry: Entry) -> bool:
        if self.namespace and entry.meta.namespace != self.namespace:
            return False
        if self.name and entry.meta.name != self.name:
            return False
        if self.node and entry.node != self.node:
            return False
        if self.labels is not None and not self.labels.matches(entry.labels):
            return False
        return self.fields is None or self.fields.matches(entry.decode())


def parse(info: ResourceInfo, namespace: str, label_text: str, field_text: str) -> Selection:
    """Raises ApiError 400 for selectors that cannot be read or fields that this resource does not select on."""
    try:
        labels = parse_label_selector(label_text) if label_text.strip() else None
    except ValueError as e:
        raise errors.bad_request(f"unable to parse requirement: {e}") from e
    if not field_text.strip():
        return Selection(namespace=namespace, labels=labels)
    try:
        fields = parse_field_selector(field_text)
    except ValueError as e:
        raise errors.bad_request(str(e)) from e
    fields = hub_fields(info, fields) or fields
    check_fields(SCHEME.hub(info), fields)
    name = fields.required("metadata.name") or ""
    node = (fields.required("spec.nodeName") or "") if info.name == "pods" else ""
    pinned = {"metadata.name": name, "spec.nodeName": node}
    asked_namespace = fields.required("metadata.namespace")
    rest = FieldSelector(tuple(t for t in fields.terms if t.negate or not t.value or pinned.get(t.path) != t.value))
    if asked_namespace and not namespace and info.namespaced:
        namespace = asked_namespace
    return Selection(namespace, name, node, labels, None if rest.empty else rest)
