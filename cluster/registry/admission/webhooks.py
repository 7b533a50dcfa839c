"""Mutating and validating admission webhooks.

IO only through PolicyView and the injected caller. Mutating webhooks are asked one after the other, by the name of
their configuration and then in its order; one that asks for it is asked again when a later one has changed the object.
Validating webhooks are asked all at once. What fails is an error or is passed over, as the webhook's failurePolicy
says.

Source: admission.k8s.io/v1; k8s.io/apiserver pkg/admission/plugin/webhook.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.api import errors, patch, policycel
from cluster.api.errors import ApiError
from cluster.registry.admission import expressions, matching, review
from cluster.registry.admission.equivalence import Equivalents
from cluster.registry.admission.request import Request
from cluster.registry.admission.view import PolicyView
from cluster.registry.core import Core

Object = dict[str, Any]
# (clientConfig, AdmissionReview, seconds) -> the AdmissionReview that came back; raises ApiError
Call = Callable[[Object, Object, float], Awaitable[Object]]

MUTATING = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
VALIDATING = "validatingwebhookconfigurations.admissionregistration.k8s.io"
_CONVERSIONS = ("v1", "v1beta1")


async def no_webhooks(client: Object, body: Object, timeout_s: float) -> Object:
    raise ApiError(500, "", "this process has no webhook client")


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook of one configuration; `version` is the one in which it wants to see the object."""

    configuration: str
    spec: Object
    version: str = ""

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def ignores_failure(self) -> bool:
        return bool(self.spec.get("failurePolicy") == "Ignore")

    @property
    def timeout_s(self) -> float:
        return float(self.spec.get("timeoutSeconds") or 10)


class _CallFailed(Exception):
    """The webhook could not be asked, or did not answer as agreed."""


class WebhookDispatcher:
    """`call` is set by who has a network (`Registry.webhooks`)."""

    def __init__(
        self, core: Core, view: PolicyView, renew: Callable[[Request, Object], None], equivalents: Equivalents
    ) -> None:
        self._core = core
        self._view = view
        self._renew = renew
        self._equivalents = equivalents
        self.call: Call = no_webhooks

    # --- the two plugins

    async def mutate(self, request: Request) -> None:
        hooks = await self._matching(MUTATING, request)
        changed_after: set[int] = set()  # asked before another one changed the object
        for i, hook in enumerate(hooks):
            if await self._mutate_one(request, hook, round_=0, index=i):
                changed_after |= set(range(i))
        for i in sorted(changed_after):
            if hooks[i].spec.get("reinvocationPolicy") == "IfNeeded" and await self._wants(hooks[i], request):
                await self._mutate_one(request, hooks[i], round_=1, index=i)

    async def validate(self, request: Request) -> None:
        hooks = await self._matching(VALIDATING, request)
        if not hooks:
            return
        outcomes = await asyncio.gather(*(self._validate_one(request, h) for h in hooks), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    # --- who is asked

    async def concern(self, request: Request) -> bool:
        """Whether a rule is about the request, whatever selectors and conditions say of its object."""
        return bool(await self._by_rules(MUTATING, request) or await self._by_rules(VALIDATING, request))

    async def _matching(self, resource: str, request: Request) -> list[Hook]:
        return [hook for hook in await self._by_rules(resource, request) if await self._wants(hook, request)]

    async def _by_rules(self, resource: str, request: Request) -> list[Hook]:
        if await self._view.empty(resource) or matching.exempt(request):
            return []
        out = []
        for stored in await self._view.all(resource):
            for spec in stored.obj.get("webhooks") or ():
                exact = spec.get("matchPolicy") == "Exact"
                version = matching.matched_version(spec.get("rules") or (), request, exact=exact)
                if version:
                    out.append(Hook(stored.obj["metadata"]["name"], spec, version))
        return out

    async def _wants(self, hook: Hook, request: Request) -> bool:
        """Beyond its rules."""
        spec = hook.spec
        if not matching.object_matches(spec.get("objectSelector"), request):
            return False
        if not await matching.namespace_matches(spec.get("namespaceSelector"), request, self._view):
            return False
        conditions = spec.get("matchConditions")
        if not conditions:
            return True
        seen = await self._equivalents.seen(request, hook.version)
        asked = review.admission_request(request, "", hook.version)
        known = expressions.facts(seen, asked, None, self._core.authorizer)
        try:
            return expressions.conditions_hold(conditions, known, policycel.condition_environment())
        except expressions.ConditionError as e:
            if hook.ignores_failure:
                return False
            raise request.forbid(str(e)) from e

    # --- asking

    async def _mutate_one(self, request: Request, hook: Hook, *, round_: int, index: int) -> bool:
        """Whether the object is another now."""
        response = await self._ask(request, hook)
        if response is None:
            return False
        text = response.get("patch")
        annotation = {"configuration": hook.configuration, "webhook": hook.name, "mutated": bool(text)}
        request.annotate(
            f"mutation.webhook.admission.k8s.io/round_{round_}_index_{index}", orjson.dumps(annotation).decode()
        )
        if not text or request.obj is None:
            return False
        try:
            if response.get("patchType") != "JSONPatch":
                raise ValueError(f'unsupported patch type "{response.get("patchType") or ""}"')
            operations = orjson.loads(base64.b64decode(text, validate=True))
            seen = await self._equivalents.seen(request, hook.version)
            patched = patch.json_patch(seen.obj, operations)
            if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
                raise ValueError("the patched object is no object")
        except (ValueError, binascii.Error, ApiError) as e:
            raise errors.internal(str(e)) from e
        before = orjson.dumps(request.obj)
        self._renew(request, await self._equivalents.own(request, hook.version, patched))
        return orjson.dumps(request.obj) != before

    async def _validate_one(self, request: Request, hook: Hook) -> None:
        await self._ask(request, hook)

    async def _ask(self, request: Request, hook: Hook) -> Object | None:
        """The response that allows the request; None when a failure is ignored. Raises what the webhook answers."""
        if request.ctx.dry_run and hook.spec.get("sideEffects") not in ("None", "NoneOnDryRun"):
            raise errors.bad_request(f'admission webhook "{hook.name}" does not support dry run')
        try:
            response = await self._response(request, hook)
        except _CallFailed as e:
            if hook.ignores_failure:
                request.annotate(
                    f"failed-open.{'mutating' if hook.spec.get('reinvocationPolicy') else 'validating'}"
                    f".webhook.admission.k8s.io/{hook.name}",
                    hook.name,
                )
                return None
            raise errors.internal(f'failed calling webhook "{hook.name}": {e}') from e
        for warning in response.get("warnings") or ():
            request.warn(str(warning))
        for key, value in (response.get("auditAnnotations") or {}).items():
            request.annotate(f"{hook.name}/{key}", str(value))
        if not response["allowed"]:
            raise denied(hook.name, response.get("status"))
        return response

    async def _response(self, request: Request, hook: Hook) -> Object:
        uid = str(uuid.UUID(int=self._core.rng.getrandbits(128), version=4))
        seen = await self._equivalents.seen(request, hook.version)
        asked = review.admission_request(request, uid, hook.version)
        asked |= {"object": seen.obj, "oldObject": seen.old}
        versions = hook.spec.get("admissionReviewVersions") or ["v1"]
        version = next((v for v in versions if v in _CONVERSIONS), "v1")
        body = {"kind": "AdmissionReview", "apiVersion": f"admission.k8s.io/{version}", "request": asked}
        try:
            answer = await self.call(hook.spec.get("clientConfig") or {}, body, hook.timeout_s)
        except ApiError as e:
            raise _CallFailed(f"failed to call webhook: {e.message}") from e
        response = answer.get("response")
        if not isinstance(response, dict):
            raise _CallFailed("received invalid webhook response: webhook response was absent")
        expected = ("AdmissionReview", f"admission.k8s.io/{version}")
        if (answer.get("kind"), answer.get("apiVersion")) != expected:
            raise _CallFailed(
                f"received invalid webhook response: expected webhook response of {expected[1]}, Kind={expected[0]}, "
                f"got {answer.get('apiVersion') or ''}, Kind={answer.get('kind') or ''}"
            )
        if response.get("uid") != uid:
            raise _CallFailed(
                f'received invalid webhook response: expected response.uid="{uid}", got "{response.get("uid") or ""}"'
            )
        if not isinstance(response.get("allowed"), bool):
            raise _CallFailed("received invalid webhook response: response.allowed must be true or false")
        if response.get("patch") and not response.get("patchType"):
            raise _CallFailed(
                "received invalid webhook response: webhook returned response.patch but not response.patchType"
            )
        return response


def denied(webhook: str, status: Any) -> ApiError:
    """The webhook's own status, with its name before what it says."""
    given: Object = status if isinstance(status, dict) else {}
    head = f'admission webhook "{webhook}" denied the request'
    why = given.get("message") or given.get("reason")
    message = f"{head}: {why}" if why else f"{head} without explanation"
    code = given.get("code")
    code = code if isinstance(code, int) and code >= 400 else 400
    return ApiError(code, str(given.get("reason") or ""), message, given.get("details"))
