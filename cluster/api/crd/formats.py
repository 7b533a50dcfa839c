"""String formats of OpenAPI schemas, as go-openapi's strfmt reads them.

Pure. A format that is not listed here is accepted as it is, as in Kubernetes.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from cluster.api import meta
from cluster.api.validation.fields import dns_label, dns_subdomain, label_value, qualified_name

_UUID = r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?%s[0-9a-fA-F]{3}-?%s[0-9a-fA-F]{3}-?[0-9a-fA-F]{12}"
_HOST_LABEL = r"[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
_PATTERNS = {
    "uuid": _UUID % ("[0-9a-fA-F]", "[0-9a-fA-F]"),
    "uuid3": _UUID % ("3", "[0-9a-fA-F]"),
    "uuid4": _UUID % ("4", "[89abAB]"),
    "uuid5": _UUID % ("5", "[89abAB]"),
    "hexcolor": r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})",
    "email": r"[^@\s<>]+@[^@\s<>]+",
    "mac": r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|([0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}",
    "hostname": rf"(?=.{{1,253}}$){_HOST_LABEL}(\.{_HOST_LABEL})*",
    "ssn": r"\d{3}[- ]?\d{2}[- ]?\d{4}",
    "isbn10": r"(\d[- ]?){9}[\dXx]",
    "isbn13": r"(\d[- ]?){13}",
    "isbn": r"(\d[- ]?){9}[\dXx]|(\d[- ]?){13}",
    "creditcard": r"(\d[- ]?){13,19}",
    "rgbcolor": r"rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)",
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_WORDS = re.compile(
    r"(\d+)\s*(ns|nano|nanoseconds?|us|micro|microseconds?|ms|milli|milliseconds?|s|sec|seconds?|m|min|minutes?|h|hrs?|"
    r"hours?|d|days?|w|weeks?)"
)


def duration_s(text: str) -> float:
    """Seconds of a Go duration (`1h30m`); raises ValueError."""
    body = text.lstrip("+-")
    parts = _DURATION_PART.findall(body)
    if body == "0":
        return 0.0
    if not parts or "".join(a + b for a, b in parts) != body:
        raise ValueError(f'time: invalid duration "{text}"')
    total = sum(float(n) * _UNIT_S[u] for n, u in parts)
    return -total if text.startswith("-") else total


def _duration(text: str) -> bool:
    try:
        duration_s(text)
    except ValueError:
        return _WORDS.fullmatch(text.strip().lower()) is not None
    return True


def _is(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: compiled.fullmatch(text) is not None


def _parses(fn: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            fn(text)
        except (ValueError, binascii.Error):
            return False
        return True

    return check


def _uri(text: str) -> object:
    parts = urlsplit(text)
    if not parts.scheme and not text.startswith("/"):
        raise ValueError(text)
    return parts


def _network(text: str) -> object:
    if "/" not in text:
        raise ValueError(text)
    return ipaddress.ip_interface(text)


def _no_fault(fn: Callable[[str], str]) -> Callable[[str], bool]:
    return lambda text: not fn(text)


def _base64(text: str) -> object:
    return base64.b64decode(text, validate=True)


_CHECKS: dict[str, Callable[[str], bool]] = {
    **{name: _is(text) for name, text in _PATTERNS.items()},
    "date": _parses(datetime.date.fromisoformat),
    "date-time": _parses(meta.parse_time),
    "datetime": _parses(meta.parse_time),
    "duration": _duration,
    "byte": _parses(_base64),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "cidr": _parses(_network),
    "uri": _parses(_uri),
    "k8s-short-name": _no_fault(dns_label),
    "k8s-long-name": _no_fault(dns_subdomain),
    "k8s-label-key": _no_fault(qualified_name),
    "k8s-label-value": _no_fault(label_value),
}


@lru_cache(maxsize=4096)
def matches(name: str, text: str) -> bool:
    check = _CHECKS.get(name)
    return check is None or check(text)


def known(name: str) -> bool:
    return name in _CHECKS
