"""PodSecurity: pods that violate their namespace's standard are refused; templates that would are warned of.

IO only through Core and PolicyView. The rules themselves are `cluster.api.podsecurity`. Source: KEP-2579.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.api import errors, podsecurity
from cluster.api.podsecurity import LevelVersion, Policy, Result
from cluster.registry import keys
from cluster.registry.admission.request import Request
from cluster.registry.admission.view import PolicyView
from cluster.registry.admissionconfig import PodSecurityConfig
from cluster.registry.core import Core
from cluster.registry.store import prefix_end
from cluster.registry.types import Stored

Object = dict[str, Any]
Read = tuple[Policy, list[tuple[str, str, str]]]  # a policy, and the labels that cannot be read

TEMPLATES = frozenset(
    (
        "replicationcontrollers",
        "podtemplates",
        "replicasets.apps",
        "deployments.apps",
        "statefulsets.apps",
        "daemonsets.apps",
        "jobs.batch",
        "cronjobs.batch",
    )
)
_NOT_THE_SPEC = frozenset(("exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"))
_MAX_PODS = 3000
_MAX_KNOWN = 4096
_NOTE = podsecurity.PREFIX


class PodSecurity:
    def __init__(self, core: Core, view: PolicyView, config: PodSecurityConfig) -> None:
        self._core = core
        self._view = view
        self._config = config
        self._known: dict[str, tuple[Stored | None, Read]] = {}

    async def validate(self, request: Request) -> None:
        if request.info.name == "pods":
            await self._pod(request)
        elif request.info.name == "namespaces":
            await self._namespace(request)
        elif not request.subresource:
            await self._template(request)

    async def _pod(self, request: Request) -> None:
        if request.subresource in _NOT_THE_SPEC or self._exempt(request):
            return
        policy, faults = await self._policy(request.namespace)
        if policy.privileged and not faults:
            return
        pod = request.obj or {}
        if request.operation == "UPDATE" and not _significant(pod, request.old or {}):
            return
        metadata, spec = pod["metadata"], pod.get("spec") or {}
        if self._exempt_class(request, spec):
            return
        self._note_faults(request, faults)
        request.annotate(_NOTE + "enforce-policy", str(policy.enforce))
        result = podsecurity.evaluate(policy.enforce, metadata, spec)
        if not result.allowed:
            self._audit(request, policy, metadata, spec)
            raise request.forbid(f'violates PodSecurity "{policy.enforce}": {result.detail}')
        self._audit(request, policy, metadata, spec)
        self._warn(request, policy, metadata, spec)

    async def _template(self, request: Request) -> None:
        if self._exempt(request):
            return
        policy, faults = await self._policy(request.namespace)
        if not faults and policy.warn.level == policy.audit.level == "privileged":
            return
        template = _template_of(request.obj or {})
        if template is None:
            return
        metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
        if self._exempt_class(request, spec):
            return
        self._note_faults(request, faults)
        self._audit(request, policy, metadata, spec)
        self._warn(request, policy, metadata, spec)

    async def _namespace(self, request: Request) -> None:
        if request.subresource:
            return
        labels = ((request.obj or {}).get("metadata") or {}).get("labels")
        policy, faults = podsecurity.policy_of(labels, self._config.defaults)
        before, old_faults = podsecurity.policy_of(
            ((request.old or {}).get("metadata") or {}).get("labels"), self._config.defaults
        )
        if faults and (request.operation == "CREATE" or faults != old_faults):
            causes = [
                errors.Cause("FieldValueInvalid", f'Invalid value: "{value}": {why}', f"metadata.labels[{label}]")
                for label, value, why in faults
            ]
            raise errors.invalid("Namespace", "", request.name, causes)
        if request.name in self._config.namespaces:
            if request.operation == "CREATE" or policy.enforce != before.enforce:
                self._warn_exempt(request, policy, labels or {})
            return
        if request.operation == "CREATE" or policy.enforce in (before.enforce, LevelVersion("privileged")):
            return
        if policy.enforce.level == "privileged":
            return
        if policy.enforce.version == before.enforce.version and not podsecurity.stricter(
            policy.enforce, before.enforce
        ):
            return
        for warning in await self._existing(request.name, policy.enforce):
            request.warn(warning)

    async def _existing(self, namespace: str, enforce: LevelVersion) -> list[str]:
        """What of the namespace's pods would be refused now: by reason, with the first pod's name."""
        prefix = keys.namespace_prefix(keys.PODS, namespace)
        found = await self._core.range(prefix, prefix_end(prefix), limit=_MAX_PODS)
        pods = [self._core.codec.decode(kv.key, kv.value, kv.mod_revision).obj for kv in found.kvs]
        by_reason: dict[str, list[str]] = {}
        for pod in pods:
            if pod["spec"].get("runtimeClassName") in self._config.runtime_classes:
                continue
            result = podsecurity.evaluate(enforce, pod["metadata"], pod["spec"])
            if not result.allowed:
                by_reason.setdefault(result.reasons, []).append(pod["metadata"]["name"])
        out: list[str] = []
        if found.more:
            out.append(
                "new PodSecurity enforce level only checked against the first "
                f"{len(pods)} of {found.count} existing pods"
            )
        if by_reason:
            out.append(
                f'existing pods in namespace "{namespace}" violate the new PodSecurity enforce level "{enforce}"'
            )
        return out + sorted(_counted(names, reason) for reason, names in by_reason.items())

    async def _policy(self, namespace: str) -> Read:
        """Remembered while the namespace stays the same object: pods are created more often than labels change."""
        found = await self._view.one("namespaces", "", namespace)
        known = self._known.get(namespace)
        if known is not None and known[0] is found:
            return known[1]
        labels = found.obj["metadata"].get("labels") if found is not None else None
        read = podsecurity.policy_of(labels, self._config.defaults)
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[namespace] = (found, read)
        return read

    # --- exemptions, audit, warnings

    def _exempt(self, request: Request) -> bool:
        why = ""
        if request.namespace in self._config.namespaces:
            why = "namespace"
        elif request.ctx.user.name in self._config.usernames:
            why = "user"
        if why:
            request.annotate(_NOTE + "exempt", why)
        return bool(why)

    def _exempt_class(self, request: Request, spec: Mapping[str, Any]) -> bool:
        exempt = bool(spec.get("runtimeClassName")) and spec["runtimeClassName"] in self._config.runtime_classes
        if exempt:
            request.annotate(_NOTE + "exempt", "runtimeClass")
        return exempt

    @staticmethod
    def _note_faults(request: Request, faults: list[tuple[str, str, str]]) -> None:
        if faults:
            texts = [f'metadata.labels[{label}]: Invalid value: "{value}": {why}' for label, value, why in faults]
            told = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
            request.annotate(_NOTE + "error", f"Failed to parse policy: {told}")

    @staticmethod
    def _audit(request: Request, policy: Policy, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        result = podsecurity.evaluate(policy.audit, metadata, spec)
        if not result.allowed:
            request.annotate(_NOTE + "audit-violations", _would(policy.audit, result))

    @staticmethod
    def _warn(request: Request, policy: Policy, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        result = podsecurity.evaluate(policy.warn, metadata, spec)
        if not result.allowed:
            request.warn(_would(policy.warn, result))

    def _warn_exempt(self, request: Request, policy: Policy, labels: Mapping[str, str]) -> None:
        if policy.privileged or policy == self._config.defaults:
            return
        asked = [
            f"{mode}={lv}"
            for mode, lv in (("enforce", policy.enforce), ("audit", policy.audit), ("warn", policy.warn))
            if lv.level != "privileged" and (_NOTE + mode in labels or f"{_NOTE}{mode}-version" in labels)
        ]
        if asked:
            request.warn(
                f'namespace "{request.name}" is exempt from Pod Security, and the policy ({", ".join(asked)}) will be '
                "ignored"
            )


def _would(lv: LevelVersion, result: Result) -> str:
    return f'would violate PodSecurity "{lv}": {result.detail}'


def _counted(names: list[str], reason: str) -> str:
    first, others = min(names), len(names) - 1
    more = "" if not others else f" (and {others} other pod{'s' if others > 1 else ''})"
    return f"{first}{more}: {reason}"


def _template_of(obj: Object) -> Object | None:
    if "template" in obj:  # PodTemplate
        return obj["template"] or None
    spec = obj.get("spec") or {}
    if "jobTemplate" in spec:
        spec = (spec["jobTemplate"] or {}).get("spec") or {}
    template: Object | None = spec.get("template")
    return template


def _significant(new: Object, old: Object) -> bool:
    """Whether an update of a pod can change the verdict: images and added containers; the rest is immutable."""
    for field in ("containers", "initContainers"):
        a, b = (o.get("spec", {}).get(field) or [] for o in (new, old))
        if len(a) != len(b) or any(x.get("image") != y.get("image") for x, y in zip(a, b, strict=True)):
            return True
    present = {c["name"]: c.get("image") for c in old.get("spec", {}).get("ephemeralContainers") or ()}
    added = new.get("spec", {}).get("ephemeralContainers") or ()
    return any(c["name"] not in present or present[c["name"]] != c.get("image") for c in added)
