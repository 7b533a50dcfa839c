"""Who may write what of a CertificateSigningRequest: the requester its spec, approvers the decision, signers the rest.

Pure, in place; the rules of k8s.io/kubernetes pkg/registry/certificates. The decision is the conditions Approved and
Denied, which only `approval` may add.
"""

from __future__ import annotations

from typing import Any

from cluster.api.meta import rfc3339
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


def merge_status(new: Object, old: Object, subresource: str, now: float) -> None:
    """`approval` brings conditions and nothing else; `status` may do anything but decide: a decision stays as it was,
    and one that is added or taken away there is refused by `cluster.api.validation`. Conditions get their times."""
    before = old.get("status") or {}
    if subresource == "approval":
        status = {**before, "conditions": _conditions(new)}
    else:
        status = dict(new.get("status") or {})
        status["conditions"] = _with_decisions(_conditions(new), _conditions(old))
    status["conditions"] = [_timed(condition, _conditions(old), now) for condition in status["conditions"]]
    if not status["conditions"]:
        del status["conditions"]
    new["status"] = status


def _conditions(obj: Object) -> list[Object]:
    return list((obj.get("status") or {}).get("conditions") or ())


def _with_decisions(conditions: list[Object], before: list[Object]) -> list[Object]:
    """`conditions`, whose decisions are those of before where there are as many of each."""
    out = list(conditions)
    for decision in _DECISIONS:
        was = [c for c in before if c.get("type") == decision]
        at = [i for i, c in enumerate(out) if c.get("type") == decision]
        if len(was) == len(at):
            for i, condition in zip(at, was, strict=True):
                out[i] = condition
    return out


def _timed(condition: Object, before: list[Object], now: float) -> Object:
    """With lastUpdateTime, and lastTransitionTime since when its status is what it is, where the writer gave none."""
    out = dict(condition)
    out.setdefault("lastUpdateTime", rfc3339(now))
    if not out.get("lastTransitionTime"):
        same = (c for c in before if (c.get("type"), c.get("status")) == (out.get("type"), out.get("status")))
        since = next((c["lastTransitionTime"] for c in same if c.get("lastTransitionTime")), rfc3339(now))
        out["lastTransitionTime"] = since
    return out
