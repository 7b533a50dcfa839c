"""The formats of CEL's `format` library: what is wrong with a string of that format, in Kubernetes' words.

Pure. Source: k8s.io/apiserver `pkg/cel/library/format.go`.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from cluster.api.cel.library.declaring import Declarations
from cluster.api.cel.library.values import tagged
from cluster.api.crd import formats as openapi
from cluster.api.validation import fields

Check = Callable[[str], str]
_FORMAT = "kubernetes.NamedFormat"


def _prefix(check: Check) -> Check:
    """Of a name that a suffix follows: it may end with a dash."""
    return lambda text: check(text[:-1] + "a" if text.endswith("-") else text)


def _like(name: str, message: str) -> Check:
    return lambda text: "" if openapi.matches(name, text) else message


def _uri(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError as e:
        return f'parse "{text}": {e}'
    if not text:
        return 'parse "": empty url'
    return "" if parts.scheme or text.startswith("/") else f'parse "{text}": invalid URI for request'


_CHECKS: dict[str, Check] = {
    "dns1123Label": fields.dns_label,
    "dns1123Subdomain": fields.dns_subdomain,
    "dns1035Label": fields.dns_1035_label,
    "dns1123LabelPrefix": _prefix(fields.dns_label),
    "dns1123SubdomainPrefix": _prefix(fields.dns_subdomain),
    "dns1035LabelPrefix": _prefix(fields.dns_1035_label),
    "qualifiedName": fields.qualified_name,
    "labelValue": fields.label_value,
    "uri": _uri,
    "uuid": _like("uuid", "does not match the UUID format"),
    "byte": _like("byte", "invalid base64"),
    "date": _like("date", "invalid date"),
    "datetime": _like("datetime", "invalid datetime"),
}
NAMES = tuple(_CHECKS)


def faults(name: str, text: str) -> list[str]:
    fault = _CHECKS[name](text)
    return [fault] if fault else []


def declare(to: Declarations) -> None:
    """format.named, a function for each format, and `validate`."""
    to.function("format.named", [to.text], to.value, lambda name: {_FORMAT: name} if name in NAMES else {})
    for kind in NAMES:
        to.function(f"format.{kind}", [], to.value, lambda kind=kind: {_FORMAT: kind})
    to.method("validate", [to.value, to.text], to.texts, lambda f, s: faults(tagged(f, _FORMAT), s))
