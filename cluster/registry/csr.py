"""Who may write what of a CertificateSigningRequest: the requester its spec, approvers the decision, signers the rest.

Pure, in place; the strategy of k8s.io/kubernetes pkg/registry/certificates. The decision is the conditions Approved and
Denied; `status` keeps them as they are, `approval` changes nothing else.
"""

from __future__ import annotations

from typing import Any

from cluster.registry.context import UserInfo

Object = dict[str, Any]

_DECISIONS = ("Approved", "Denied")
_REQUESTER = ("username", "uid", "groups", "extra")


def note_requester(obj: Object, user: UserInfo) -> None:
    """The server says who asked, whatever the client wrote there."""
    spec = obj.setdefault("spec", {})
    for field in _REQUESTER:
        spec.pop(field, None)
    spec["username"] = user.name
    if user.uid:
        spec["uid"] = user.uid
    if user.groups:
        spec["groups"] = list(user.groups)
    if user.extra:
        spec["extra"] = {k: list(v) for k, v in user.extra.items()}


def keep_request(new: Object, old: Object) -> None:
    """A request is what its requester signed: spec never changes."""
    new["spec"] = old.get("spec") or {}


def _conditions(obj: Object, *, decisions: bool) -> list[Object]:
    found = (obj.get("status") or {}).get("conditions") or ()
    return [c for c in found if (c.get("type") in _DECISIONS) is decisions]


def merge_status(new: Object, old: Object, subresource: str) -> None:
    """`approval` brings the decision, `status` everything else."""
    decision_from, rest_from = (new, old) if subresource == "approval" else (old, new)
    status = dict(rest_from.get("status") or {})
    conditions = [*_conditions(decision_from, decisions=True), *_conditions(rest_from, decisions=False)]
    status.pop("conditions", None)
    if conditions:
        status["conditions"] = conditions
    new["status"] = status
