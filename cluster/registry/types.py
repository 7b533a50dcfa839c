"""The shapes that cross the registry's seam: stored objects, lists, watch events, delete options, authorization.

Pure data. `Stored.raw` is what a client gets, `Stored.obj` its decoded form, decoded once and shared: never change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import orjson

from cluster.registry.admissionconfig import AdmissionConfig
from cluster.registry.context import UserInfo


class Stored:
    """One object at one revision; `removed` on the answer to a delete that took effect at once, `created` on that to a
    write that made the object. `cause`: the cause id of the write that made it so, "" when it is not known. `key_id`:
    the key it is encrypted with, "" when in clear."""

    __slots__ = ("_obj", "cause", "created", "key", "key_id", "raw", "removed", "revision", "uid")

    def __init__(
        self,
        key: bytes,
        raw: bytes,
        revision: int,
        uid: str = "",
        obj: dict[str, Any] | None = None,
        removed: bool = False,
        cause: str = "",
        key_id: str = "",
        created: bool = False,
    ) -> None:
        self.key = key
        self.key_id = key_id
        self.raw = raw
        self.revision = revision
        self.uid = uid
        self.removed = removed
        self.created = created
        self.cause = cause
        self._obj = obj

    @classmethod
    def of(
        cls,
        key: bytes,
        obj: dict[str, Any],
        revision: int,
        uid: str = "",
        *,
        removed: bool = False,
        created: bool = False,
    ) -> Stored:
        """From an object that already carries its resourceVersion."""
        return cls(key, orjson.dumps(obj), revision, uid, obj, removed, created=created)

    @property
    def obj(self) -> dict[str, Any]:
        """Shared and read-only by convention."""
        if self._obj is None:
            self._obj = orjson.loads(self.raw)
        return self._obj

    def fresh(self) -> dict[str, Any]:
        """A decoded copy that the caller may change."""
        obj: dict[str, Any] = orjson.loads(self.raw)
        return obj

    def __repr__(self) -> str:
        return f"Stored({self.key!r}@{self.revision})"


@dataclass(slots=True)
class StoredList:
    """`remaining` is how many are known to follow, 0 when none or not known."""

    items: list[Stored]
    revision: int
    continue_token: str = ""
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A BOOKMARK's object has only kind, apiVersion and metadata.resourceVersion."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    stored: Stored


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """`propagation`: "", Background, Foreground or Orphan; `uid`, `resource_version`: preconditions."""

    grace_period_s: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""

    @classmethod
    def from_dict(cls, body: Mapping[str, Any] | None) -> DeleteOptions:
        body = body or {}
        pre = body.get("preconditions") or {}
        propagation = body.get("propagationPolicy") or ""
        if not propagation and body.get("orphanDependents") is not None:
            propagation = "Orphan" if body["orphanDependents"] else "Background"
        return cls(
            grace_period_s=body.get("gracePeriodSeconds"),
            propagation=propagation,
            uid=pre.get("uid") or "",
            resource_version=pre.get("resourceVersion") or "",
        )


@dataclass(frozen=True, slots=True)
class Binding:
    """Assigns a pod to a node; `uid` "" means whichever pod has the name."""

    namespace: str
    name: str
    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an authorizer decides on; `path` is set instead of a resource for non-resource requests."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    version: str = ""
    field_selector: str = ""

    @property
    def is_resource(self) -> bool:
        return not self.path


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    reason: str = ""


class Authorizer(Protocol):
    async def authorize(self, user: UserInfo, attributes: Attributes) -> Decision: ...


@runtime_checkable
class RuleResolver(Authorizer, Protocol):
    """An authorizer that can say by which rules it decides."""

    async def rules_of(self, user: UserInfo, namespace: str) -> list[dict[str, Any]]:
        """Every PolicyRule that binds the user in the namespace; "" is cluster scope."""
        ...

    async def role_rules(self, ref: Mapping[str, Any], namespace: str) -> list[dict[str, Any]] | None:
        """Of the role a roleRef names; None when there is none."""
        ...

    def allows_now(self, user: UserInfo, attributes: Attributes) -> bool:
        """From memory, without a look at the store."""
        ...

    async def refresh(self) -> bool:
        """Become as new as the store; False when it already was."""
        ...


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """What the registry must know of the cluster. `encryption_keys`: key id -> 32 bytes; the first encrypts, all
    decrypt.
    """

    service_cidr: str = "10.96.0.0/12"
    service_cidr_ipv6: str = ""
    """"": Services have IPv4 addresses alone."""
    node_port_range: tuple[int, int] = (30000, 32767)
    cluster_domain: str = "cluster.local"
    kubernetes_service_ip: str = "10.96.0.1"
    dns_service_ip: str = "10.96.0.10"
    api_port: int = 6443
    default_not_ready_toleration_s: int = 300
    default_unreachable_toleration_s: int = 300
    encrypted_resources: tuple[str, ...] = ("secrets",)
    encryption_keys: Mapping[str, bytes] = field(default_factory=dict)
    max_object_bytes: int = 1_500_000
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        """One of each family that Services may have, the default one first."""
        return (self.service_cidr, *filter(None, (self.service_cidr_ipv6,)))

    @property
    def ip_families(self) -> tuple[str, ...]:
        return ("IPv4", "IPv6")[: len(self.service_cidrs)]

    def validate(self) -> None:
        low, high = self.node_port_range
        if not 1 <= low <= high <= 65535:
            raise ValueError(f"node_port_range {low}-{high} is no port range; Kubernetes' default is 30000-32767")
        for key_id, key in self.encryption_keys.items():
            if len(key) not in (16, 24, 32):
                raise ValueError(f"encryption key {key_id!r} has {len(key)} bytes; AES needs 16, 24 or 32 (use 32)")
        self.admission.validate()
