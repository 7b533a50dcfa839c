"""The variable `authorizer`: what the user of a request may do besides, asked while an expression is evaluated.

Pure but for `AUTHORIZE`, which holds who is asked for the length of one evaluation. Source: k8s.io/apiserver
`pkg/cel/library/authz.go`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from cluster.api.cel.library.declaring import Declarations
from cluster.api.cel.library.values import Value, tagged

# verb, group, resource, subresource, namespace, name, path, user -> (allowed, reason)
Authorize = Callable[[dict[str, str]], tuple[bool, str]]
AUTHORIZE: ContextVar[Authorize | None] = ContextVar("cel_authorize", default=None)

_AUTHORIZER, _DECISION = "kubernetes.authorization", "kubernetes.authorization.Decision"
_FIELDS = ("path", "group", "resource", "subresource", "namespace", "name", "fieldSelector", "labelSelector")


def authorizer() -> Value:
    """The value of the variable `authorizer`; checks go to the callable given to `Program.evaluate`."""
    return {_AUTHORIZER: {}}


def _with(field: str) -> Callable[[Value, str], Value]:
    return lambda v, text: {_AUTHORIZER: {**tagged(v, _AUTHORIZER), field: text}}


def _service_account(v: Value, namespace: str, name: str) -> Value:
    return {_AUTHORIZER: {**tagged(v, _AUTHORIZER), "user": f"system:serviceaccount:{namespace}:{name}"}}


def _check(v: Value, verb: str) -> Value:
    ask = AUTHORIZE.get()
    if ask is None:
        raise ValueError("the authorizer is not available here")
    allowed, reason = ask({**tagged(v, _AUTHORIZER), "verb": verb})
    return {_DECISION: {"allowed": allowed, "reason": reason}}


def declare(to: Declarations) -> None:
    """What narrows a question, `check`, and what its decision says."""
    for field in _FIELDS:
        to.method(field, [to.value, to.text], to.value, _with(field))
    to.method("serviceAccount", [to.value, to.text, to.text], to.value, _service_account)
    to.method("check", [to.value, to.text], to.value, _check)
    to.method("allowed", [to.value], to.boolean, lambda d: tagged(d, _DECISION)["allowed"])
    to.method("reason", [to.value], to.text, lambda d: tagged(d, _DECISION)["reason"])
    to.method("errored", [to.value], to.boolean, lambda d: not tagged(d, _DECISION))
    to.method("error", [to.value], to.text, lambda d: "" if tagged(d, _DECISION) else "no decision")
