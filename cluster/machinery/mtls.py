"""TLS of a component that serves and knows its callers by their certificates. IO: reads key files."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any


def server_context(
    cert_file: str, key_file: str, client_ca_file: str, *, clients: ssl.VerifyMode = ssl.CERT_REQUIRED
) -> ssl.SSLContext:
    """Every client must show a certificate of that CA; with CERT_OPTIONAL it may show none, but no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert_file, key_file)
    context.load_verify_locations(client_ca_file)
    context.verify_mode = clients
    return context


def groups_of(certificate: Any) -> set[str]:
    """The organizations of a verified client certificate: Kubernetes' groups."""
    return set(_subject(certificate, "organizationName"))


def name_of(certificate: Any) -> str:
    """The common name: Kubernetes' user. "" without a certificate."""
    return next(_subject(certificate, "commonName"), "")


def _subject(certificate: Any, part: str) -> Iterator[str]:
    names = (certificate or {}).get("subject", ())
    return (value for name in names for key, value in name if key == part)
