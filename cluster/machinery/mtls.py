"""TLS of a component that serves and knows its callers by their certificates. IO: reads key files."""

from __future__ import annotations

import ssl
from typing import Any


def server_context(cert_file: str, key_file: str, client_ca_file: str) -> ssl.SSLContext:
    """Every client must show a certificate of that CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert_file, key_file)
    context.load_verify_locations(client_ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def groups_of(certificate: Any) -> set[str]:
    """The organizations of a verified client certificate: Kubernetes' groups."""
    parts = (certificate or {}).get("subject", ())
    return {value for part in parts for key, value in part if key == "organizationName"}
