"""URLs and their parts, and the escaping of JSON Patch's paths.

Pure. Source: k8s.io/apiserver `pkg/cel/library/{urls,jsonpatch}.go`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cluster.api.cel.library.declaring import Declarations
from cluster.api.cel.library.values import Value, tagged

_URL = "kubernetes.URL"


def _parse(text: str) -> Any:
    parts = urlsplit(text)
    if not parts.scheme and not text.startswith("/"):
        raise ValueError(f'URL parse error during conversion from string: parse "{text}": invalid URI for request')
    _ = parts.port  # raises for what is no number
    return parts


def _part(part: Callable[[Any], Any]) -> Callable[[Value], Any]:
    return lambda u: part(urlsplit(tagged(u, _URL)))


def declare(to: Declarations) -> None:
    """url, isURL, the parts of a URL; jsonpatch.escapeKey."""
    to.constructor("url", _URL, _parse)
    to.predicate("isURL", _parse)
    to.method("getScheme", [to.value], to.text, _part(lambda u: u.scheme))
    to.method("getHost", [to.value], to.text, _part(lambda u: u.netloc.rpartition("@")[2]))
    to.method("getHostname", [to.value], to.text, _part(lambda u: u.hostname or ""))
    to.method("getPort", [to.value], to.text, _part(lambda u: str(u.port) if u.port is not None else ""))
    to.method("getEscapedPath", [to.value], to.text, _part(lambda u: u.path))
    query = _part(lambda u: parse_qs(u.query, keep_blank_values=True))
    to.method("getQuery", [to.value], to.texts_by_name, query)
    to.function("jsonpatch.escapeKey", [to.text], to.text, lambda s: s.replace("~", "~0").replace("/", "~1"))
