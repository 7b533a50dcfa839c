"""CEL in admission: the variables an expression may name, match conditions, and what is said when one fails.

Pure, but for the authorizer's memory. Source: k8s.io/apiserver pkg/admission/plugin/cel, webhook/matchconditions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.api import cel
from cluster.api.cel.library import authz
from cluster.registry.admission.request import Request
from cluster.registry.types import Attributes, Authorizer, RuleResolver

Object = dict[str, Any]

# What the match conditions of one webhook or policy may cost together, apart from its other expressions.
_CONDITIONS_BUDGET = 2_500_000


class ConditionError(Exception):
    """A match condition could not be evaluated."""


@dataclass(slots=True)
class Facts:
    """What the expressions of one request are evaluated on."""

    data: Object
    authorize: authz.Authorize
    failed: dict[str, str] = field(default_factory=dict)  # variables that could not be computed, and why
    budget: cel.Budget = field(default_factory=cel.Budget)

    def evaluate(self, environment: cel.Environment, expression: str, *results: str) -> Any:
        """Raises CelError, also when the expression needs a variable that could not be computed."""
        for name, why in self.failed.items():
            if re.search(rf"\bvariables\.{re.escape(name)}\b", expression):
                raise cel.EvaluationError(f'composited variable "{name}" fails to evaluate: {why}')
        return environment.compile(expression, *results).evaluate(
            self.data, authorize=self.authorize, budget=self.budget
        )

    def with_params(self, params: Object | None) -> Facts:
        return Facts({**self.data, "params": params, "variables": {}}, self.authorize)

    def compute(self, environment: cel.Environment, variables: Sequence[Mapping[str, Any]]) -> None:
        """In order; a later one may use those before it."""
        computed: Object = {}
        self.data = {**self.data, "variables": computed}
        for v in variables:
            try:
                computed[v["name"]] = self.evaluate(environment, v["expression"])
            except cel.CelError as e:
                self.failed[v["name"]] = str(e)


def facts(
    request: Request, admission_request: Object, namespace: Object | None, authorizer: Authorizer | None
) -> Facts:
    data = {
        "object": request.obj,
        "oldObject": request.old,
        "request": admission_request,
        "namespaceObject": namespace,
        "authorizer": authz.authorizer(),
        "params": None,
        "variables": {},
    }
    return Facts(data, _asker(request, authorizer))


def _asker(request: Request, authorizer: Authorizer | None) -> authz.Authorize:
    """Decides from the authorizer's memory: an expression cannot wait."""
    user = request.ctx.user

    def ask(what: dict[str, str]) -> tuple[bool, str]:
        who = user
        if what.get("user"):
            namespace = what["user"].removeprefix("system:serviceaccount:").partition(":")[0]
            groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
            who = type(user)(what["user"], groups=groups)
        attributes = Attributes(
            what.get("verb", ""),
            what.get("group", ""),
            what.get("resource", ""),
            what.get("subresource", ""),
            what.get("namespace", ""),
            what.get("name", ""),
            what.get("path", ""),
        )
        if not isinstance(authorizer, RuleResolver):
            return True, ""
        return authorizer.allows_now(who, attributes), ""

    return ask


def conditions_hold(conditions: Sequence[Mapping[str, Any]], known: Facts, environment: cel.Environment) -> bool:
    """All of them. One that is false decides, also when others fail; raises ConditionError when one fails and none is
    false."""
    errors: list[str] = []
    known = Facts(known.data, known.authorize, budget=cel.Budget(_CONDITIONS_BUDGET))
    for c in conditions:
        try:
            if known.evaluate(environment, c["expression"], "BOOL") is False:
                return False
        except cel.CelError as e:
            errors.append(
                f"match condition '{c['name']}' failed: expression '{c['expression']}' resulted in error: {e}"
            )
    if errors:
        raise ConditionError(errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]")
    return True
