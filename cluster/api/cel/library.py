"""The functions that Kubernetes adds to CEL: lists, sets, regex, URLs, quantities, versions, addresses, authorizer.

Pure. Values of types of its own (Quantity, IP, ...) travel as maps of one key, the type's name: the engine's binding
passes no foreign objects. A quantity is its exact fraction, so equal amounts are equal values. Names and meanings are
those of k8s.io/apiserver `pkg/cel/library`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from contextvars import ContextVar
from fractions import Fraction
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cluster.api import quantity
from cluster.api.cel import formats, lists, portable

Value = dict[str, Any]
# verb, group, resource, subresource, namespace, name, path, user -> (allowed, reason)
Authorize = Callable[[dict[str, str]], tuple[bool, str]]
AUTHORIZE: ContextVar[Authorize | None] = ContextVar("cel_authorize", default=None)

_QUANTITY, _SEMVER, _URL = "kubernetes.Quantity", "kubernetes.Semver", "kubernetes.URL"
_IP, _CIDR = "net.IP", "net.CIDR"
_FORMAT = "kubernetes.NamedFormat"
_AUTHORIZER, _DECISION = "kubernetes.authorization", "kubernetes.authorization.Decision"


def _tagged(value: Value, *tags: str) -> Any:
    for tag in tags:
        if tag in value:
            return value[tag]
    raise lists.NoOverload


@lru_cache(maxsize=1024)
def pattern(text: str) -> Any:
    """A compiled RE2 expression (Go's dialect; linear time); raises ValueError."""
    import re2  # only processes that validate load it

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as e:
        reason = e.args[0]
        raise ValueError(reason.decode() if isinstance(reason, bytes) else str(reason)) from e


# --- regex and URLs -------------------------------------------------------------------------------------------------


def _find(text: str, expression: str) -> str:
    found = pattern(expression).search(text)
    return found.group(0) if found is not None else ""


def _find_all(text: str, expression: str, limit: int = -1) -> list[str]:
    found = [m.group(0) for m in pattern(expression).finditer(text)]
    return found if limit < 0 else found[:limit]


def _parse_url(text: str) -> Any:
    parts = urlsplit(text)
    if not parts.scheme and not text.startswith("/"):
        raise ValueError(f'URL parse error during conversion from string: parse "{text}": invalid URI for request')
    _ = parts.port
    return parts


def _is(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def fn(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return fn


def _url_part(part: Callable[[Any], Any]) -> Callable[[Value], Any]:
    return lambda u: part(urlsplit(_tagged(u, _URL)))


# --- quantities and versions ----------------------------------------------------------------------------------------


def _quantity(value: Fraction) -> Value:
    return {_QUANTITY: f"{value.numerator}/{value.denominator}"}


def _number(q: Value) -> Fraction:
    return Fraction(_tagged(q, _QUANTITY))


_SEMVER_RE = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?", re.ASCII
)


def _semver(text: str) -> tuple[Any, ...]:
    """Comparable; raises ValueError. A pre-release sorts before its release (semver.org, section 11)."""
    m = _SEMVER_RE.fullmatch(text)
    if m is None:
        raise ValueError(f"invalid semver: {text}")
    pre = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in (m.group(4) or "").split(".") if p)
    return (int(m.group(1)), int(m.group(2)), int(m.group(3)), not pre, pre)


def _order(a: Value, b: Value) -> int:
    """-1, 0 or 1 for two quantities or two versions."""
    if _QUANTITY in a:
        x: Any = _number(a)
        y: Any = _number(b)
    else:
        x, y = _semver(_tagged(a, _SEMVER)), _semver(_tagged(b, _SEMVER))
    return int(x > y) - int(x < y)


def _as_integer(q: Value) -> int:
    n = _number(q)
    if n.denominator != 1 or not -(2**63) <= n < 2**63:
        raise ValueError("cannot convert value to integer")
    return int(n)


# --- addresses ------------------------------------------------------------------------------------------------------


def _parse_ip(text: str) -> Any:
    if "%" in text:
        raise ValueError(f'IP Address "{text}" with zone value is not allowed')
    try:
        address = ipaddress.ip_address(text)
    except ValueError as e:
        raise ValueError(f'IP Address "{text}" parse error during conversion from string: {e}') from e
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(f'IPv4-mapped IPv6 address "{text}" is not allowed')
    return address


def _parse_cidr(text: str) -> Any:
    try:
        if "/" not in text:
            raise ValueError("no '/'")
        return ipaddress.ip_interface(text)
    except ValueError as e:
        raise ValueError(f"network address parse error during conversion from string: {e}") from e


def _ip(v: Value) -> Any:
    return _parse_ip(_tagged(v, _IP))


def _cidr(v: Value) -> Any:
    return _parse_cidr(_tagged(v, _CIDR))


def _contains_ip(v: Value, address: Any) -> bool:
    inside = _parse_ip(address) if isinstance(address, str) else _ip(address)
    return bool(inside in _cidr(v).network)


def _contains_cidr(v: Value, other: Any) -> bool:
    inner = (_parse_cidr(other) if isinstance(other, str) else _cidr(other)).network
    outer = _cidr(v).network
    return bool(inner.version == outer.version and inner.subnet_of(outer))


# --- authorizer -----------------------------------------------------------------------------------------------------


def authorizer() -> Value:
    """The value of the variable `authorizer`; checks go to the callable given to `Program.evaluate`."""
    return {_AUTHORIZER: {}}


def _with(field: str) -> Callable[[Value, str], Value]:
    return lambda v, text: {_AUTHORIZER: {**_tagged(v, _AUTHORIZER), field: text}}


def _service_account(v: Value, namespace: str, name: str) -> Value:
    return {_AUTHORIZER: {**_tagged(v, _AUTHORIZER), "user": f"system:serviceaccount:{namespace}:{name}"}}


def _check(v: Value, verb: str) -> Value:
    ask = AUTHORIZE.get()
    if ask is None:
        raise ValueError("the authorizer is not available here")
    allowed, reason = ask({**_tagged(v, _AUTHORIZER), "verb": verb})
    return {_DECISION: {"allowed": allowed, "reason": reason}}


def declarations(cel: Any) -> list[Any]:
    """Function declarations for the engine's module `cel`."""
    t = cel.Type
    any_list, any_map, strings = t.List(t.DYN), t.Map(t.STRING, t.DYN), t.List(t.STRING)
    text, boolean, integer = t.STRING, t.BOOL, t.INT
    out: dict[str, list[Any]] = {}

    def add(name: str, params: list[Any], result: Any, impl: Callable[..., Any], member: bool = True) -> None:
        overloads = out.setdefault(name, [])
        identity = f"k8s_{name.replace('.', '_')}_{len(overloads)}"
        overloads.append(cel.Overload(identity, return_type=result, parameters=params, is_member=member, impl=impl))

    def make(tag: str, parse: Callable[[str], Any], name: str) -> None:
        def build(s: str) -> Value:
            parse(s)
            return {tag: s}

        add(name, [text], any_map, build, member=False)

    add("isSorted", [any_list], boolean, lists.is_sorted)
    add("sum", [any_list], t.DYN, lists.total)
    add("min", [any_list], t.DYN, lists.extreme("min", min))
    add("max", [any_list], t.DYN, lists.extreme("max", max))
    add("distinct", [any_list], any_list, lists.distinct)
    add("flatten", [any_list], any_list, lists.flatten)
    add("slice", [any_list, integer, integer], any_list, lists.part_of)
    for item in (text, integer, boolean, t.DOUBLE, t.UINT, t.BYTES, t.TIMESTAMP, t.DURATION, any_list, any_map):
        add(portable.INDEX, [any_list, item], integer, lists.index_of)
        add(portable.LAST_INDEX, [any_list, item], integer, lists.last_index_of)
    add(portable.INDEX, [text, text], integer, lambda s, part: s.find(part))
    add(portable.INDEX, [text, text, integer], integer, lists.index_from)
    add(portable.LAST_INDEX, [text, text], integer, lambda s, part: s.rfind(part))
    add(portable.LAST_INDEX, [text, text, integer], integer, lists.last_index_to)
    add(portable.MERGED, [any_list], t.Map(t.DYN, t.DYN), lists.merged)
    add("sort", [any_list], any_list, lambda items: sorted(lists.comparable(items)))
    add("sets.contains", [any_list, any_list], boolean, lists.contains_all, False)
    add("sets.intersects", [any_list, any_list], boolean, lambda a, b: any(x in a for x in b), False)
    add(
        "sets.equivalent",
        [any_list, any_list],
        boolean,
        lambda a, b: lists.contains_all(a, b) and lists.contains_all(b, a),
        False,
    )

    add("jsonpatch.escapeKey", [text], text, lambda s: s.replace("~", "~0").replace("/", "~1"), False)
    add("find", [text, text], text, _find)
    add("findAll", [text, text], strings, _find_all)
    add("findAll", [text, text, integer], strings, _find_all)
    make(_URL, _parse_url, "url")
    add("isURL", [text], boolean, _is(_parse_url), False)
    add("getScheme", [any_map], text, _url_part(lambda u: u.scheme))
    add("getHost", [any_map], text, _url_part(lambda u: u.netloc.rpartition("@")[2]))
    add("getHostname", [any_map], text, _url_part(lambda u: u.hostname or ""))
    add("getPort", [any_map], text, _url_part(lambda u: str(u.port) if u.port is not None else ""))
    add("getEscapedPath", [any_map], text, _url_part(lambda u: u.path))
    add("getQuery", [any_map], t.Map(text, strings), _url_part(lambda u: parse_qs(u.query, keep_blank_values=True)))

    add("format.named", [text], any_map, lambda name: {_FORMAT: name} if name in formats.NAMES else {}, False)
    for kind in formats.NAMES:
        add(f"format.{kind}", [], any_map, lambda kind=kind: {_FORMAT: kind}, False)
    add("validate", [any_map, text], strings, lambda f, s: formats.faults(_tagged(f, _FORMAT), s))

    add("quantity", [text], any_map, lambda s: _quantity(quantity.parse_quantity(s)), False)
    add("isQuantity", [text], boolean, _is(quantity.parse_quantity), False)
    add("isInteger", [any_map], boolean, lambda q: _number(q).denominator == 1)
    add("asInteger", [any_map], integer, _as_integer)
    add("asApproximateFloat", [any_map], t.DOUBLE, lambda q: float(_number(q)))
    add("sign", [any_map], integer, lambda q: (_number(q) > 0) - (_number(q) < 0))
    add("add", [any_map, any_map], any_map, lambda a, b: _quantity(_number(a) + _number(b)))
    add("add", [any_map, integer], any_map, lambda a, b: _quantity(_number(a) + b))
    add("sub", [any_map, any_map], any_map, lambda a, b: _quantity(_number(a) - _number(b)))
    add("sub", [any_map, integer], any_map, lambda a, b: _quantity(_number(a) - b))
    make(_SEMVER, _semver, "semver")
    add("isSemver", [text], boolean, _is(_semver), False)
    for i, part in enumerate(("major", "minor", "patch")):
        add(part, [any_map], integer, lambda v, i=i: _semver(_tagged(v, _SEMVER))[i])
    add("compareTo", [any_map, any_map], integer, _order)
    add("isLessThan", [any_map, any_map], boolean, lambda a, b: _order(a, b) < 0)
    add("isGreaterThan", [any_map, any_map], boolean, lambda a, b: _order(a, b) > 0)

    make(_IP, _parse_ip, "ip")
    add("ip", [any_map], any_map, lambda v: {_IP: str(_cidr(v).ip)})
    add("isIP", [text], boolean, _is(_parse_ip), False)
    add("ip.isCanonical", [text], boolean, lambda s: str(_parse_ip(s)) == s, False)
    add("family", [any_map], integer, lambda v: _ip(v).version)
    add("isUnspecified", [any_map], boolean, lambda v: _ip(v).is_unspecified)
    add("isLoopback", [any_map], boolean, lambda v: _ip(v).is_loopback)
    add("isLinkLocalUnicast", [any_map], boolean, lambda v: _ip(v).is_link_local)
    add("isLinkLocalMulticast", [any_map], boolean, lambda v: _link_local_multicast(_ip(v)))
    add("isGlobalUnicast", [any_map], boolean, lambda v: _global_unicast(_ip(v)))
    make(_CIDR, _parse_cidr, "cidr")
    add("isCIDR", [text], boolean, _is(_parse_cidr), False)
    add("containsIP", [any_map, text], boolean, _contains_ip)
    add("containsIP", [any_map, any_map], boolean, _contains_ip)
    add("containsCIDR", [any_map, text], boolean, _contains_cidr)
    add("containsCIDR", [any_map, any_map], boolean, _contains_cidr)
    add("masked", [any_map], any_map, lambda v: {_CIDR: str(_cidr(v).network)})
    add("prefixLength", [any_map], integer, lambda v: _cidr(v).network.prefixlen)

    for field in ("path", "group", "resource", "subresource", "namespace", "name", "fieldSelector", "labelSelector"):
        add(field, [any_map, text], any_map, _with(field))
    add("serviceAccount", [any_map, text, text], any_map, _service_account)
    add("check", [any_map, text], any_map, _check)
    add("allowed", [any_map], boolean, lambda d: _tagged(d, _DECISION)["allowed"])
    add("reason", [any_map], text, lambda d: _tagged(d, _DECISION)["reason"])
    add("errored", [any_map], boolean, lambda d: not _tagged(d, _DECISION))
    add("error", [any_map], text, lambda d: "" if _tagged(d, _DECISION) else "no decision")
    return [cel.FunctionDecl(name, overloads) for name, overloads in out.items()]


def _link_local_multicast(address: Any) -> bool:
    net = "224.0.0.0/24" if address.version == 4 else "ff02::/16"
    return address in ipaddress.ip_network(net)


def _global_unicast(address: Any) -> bool:
    limited = address.version == 4 and str(address) == "255.255.255.255"
    special = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    return not (limited or special)
