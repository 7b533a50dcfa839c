"""Admission: what the cluster adds to an object, or refuses about it, beyond its own validity.

IO only through Core, and only reads. It runs inside the registry, so that every writer passes it: clients through the
API, scheduler and controllers in process. Two phases, each in Kubernetes' order of plugins:

    defaults -> [mutate] -> the kind's validation -> [validate] -> transaction

A plugin may change the object in place while mutating, and may guard what it has read, so that the transaction holds
only if it is still so. Each resource has its own short list of plugins, made once: what does not concern a resource
costs it nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cluster.api import defaults, schema, scheme, typecheck
from cluster.registry.admission import (
    certificates,
    classes,
    escalation,
    mutatingpolicies,
    namespaces,
    nodes,
    pods,
    policies,
    serviceaccounts,
    storage,
    webhooks,
)
from cluster.registry.admission.equivalence import Equivalents
from cluster.registry.admission.limitranger import LimitRanger
from cluster.registry.admission.mutatingpolicies import MutatingPolicies
from cluster.registry.admission.podsecurity import TEMPLATES, PodSecurity
from cluster.registry.admission.policies import PolicyMatcher, ValidatingPolicies
from cluster.registry.admission.request import Reads, Request
from cluster.registry.admission.view import PolicyView
from cluster.registry.admission.webhooks import WebhookDispatcher
from cluster.registry.core import Core

Run = Callable[[Request], Awaitable[None]]
Object = dict[str, Any]

_ANY = "CREATE UPDATE DELETE CONNECT"
_INTERCEPTORS = (webhooks.MUTATING, webhooks.VALIDATING, policies.POLICIES, mutatingpolicies.POLICIES)


@dataclass(frozen=True, slots=True)
class Plugin:
    """`on`: the resources it sees, None for all. `operations` of "CREATE UPDATE DELETE". `subresources`: whether
    writes of status and the like are its business."""

    name: str
    on: frozenset[str] | None
    operations: str
    run: Run
    subresources: bool = False


class Admission:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.view = PolicyView(core)
        self.equivalents = Equivalents(core)
        self.webhooks = WebhookDispatcher(core, self.view, renew, self.equivalents)
        self.policies = PolicyMatcher(core, self.view, self.equivalents)
        enabled = core.config.admission.enabled
        self._mutating = [p for p in self._mutators() if enabled(p.name)]
        self._validating = [p for p in self._validators() if enabled(p.name)]
        outer = ("MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook")
        self._outer = [p.run for p in (*self._mutating, *self._validating) if p.name in outer]
        self._chosen: dict[tuple[str, str, bool], tuple[tuple[Run, ...], tuple[Run, ...]]] = {}

    async def mutate(self, request: Request) -> None:
        """Raises 403 and others; changes `request.obj` in place."""
        for run in self._plugins(request)[0]:
            await run(request)

    async def validate(self, request: Request) -> None:
        """Raises 403 and others; changes nothing."""
        for run in self._plugins(request)[1]:
            await run(request)

    async def intercept(self, request: Request) -> None:
        """Policies and webhooks alone, for what is asked of an object and not written as one: a binding, an eviction,
        a connection."""
        for run in self._outer:
            await run(request)

    async def quiet(self) -> bool:
        """Whether there is no policy and no webhook at all."""
        for resource in _INTERCEPTORS:
            if not await self.view.empty(resource):
                return False
        return True

    def _plugins(self, request: Request) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        key = (request.info.name, request.operation, bool(request.subresource))
        found = self._chosen.get(key)
        if found is None:
            found = self._chosen[key] = (_select(self._mutating, *key), _select(self._validating, *key))
        return found

    def _mutators(self) -> list[Plugin]:
        core, reads, view = self._core, Reads(self._core), self.view
        limits = LimitRanger(view)

        async def account(request: Request) -> None:
            await serviceaccounts.admit(request, reads)

        async def priority(request: Request) -> None:
            await pods.priority(request, reads, core.clock())

        async def tolerations(request: Request) -> None:
            pods.tolerations(request, core.config)

        async def default_class(request: Request) -> None:
            await storage.default(request, reads)

        async def runtime_class(request: Request) -> None:
            await classes.runtime_class(request, view)

        async def ingress_class(request: Request) -> None:
            await classes.ingress_class(request, view)

        return [
            Plugin("LimitRanger", _names("pods"), "CREATE", limits.default),
            Plugin("ServiceAccount", _names("pods"), "CREATE", account),
            Plugin("NodeRestriction", None, "CREATE UPDATE DELETE", nodes.restrict, True),
            Plugin("TaintNodesByCondition", _names("nodes"), "CREATE", nodes.taint_not_ready),
            Plugin("Priority", _names("pods"), "CREATE UPDATE", priority),
            Plugin("DefaultTolerationSeconds", _names("pods"), "CREATE UPDATE", tolerations),
            Plugin("DefaultStorageClass", _names("persistentvolumeclaims"), "CREATE", default_class),
            Plugin(
                "StorageObjectInUseProtection",
                _names("persistentvolumeclaims", "persistentvolumes"),
                "CREATE",
                storage.protect,
            ),
            Plugin("RuntimeClass", _names("pods"), "CREATE", runtime_class),
            Plugin("DefaultIngressClass", _names("ingresses.networking.k8s.io"), "CREATE", ingress_class),
            Plugin(
                "MutatingAdmissionPolicy", None, "CREATE UPDATE", MutatingPolicies(self.policies, renew).mutate, True
            ),
            Plugin("MutatingAdmissionWebhook", None, _ANY, self.webhooks.mutate, True),
        ]

    def _validators(self) -> list[Plugin]:
        """RBAC's own refusal is no plugin of Kubernetes and cannot be switched off."""
        core, reads, view = self._core, Reads(self._core), self.view
        limits = LimitRanger(view)
        security = PodSecurity(core, view, core.config.admission.pod_security)

        async def resize(request: Request) -> None:
            await storage.resize(request, reads)

        async def one_default(request: Request) -> None:
            await pods.one_default_priority(request, reads)

        async def approval(request: Request) -> None:
            await certificates.approval(request, core.authorizer)

        async def signing(request: Request) -> None:
            await certificates.signing(request, core.authorizer)

        async def escalation_(request: Request) -> None:
            await escalation.check(request, core.authorizer)

        requests = _names("certificatesigningrequests.certificates.k8s.io")
        return [
            Plugin("", escalation.ROLES | escalation.BINDINGS, "CREATE UPDATE", escalation_),
            Plugin("NamespaceLifecycle", _names("namespaces"), "DELETE", namespaces.admit),
            Plugin("LimitRanger", _names("pods", "persistentvolumeclaims"), "CREATE UPDATE", limits.validate, True),
            Plugin("PodSecurity", _names("pods", "namespaces", *TEMPLATES), "CREATE UPDATE", security.validate, True),
            Plugin("Priority", _names("priorityclasses.scheduling.k8s.io"), "CREATE UPDATE", one_default),
            Plugin("PersistentVolumeClaimResize", _names("persistentvolumeclaims"), "UPDATE", resize),
            Plugin("CertificateApproval", requests, "UPDATE", approval, True),
            Plugin("CertificateSigning", requests, "UPDATE", signing, True),
            Plugin("CertificateSubjectRestriction", requests, "CREATE", certificates.subject),
            Plugin("ValidatingAdmissionPolicy", None, _ANY, ValidatingPolicies(self.policies).validate, True),
            Plugin("ValidatingAdmissionWebhook", None, _ANY, self.webhooks.validate, True),
        ]


def renew(request: Request, obj: Object) -> None:
    """What a webhook or a policy made of an object is decoded like a client's: typed, pruned, defaulted."""
    info = request.info
    group, version, kind = scheme.subresource_kind(info, request.subresource)
    if info.custom is not None:
        clean, _ = info.custom.decode(obj, "")
    else:
        clean, _ = typecheck.decode(schema.node_for(group, version, kind), obj, version, kind, "")
    clean["kind"], clean["apiVersion"] = kind, f"{group}/{version}" if group else version
    if kind == info.kind and request.subresource not in ("status", "finalize"):
        defaults.apply(info, clean)
    if request.obj is not None:
        request.obj.clear()
        request.obj.update(clean)
        request.renewed = True


def _names(*resources: str) -> frozenset[str]:
    return frozenset(resources)


def _select(plugins: list[Plugin], resource: str, operation: str, is_subresource: bool) -> tuple[Run, ...]:
    return tuple(
        p.run
        for p in plugins
        if (p.on is None or resource in p.on) and operation in p.operations and (p.subresources or not is_subresource)
    )


__all__ = ["Admission", "Reads", "Request"]
