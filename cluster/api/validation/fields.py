"""Collecting faults with Kubernetes' words, and the small formats many kinds share.

Pure. `Faults` gathers causes as k8s.io/apimachinery `util/validation/field` would print them; the format checks
(`util/validation`) return "" or the reason, and are memoised.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson

from cluster.api.errors import Cause


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None:
        return "null"
    return orjson.dumps(value).decode()


class Faults:
    """An append-only list of causes."""

    __slots__ = ("causes",)

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def invalid(self, field: str, value: Any, why: str) -> None:
        self.causes.append(Cause("FieldValueInvalid", f"Invalid value: {_shown(value)}: {why}", field))

    def required(self, field: str, why: str = "") -> None:
        self.causes.append(Cause("FieldValueRequired", "Required value" + (f": {why}" if why else ""), field))

    def duplicate(self, field: str, value: Any) -> None:
        self.causes.append(Cause("FieldValueDuplicate", f"Duplicate value: {_shown(value)}", field))

    def not_found(self, field: str, value: Any) -> None:
        self.causes.append(Cause("FieldValueNotFound", f"Not found: {_shown(value)}", field))

    def forbidden(self, field: str, why: str) -> None:
        self.causes.append(Cause("FieldValueForbidden", f"Forbidden: {why}", field))

    def unsupported(self, field: str, value: Any, options: Iterable[str]) -> None:
        listed = ", ".join(_shown(o) for o in sorted(options))
        message = f"Unsupported value: {_shown(value)}: supported values: {listed}"
        self.causes.append(Cause("FieldValueNotSupported", message, field))

    def too_long(self, field: str, limit: int) -> None:
        self.causes.append(Cause("FieldValueTooLong", f"Too long: may not be more than {limit} bytes", field))

    def too_many(self, field: str, have: int, most: int) -> None:
        items = "item" if most == 1 else "items"
        message = f"Too many: {have}: must have at most {most} {items}"
        self.causes.append(Cause("FieldValueTooMany", message, field))

    # composites

    def check(self, field: str, value: Any, why: str) -> None:
        """A fault when `why` is not empty."""
        if why:
            self.invalid(field, value, why)

    def enum(self, field: str, value: Any, options: Iterable[str]) -> None:
        if value not in options:
            self.unsupported(field, value, options)

    def non_negative(self, field: str, value: Any) -> None:
        if value is not None and value < 0:
            self.invalid(field, value, "must be greater than or equal to 0")

    def immutable(self, field: str, new: Any, old: Any) -> None:
        if new != old:
            self.invalid(field, new, "field is immutable")


_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL, re.ASCII)
_DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII)
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", re.ASCII)
_ENV_NAME = re.compile(r"[ -<>-~]+", re.ASCII)
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+", re.ASCII)
_PORT_NAME = re.compile(r"[-a-z0-9]+", re.ASCII)
_PERCENT = re.compile(r"[0-9]+%", re.ASCII)

DNS_LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
DNS_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
DNS_1035_MESSAGE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_QUALIFIED_MESSAGE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_LABEL_VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


@lru_cache(maxsize=4096)
def dns_label(value: str) -> str:
    if len(value) > 63:
        return "must be no more than 63 bytes"
    if _DNS_LABEL.fullmatch(value):
        return ""
    return "must not contain dots" if _DNS_SUBDOMAIN.fullmatch(value) else DNS_LABEL_MESSAGE


@lru_cache(maxsize=4096)
def dns_subdomain(value: str) -> str:
    if len(value) > 253:
        return "must be no more than 253 bytes"
    return "" if _DNS_SUBDOMAIN.fullmatch(value) else DNS_SUBDOMAIN_MESSAGE


@lru_cache(maxsize=4096)
def dns_1035_label(value: str) -> str:
    if len(value) > 63:
        return "must be no more than 63 bytes"
    return "" if _DNS_1035.fullmatch(value) else DNS_1035_MESSAGE


@lru_cache(maxsize=8192)
def qualified_name(value: str) -> str:
    prefix, slash, name = value.rpartition("/")
    if slash:
        if not prefix:
            return "prefix part must be non-empty"
        why = dns_subdomain(prefix)
        if why:
            return "prefix part " + why
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return "name part must be no more than 63 bytes"
    return "" if _QUALIFIED.fullmatch(name) else _QUALIFIED_MESSAGE


@lru_cache(maxsize=8192)
def label_value(value: str) -> str:
    if len(value) > 63:
        return "must be no more than 63 bytes"
    return "" if _LABEL_VALUE.fullmatch(value) else _LABEL_VALUE_MESSAGE


def env_var_name(value: str) -> str:
    return "" if _ENV_NAME.fullmatch(value) else (
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
    )  # fmt: skip


def config_key(value: str) -> str:
    if len(value) > 253:
        return "must be no more than 253 bytes"
    if value in (".", "..") or value.startswith(".."):
        return "must not be '.' or start with '..'"
    return "" if _CONFIG_KEY.fullmatch(value) else (
        "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
        "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
    )  # fmt: skip


def port_number(value: int) -> str:
    return "" if 1 <= value <= 65535 else "must be between 1 and 65535, inclusive"


@lru_cache(maxsize=1024)
def port_name(value: str) -> str:
    if len(value) > 15:
        return "must be no more than 15 characters"
    if not _PORT_NAME.fullmatch(value):
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not re.search("[a-z]", value):
        return "must contain at least one letter (a-z)"
    if "--" in value:
        return "must not contain consecutive hyphens"
    return "must not begin or end with a hyphen" if value[0] == "-" or value[-1] == "-" else ""


def ip_address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    return ""


def is_percent(value: Any) -> bool:
    return isinstance(value, str) and _PERCENT.fullmatch(value) is not None


def check_labels(faults: Faults, field: str, value: dict[str, str] | None) -> None:
    for k, v in (value or {}).items():
        faults.check(field, k, qualified_name(k))
        faults.check(field, v, label_value(v))


def check_annotations(faults: Faults, field: str, value: dict[str, str] | None) -> None:
    if not value:
        return
    total = 0
    for k, v in value.items():
        faults.check(field, k, qualified_name(k.lower()))
        total += len(k) + len(v)
    if total > 262144:
        faults.too_long(field, 262144)


def label_selector(faults: Faults, field: str, selector: dict[str, Any] | None) -> None:
    if selector is None:
        return
    check_labels(faults, field + ".matchLabels", selector.get("matchLabels"))
    for i, e in enumerate(selector.get("matchExpressions") or ()):
        at = f"{field}.matchExpressions[{i}]"
        op, values = e.get("operator"), e.get("values") or []
        if op in ("In", "NotIn"):
            if not values:
                faults.required(at + ".values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif op in ("Exists", "DoesNotExist"):
            if values:
                faults.forbidden(at + ".values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        else:
            faults.invalid(at + ".operator", op, "not a valid selector operator")
        faults.check(at + ".key", e.get("key", ""), qualified_name(e.get("key", "")))
        for j, v in enumerate(values):
            faults.check(f"{at}.values[{j}]", v, label_value(v))
