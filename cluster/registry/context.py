"""Who asks, and under which conditions: the context every registry call carries.

Pure data. The context travels from the API (or a controller) through the registry into the store's transaction:
identity for authorization and admission, deadline, audit and cause ids, the leader's fence, and how strictly to read
the input.

A cause id names what began a chain of writes: the audit id of a user's request. It is stored in the header of every
value that the request wrote (`codec`), comes back with the event, and is the cause of what a controller writes because
of that event. So one id leads from `kubectl scale` to the pods, in stored values and in the logs of what failed.
`CAUSE` is how it crosses code that only passes keys on (informer > work queue > reconcile): the informer sets it while
it tells its listeners, the queue keeps it with the key, and the reconciler's worker runs under it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.registry.store import Compare

CAUSE: ContextVar[str] = ContextVar("sk8_cause", default="")
"""The cause id of what this task does just now; "" when nobody's action stands behind it."""


@dataclass(frozen=True, slots=True)
class UserInfo:
    """An authenticated user; `extra` holds lists per key as in authentication.k8s.io."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def node_name(self) -> str:
        """The machine, for a node identity (`system:node:<m>` in group system:nodes); otherwise ""."""
        if self.name.startswith("system:node:") and "system:nodes" in self.groups:
            return self.name.removeprefix("system:node:")
        return ""

    def to_dict(self) -> dict[str, Any]:
        """As authentication.k8s.io/v1 UserInfo; what is empty is left out."""
        out: dict[str, Any] = {"username": self.name}
        if self.uid:
            out["uid"] = self.uid
        if self.groups:
            out["groups"] = list(self.groups)
        if self.extra:
            out["extra"] = {key: list(values) for key, values in self.extra.items()}
        return out


@dataclass(frozen=True, slots=True)
class RequestContext:
    """`deadline`: a moment on the event loop's clock, which no step of the wall clock moves. It bounds the
    transactions, leases and reads of what is asked for and of its quotas; what admission, address allocation and the
    authorizer look up ends with the store client's own time-out, or when the API server gives up the request.
    `audit_id` names this request, `cause_id` what it was made for (the same for a user's own). `repeated` is what the
    text of the object said twice, for fieldValidation to judge, `body_bytes` how long that text is; `warnings` collects
    texts for Warning headers of the answer, `annotations` what admission says for the audit event.
    """

    user: UserInfo
    audit_id: str = ""
    deadline: float | None = None
    cause_id: str = ""
    fence: tuple[Compare, ...] = ()
    dry_run: bool = False
    field_manager: str = ""
    field_validation: str = ""
    repeated: tuple[str, ...] = ()
    body_bytes: int = 0
    warnings: list[str] = field(default_factory=list, compare=False)
    annotations: dict[str, str] = field(default_factory=dict, compare=False)

    def with_fence(self, *fence: Compare) -> RequestContext:
        return replace(self, fence=fence)


def last_deadline(callers: Sequence[RequestContext]) -> float | None:
    """When nobody wants it any more: each caller keeps its own deadline by giving up its wait. None: never."""
    known = [c.deadline for c in callers if c.deadline is not None]
    return max(known) if known and len(known) == len(callers) else None


MASTERS = UserInfo("system:apiserver", groups=("system:masters", "system:authenticated"))


def internal_context(manager: str = "sk8") -> RequestContext:
    """For the registry's own writes (bootstrap)."""
    return RequestContext(user=MASTERS, field_manager=manager)
