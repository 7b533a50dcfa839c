"""CertificateSigningRequests from asking to sweeping up, with the real CA code behind the issuer."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Sequence
from typing import Any

from cryptography import x509

from cluster.api import signers
from cluster.controllers.certificates import CsrApprover, CsrCleaner, CsrSigner
from cluster.controllers.env import Outside
from cluster.machine import pki
from cluster.machinery.client import Obj, clone
from cluster.registry.context import UserInfo
from cluster.registry.types import Attributes, Decision
from tests.support.controller_world import World
from tests.support.fake_clock import FakeClock
from tests.support.signing_requests import Issuer, request_pem, signing_request

CSRS = "certificatesigningrequests.certificates.k8s.io"
CLIENT = ("digital signature", "client auth")
HOUR = 3600.0


class Allows:
    """Whoever asks may create these subresources of CertificateSigningRequests."""

    def __init__(self, *subresources: str) -> None:
        self._subresources = subresources

    async def authorize(self, user: UserInfo, attributes: Attributes) -> Decision:
        assert (attributes.verb, attributes.resource) == ("create", "certificatesigningrequests")
        return Decision(attributes.subresource in self._subresources)


def world(*makers: Any, allows: Sequence[str] = ()) -> World:
    clock = FakeClock()
    ca = pki.new_ca("sk8-ca", dt.datetime.fromtimestamp(clock(), dt.UTC))
    return World(*makers, clock=clock, outside=Outside(authorizer=Allows(*allows), issuer=Issuer(clock, ca)))


async def approve(w: World, name: str = "jane", kind: str = "Approved") -> None:
    changed = clone(await w.client.get(CSRS, name))
    changed["status"] = {"conditions": [{"type": kind, "status": "True", "reason": "ByHand", "message": "looks good"}]}
    await w.client.update(CSRS, changed, subresource="approval")


def conditions(csr: Obj) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["reason"], c["message"]) for c in (csr.get("status") or {}).get("conditions") or ()}


def certificate(csr: Obj) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(csr["status"]["certificate"]))


async def test_an_approved_request_is_signed_for_as_long_as_it_asked() -> None:
    async with world(CsrSigner) as w:
        pem = request_pem("jane", ["dev"])
        await w.create(CSRS, signing_request("jane", signers.API_CLIENT, pem, CLIENT, expirationSeconds=7200))
        await w.settle()
        assert not (await w.client.get(CSRS, "jane")).get("status")
        await approve(w)
        await w.settle()
        cert = certificate(await w.client.get(CSRS, "jane"))
        assert cert.subject.rfc4514_string() == "CN=jane,O=dev"
        assert cert.not_valid_after_utc.timestamp() == int(w.clock()) + 7200


async def test_a_denied_request_and_one_of_another_signer_are_left_alone() -> None:
    async with world(CsrSigner) as w:
        pem = request_pem("jane")
        await w.create(CSRS, signing_request("jane", signers.API_CLIENT, pem, CLIENT))
        await w.create(CSRS, signing_request("own", "example.com/own", pem, CLIENT))
        await approve(w, kind="Denied")
        await approve(w, "own")
        await w.settle()
        for csr in await w.items(CSRS):
            assert "certificate" not in csr["status"] and "Failed" not in conditions(csr)


async def test_what_the_signer_refuses_fails_with_its_reason() -> None:
    async with world(CsrSigner) as w:
        await w.create(CSRS, signing_request("jane", signers.API_CLIENT, request_pem("jane"), ["server auth"]))
        store = signing_request("store", signers.API_CLIENT, request_pem("x", ["sk8:store-clients"]), CLIENT)
        await w.create(CSRS, store)
        for name in ("jane", "store"):
            await approve(w, name)
        await w.settle()
        failed = conditions(await w.client.get(CSRS, "jane"))["Failed"]
        assert failed == ("SignerValidationFailure", "invalid usage for client certificate: server auth")
        csr = await w.client.get(CSRS, "store")
        assert "which no request may have" in conditions(csr)["Failed"][1] and "certificate" not in csr["status"]


async def test_a_silent_issuer_is_asked_again() -> None:
    async with world(CsrSigner) as w:
        assert isinstance(w.env.outside.issuer, Issuer)
        w.env.outside.issuer.down = True
        await w.create(CSRS, signing_request("jane", signers.API_CLIENT, request_pem("jane"), CLIENT))
        await approve(w)
        await w.churn()
        assert set(conditions(await w.client.get(CSRS, "jane"))) == {"Approved"}
        w.env.outside.issuer.down = False
        await w.settle()
        assert certificate(await w.client.get(CSRS, "jane"))


async def test_a_node_is_approved_when_its_requester_may_have_nodes() -> None:
    pem = request_pem("system:node:n9", ["system:nodes"])
    for allows, approved in ((["nodeclient"], True), (["selfnodeclient"], False), ([], False)):
        async with world(CsrApprover, CsrSigner, allows=allows) as w:
            await w.create(CSRS, signing_request("n9", signers.KUBELET_CLIENT, pem, CLIENT))
            await w.settle()
            csr = await w.client.get(CSRS, "n9")
            assert ("certificate" in (csr.get("status") or {})) is approved
            if approved:
                message = "Auto approving kubelet client certificate after SubjectAccessReview."
                assert conditions(csr) == {"Approved": ("AutoApproved", message)}


async def test_only_node_clients_are_approved_without_a_human() -> None:
    async with world(CsrApprover, allows=["nodeclient", "selfnodeclient"]) as w:
        node = request_pem("system:node:n9", ["system:nodes"], dns=["n9"])
        await w.create(CSRS, signing_request("jane", signers.API_CLIENT, request_pem("jane"), CLIENT))
        await w.create(
            CSRS, signing_request("serving", signers.KUBELET_SERVING, node, ("digital signature", "server auth"))
        )
        await w.create(CSRS, signing_request("named", signers.KUBELET_CLIENT, node, CLIENT))
        await w.settle()
        assert all(not conditions(csr) for csr in await w.items(CSRS))


async def test_sweeping_up() -> None:
    """Decided for an hour, pending or approved in vain for a day, issued until it expires if that is sooner."""
    async with world(CsrSigner, CsrCleaner) as w:
        for name, asked in (("pending", 86400), ("denied", 86400), ("long", 86400), ("short", 600)):
            pem = request_pem(name)
            await w.create(CSRS, signing_request(name, signers.API_CLIENT, pem, CLIENT, expirationSeconds=asked))
        await w.create(CSRS, signing_request("vain", "example.com/own", request_pem("x"), CLIENT))
        await approve(w, "denied", "Denied")
        for name in ("long", "short", "vain"):
            await approve(w, name)
        await w.settle()

        async def left() -> set[str]:
            return {c["metadata"]["name"] for c in await w.items(CSRS)}

        await w.tick(601)
        assert await left() == {"pending", "denied", "long", "vain"}
        await w.tick(HOUR)
        assert await left() == {"pending", "vain"}
        await w.tick(23 * HOUR)
        assert await left() == set()
