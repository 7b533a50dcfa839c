"""Which credentials and which mirrors an image is pulled with.

Pure. Source: Kubernetes' "Images" page (imagePullSecrets of types dockerconfigjson and dockercfg, how their keys match)
and Docker's rules for image names: the first part is a registry when it has a dot or a colon, or is `localhost`.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Obj = dict[str, Any]
DEFAULT_REGISTRY = "docker.io"
_DEFAULT_NAMES = ("index.docker.io", "registry-1.docker.io", DEFAULT_REGISTRY)


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """Never shown: repr names the registry alone."""

    registry: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credential({self.registry!r})"


def split_registry(image: str) -> tuple[str, str]:
    """(registry, the rest of the name): nginx -> (docker.io, library/nginx)."""
    first, slash, rest = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return (DEFAULT_REGISTRY if first in _DEFAULT_NAMES else first), rest
    return DEFAULT_REGISTRY, image if slash else f"library/{image}"


def credentials(image: str, secrets: Iterable[Obj]) -> list[Credential]:
    """Those of `secrets` that fit the image, the most specific first; what cannot be read is passed over."""
    registry, path = split_registry(image)
    found: list[tuple[int, Credential]] = []
    for secret in secrets:
        for key, entry in _entries(secret).items():
            host, _, prefix = _bare(key).partition("/")
            host = DEFAULT_REGISTRY if host in _DEFAULT_NAMES else host
            prefix = "" if host == DEFAULT_REGISTRY and prefix in ("v1", "v2") else prefix
            login = _login(entry)
            if login is not None and _host_fits(host, registry) and path.startswith(prefix):
                found.append((len(host) + len(prefix), Credential(registry, *login)))
    return [credential for _, credential in sorted(found, key=lambda item: -item[0])]


def _host_fits(pattern: str, host: str) -> bool:
    """Part by part, so that * stands for one part of a name alone."""
    wanted, given = pattern.split("."), host.split(".")
    return len(wanted) == len(given) and all(fnmatch.fnmatchcase(g, w) for g, w in zip(given, wanted, strict=True))


def _entries(secret: Obj) -> Mapping[str, Obj]:
    data = secret.get("data") or {}
    for key, inner in ((".dockerconfigjson", "auths"), (".dockercfg", "")):
        if key in data:
            try:
                decoded = json.loads(base64.b64decode(data[key]))
                entries = decoded.get(inner) if inner else decoded
            except (ValueError, AttributeError):
                return {}
            return {k: v for k, v in (entries or {}).items() if isinstance(v, dict)}
    return {}


def _bare(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").rstrip("/")


def _login(entry: Obj) -> tuple[str, str] | None:
    if entry.get("username") or entry.get("password"):
        return str(entry.get("username") or ""), str(entry.get("password") or "")
    try:
        user, colon, password = base64.b64decode(entry.get("auth") or "").decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


def mirrored(image: str, mirrors: Mapping[str, Sequence[str]]) -> list[str]:
    """The names to try before the image's own: `mirrors` gives addresses by registry, "*" for all others."""
    registry, path = split_registry(image)
    return [f"{mirror.rstrip('/')}/{path}" for mirror in mirrors.get(registry, mirrors.get("*", ()))]
