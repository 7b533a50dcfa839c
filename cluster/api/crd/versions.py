"""One served version of a definition, ready for use: what the registry and the API server ask of a custom resource.

Pure. Built once per version and definition change, and never changed; the expensive parts (schema, node) are made at
first use, so that a cluster with a thousand definitions starts as fast as one with none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from cluster.api import errors, typecheck
from cluster.api.crd import definition, definition_rules, embedded, instances, list_types, nodes, pruning, rules, scales
from cluster.api.crd.structural import MISSING, Schema, compile_schema
from cluster.api.errors import Cause
from cluster.api.schema import Node
from cluster.api.scheme import ALL_VERBS, ResourceInfo
from cluster.api.validation.fields import Faults

Object = dict[str, Any]

# Faults after which rules would judge values that are not of their types.
_BLOCKING = frozenset(
    ("FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid")
)
_RULES_LEFT_OUT = Cause(
    "FieldValueInvalid",
    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing "
    "errors to complete validation",
    "<nil>",
)
_VERSION = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?", re.ASCII)


def priority(version: str) -> tuple[Any, ...]:
    """Sorts a list of versions as Kubernetes prefers them: v2, v1, v1beta1, v1alpha1, then others by name."""
    m = _VERSION.fullmatch(version)
    if m is None:
        return (1, version)
    stage = {None: 0, "beta": 1, "alpha": 2}[m.group(2)]
    return (0, stage, -int(m.group(1)), -int(m.group(3) or 0))


class CustomVersion:
    """`storage` is the version objects are stored in; `conversion` the definition's conversion, as written;
    `head` how stored bytes of this version begin; `crd_revision` the definition's revision, last seen."""

    def __init__(self, crd: Object, version: Object) -> None:
        spec = crd["spec"]
        names = (crd.get("status") or {}).get("acceptedNames") or spec["names"]
        sub = version.get("subresources") or {}
        self.definition: str = crd["metadata"]["name"]
        self.uid: str = crd["metadata"].get("uid", "")
        self.group: str = spec["group"]
        self.version: str = version["name"]
        self.kind: str = names.get("kind") or spec["names"]["kind"]
        self.list_kind: str = names.get("listKind") or self.kind + "List"
        self.storage: str = definition_rules.storage_version(crd)
        self.versions: tuple[str, ...] = tuple(v["name"] for v in spec["versions"])
        self._schemas = {v["name"]: (v.get("schema") or {}).get("openAPIV3Schema") for v in spec["versions"]}
        self._compiled: dict[str, Schema] = {}
        self.served: tuple[str, ...] = tuple(v["name"] for v in spec["versions"] if v.get("served"))
        self.conversion: Object = spec.get("conversion") or {"strategy": "None"}
        self.generation = crd["metadata"].get("generation")
        self.crd_revision = int(crd["metadata"].get("resourceVersion") or 0)
        self.terminating = definition.is_terminating(crd)
        self.has_status = "status" in sub
        self.scale: Object | None = sub.get("scale")
        self.head = b'{"kind":"%b","apiVersion":"%b/%b",' % (
            self.kind.encode(),
            self.group.encode(),
            self.version.encode(),
        )
        self.columns: list[Object] = list(version.get("additionalPrinterColumns") or ())
        self.selectable = tuple(f["jsonPath"].removeprefix(".") for f in version.get("selectableFields") or ())
        self.raw_schema: Object = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
        self.warning = ""
        if version.get("deprecated"):
            said = version.get("deprecationWarning")
            self.warning = said if said is not None else self._deprecation(spec["versions"])
        self._names = {**spec["names"], **names}
        self._namespaced = spec["scope"] == "Namespaced"

    def _deprecation(self, versions: Sequence[Object]) -> str:
        """Names the best version to use instead, if one is newer."""
        newer = [v["name"] for v in versions if v.get("served") and not v.get("deprecated")]
        better = sorted((n for n in newer if priority(n) < priority(self.version)), key=priority)
        said = f"{self.group}/{self.version} {self.kind} is deprecated"
        return f"{said}; use {self.group}/{better[0]} {self.kind}" if better else said

    @cached_property
    def schema(self) -> Schema:
        return compile_schema(self.raw_schema)

    def schema_of(self, version: str) -> Schema:
        """Of any version of the definition; of one that it has no more, a schema that knows nothing."""
        if version == self.version:
            return self.schema
        if version not in self._compiled:
            self._compiled[version] = compile_schema(self._schemas.get(version))
        return self._compiled[version]

    def same_as(self, other: CustomVersion) -> bool:
        """Whether nothing about what is served has changed between two looks at the definition."""
        return (self.uid, self.generation, self._names) == (other.uid, other.generation, other._names)

    @cached_property
    def node(self) -> Node:
        """For field ownership and server-side apply."""
        return nodes.root_node(self.schema, self.kind)

    @cached_property
    def trivial(self) -> bool:
        """Stored bytes can be served as they are: this is the storage version, and no default might be missing."""
        return self.version == self.storage and not self.schema.has_defaults

    @cached_property
    def info(self) -> ResourceInfo:
        names = self._names
        subresources = (*(["status"] if self.has_status else []), *(["scale"] if self.scale else []))
        return ResourceInfo(
            self.group,
            self.version,
            self.kind,
            names["plural"],
            names.get("singular") or self.kind.lower(),
            self._namespaced,
            tuple(names.get("shortNames") or ()),
            tuple(names.get("categories") or ()),
            ALL_VERBS,
            tuple(subresources),
            deprecated=self.warning,
            custom=self,
        )

    # --- objects

    def decode(self, obj: Any, validation: str, repeated: Sequence[str] = ()) -> tuple[Object, list[str]]:
        """A pruned copy without forgotten nulls, and warnings as `typecheck.decode` has them. Raises ApiError 400; 422
        for embedded metadata."""
        head = f'{self.kind} in version "{self.version}" cannot be handled as a {self.kind}: '
        clean: Object = _copied(obj)
        try:
            unknown = pruning.prune(self.schema, clean)
        except typecheck.DecodeError as e:
            raise errors.bad_request(head + str(e)) from e
        except pruning.BadMetadata as e:
            fault = Cause("FieldValueInvalid", f'Invalid value: "": {e}', e.path)
            raise errors.invalid(self.kind, self.group, (clean.get("metadata") or {}).get("name", ""), [fault]) from e
        pruning.drop_nulls(self.schema, clean)
        return clean, typecheck.judged(head, unknown, repeated, validation)

    def default(self, obj: Object) -> bool:
        """In place; whether anything changed."""
        return pruning.apply_defaults(self.schema, obj)

    def default_status(self, obj: Object) -> None:
        """Of a write to the status, which changes nothing else. In place."""
        known = self.schema.properties.get("status")
        if known is not None and "status" in obj:
            pruning.apply_defaults(known, obj["status"])

    def validate(self, obj: Object, old: Object | None = None, *, status: bool = False) -> list[Cause]:
        """Causes by the schema and, where its values are what they should be at all, by the rules. `status`: of a write
        to the status, of which nothing else is judged by the schema."""
        faults = Faults()
        faults.causes += self._status(obj, old or {}) if status else instances.validate(self.schema, obj, old)
        if self.scale:
            scales.validate(faults, self.scale, obj, status=status)
        embedded.validate(faults, self.schema, obj)
        before = Faults()
        list_types.validate(before, self.schema, old or {})
        if not before.causes:  # of what was so before nobody complains
            list_types.validate(faults, self.schema, obj)
        if self.schema.has_rules and any(c.reason in _BLOCKING for c in faults.causes):
            return [*faults.causes, _RULES_LEFT_OUT]
        return [*faults.causes, *rules.validate(self.schema, obj, old)]

    def _status(self, obj: Object, old: Object) -> list[Cause]:
        known = self.schema.properties.get("status")
        if known is None or "status" not in obj:
            return []
        found = instances.of_value(known, obj["status"], old.get("status", MISSING))
        return [replace(c, field=f"status.{c.field}" if c.field not in ("", "<nil>") else "status") for c in found]

    def to_scale(self, obj: Object) -> Object:
        """autoscaling/v1 Scale. Raises ApiError 500 for replicas that are not there."""
        return scales.to_scale(self.scale or {}, obj)

    def replicas_path(self) -> list[str]:
        """The names of the fields that lead to how many are wanted."""
        return scales.keys_of((self.scale or {}).get("specReplicasPath", ".spec.replicas"))

    def from_scale(self, scale: Object, obj: Object) -> None:
        """Put the wish of a Scale into `obj`, in place."""
        scales.from_scale(self.scale or {}, scale, obj)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def served(crd: Object) -> list[CustomVersion]:
    """The versions that clients may use, the preferred first; none while the names are not accepted."""
    if not definition.is_established(crd):
        return []
    found = [CustomVersion(crd, v) for v in crd["spec"]["versions"] if v.get("served")]
    return sorted(found, key=lambda v: priority(v.version))


def stored(crd: Object) -> CustomVersion:
    """The storage version, served or not; raises StopIteration for a definition that has none."""
    return CustomVersion(crd, next(v for v in crd["spec"]["versions"] if v.get("storage")))
