"""The three controllers of CertificateSigningRequests: who approves nodes, who signs, who sweeps up.

Thin shells around `certificates_core`. They share a queue's wiring (`_Requests`) and nothing else. The CA's key is not
here: the signer asks the issuer, which checks the request again.
"""

from __future__ import annotations

import base64

from cryptography import x509

from cluster.api import errors, signers
from cluster.controllers import certificates_core as core
from cluster.controllers.env import Env
from cluster.machinery.client import Obj, ignore_not_found
from cluster.machinery.provider import CertificateIssuer, ProviderError
from cluster.machinery.reconciler import Reconcile, Reconciler, Result
from cluster.registry.context import UserInfo
from cluster.registry.types import Attributes, Authorizer

_CSRS = "certificatesigningrequests.certificates.k8s.io"


class _Requests:
    """Every request, on every change, into one controller's queue."""

    def __init__(self, env: Env, name: str, reconcile: Reconcile) -> None:
        self._informer = env.informer(_CSRS)
        self.reconciler = Reconciler(name, reconcile, workers=2)
        self._informer.add_handler(self._on_request)

    def get(self, name: str) -> Obj | None:
        return self._informer.get("", name)

    def resync(self) -> None:
        self.reconciler.enqueue_all(self._informer.items())

    def _on_request(self, old: Obj | None, new: Obj | None) -> None:
        if new is not None:
            self.reconciler.queue.add(new["metadata"]["name"])


class CsrApprover:
    """Approves what a node asks for itself, or somebody who may ask for nodes (bootstrap tokens)."""

    name = "csrapproving"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._requests = _Requests(env, self.name, self._reconcile)
        self.reconciler, self.resync = self._requests.reconciler, self._requests.resync

    async def run(self) -> None:
        await self.reconciler.run()

    async def _reconcile(self, name: str) -> Result | None:
        csr = self._requests.get(name)
        authorizer = self._env.outside.authorizer
        if csr is None or authorizer is None:
            return None
        for grant in core.grants(csr):
            if await _may(authorizer, csr["spec"], grant.subresource):
                approved = core.with_condition(csr, "Approved", "AutoApproved", grant.message, self._env.clock())
                await self._env.client.update(_CSRS, approved, subresource="approval")
                return None
        return None


async def _may(authorizer: Authorizer, spec: Obj, subresource: str) -> bool:
    """Kubernetes' SubjectAccessReview of the requester as the API server knew him when he asked."""
    extra = {k: tuple(v) for k, v in (spec.get("extra") or {}).items()}
    groups = tuple(spec.get("groups") or ())
    user = UserInfo(spec.get("username", ""), uid=spec.get("uid", ""), groups=groups, extra=extra)
    group, resource = "certificates.k8s.io", "certificatesigningrequests"
    wanted = Attributes("create", group, resource, subresource=subresource, version="*")
    return (await authorizer.authorize(user, wanted)).allowed


class CsrSigner:
    """Has approved requests signed, or says in condition Failed why they never will be."""

    name = "csrsigning"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._requests = _Requests(env, self.name, self._reconcile)
        self.reconciler, self.resync = self._requests.reconciler, self._requests.resync

    async def run(self) -> None:
        await self.reconciler.run()

    async def _reconcile(self, name: str) -> Result | None:
        csr = self._requests.get(name)
        issuer = self._env.outside.issuer
        if csr is None or issuer is None or not core.wants_certificate(csr):
            return None
        why = self._fault(csr["spec"], core.pem_of(csr))
        certificate = ""
        if not why:
            certificate, why = await self._issue(issuer, csr)
        if why:
            done = core.with_condition(csr, "Failed", "SignerValidationFailure", why, self._env.clock())
        else:
            encoded = base64.b64encode(certificate.encode()).decode()
            done = {**csr, "status": {**csr["status"], "certificate": encoded}}
        await self._env.client.update(_CSRS, done, subresource="status")
        return None

    @staticmethod
    def _fault(spec: Obj, pem: bytes) -> str:
        try:
            return signers.signing_fault(spec["signerName"], x509.load_pem_x509_csr(pem), spec.get("usages") or ())
        except ValueError as e:
            return f"unable to parse csr: {e}"

    async def _issue(self, issuer: CertificateIssuer, csr: Obj) -> tuple[str, str]:
        """(certificate, "") or ("", why it may never be had)."""
        spec = csr["spec"]
        lifetime_s = core.lifetime_s(csr, self._env.config.cluster_signing_duration_s)
        try:
            pem = core.pem_of(csr).decode()
            return await issuer.issue(spec["signerName"], pem, spec["usages"], lifetime_s), ""
        except ProviderError as e:
            if e.retriable:
                raise errors.service_unavailable(f"signing {csr['metadata']['name']}: {e.message}") from e
            return "", e.message


class CsrCleaner:
    """Deletes requests that are done with; nobody else does."""

    name = "csrcleaner"

    def __init__(self, env: Env) -> None:
        self._env = env
        self._requests = _Requests(env, self.name, self._reconcile)
        self.reconciler, self.resync = self._requests.reconciler, self._requests.resync

    async def run(self) -> None:
        await self.reconciler.run()

    async def _reconcile(self, name: str) -> Result | None:
        csr = self._requests.get(name)
        if csr is None:
            return None
        wait_s = core.due_in_s(csr, self._env.clock())
        if wait_s > 0:
            return Result(wait_s)
        with ignore_not_found():
            await self._env.client.delete(_CSRS, name, uid=csr["metadata"]["uid"])
        return None
