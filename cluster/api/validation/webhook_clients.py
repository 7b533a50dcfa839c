"""How a webhook is reached, as admission configurations and conversions say it: a URL or a Service, and a CA.

Pure. Source: k8s.io/apiserver `pkg/util/webhook/validation.go`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from cluster.api.validation import fields
from cluster.api.validation.fields import Faults

Object = dict[str, Any]


def validate_client(faults: Faults, at: str, client: Object) -> None:
    """A clientConfig at `at`."""
    url, service = client.get("url"), client.get("service")
    if (url is None) == (service is None):
        faults.required(at, "exactly one of url or service is required")
    if url is not None:
        _url(faults, f"{at}.url", url)
    if service is not None:
        _service(faults, f"{at}.service", service)


def _url(faults: Faults, at: str, url: str) -> None:
    form = "; desired format: https://host[/path]"
    try:
        parts = urlsplit(url)
    except ValueError as e:
        faults.required(at, f"url must be a valid URL: {e}{form}")
        return
    if parts.scheme != "https":
        faults.invalid(at, parts.scheme, f"'https' is the only allowed URL scheme{form}")
    if not parts.netloc:
        faults.invalid(at, parts.netloc, f"host must be specified{form}")
    if parts.username is not None:
        faults.invalid(at, parts.username, "user information is not permitted in the URL")
    if parts.fragment:
        faults.invalid(at, parts.fragment, "fragments are not permitted in the URL")
    if parts.query:
        faults.invalid(at, parts.query, "query parameters are not permitted in the URL")


def _service(faults: Faults, at: str, service: Object) -> None:
    for field in ("name", "namespace"):
        if not service.get(field):
            faults.required(f"{at}.{field}", f"service {field} is required")
    port = service.get("port", 443)
    if not 1 <= port <= 65535:
        faults.invalid(f"{at}.port", port, f"port is not valid: {fields.port_number(port)}")
    path = service.get("path")
    if not path or path == "/":
        return
    if not path.startswith("/"):
        faults.invalid(f"{at}.path", path, "must start with a '/'")
    for i, step in enumerate(path[1:].removesuffix("/").split("/")):
        why = fields.dns_subdomain(step) if step else "may not be empty"
        if why:
            faults.invalid(f"{at}.path", path, f"segment[{i}]: {why}" if step else f"segment[{i}] {why}")


def ca_bundle_fault(bundle: str) -> str:
    """What is wrong with a caBundle (base64 of PEM certificates), "" when nothing is or there is none."""
    try:
        pem = base64.b64decode(bundle)
        if b"-----BEGIN CERTIFICATE-----" not in pem:
            return "" if not pem else "unable to load root certificates: unable to parse bytes as PEM block"
        x509.load_pem_x509_certificates(pem)
    except (ValueError, binascii.Error) as e:
        return f"unable to load root certificates: failed to parse certificate: {e}"
    return ""
