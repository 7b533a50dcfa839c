"""The kubeconfig: our context goes in beside all others and comes out again without a trace.

`merged` and `without` are pure (documents in, documents out); the rest is files. Others' clusters, users, contexts,
preferences and extensions keep their values and their order. The context that was current before ours is remembered in
an extension of our own context, so that it is restored even when everything else of sk8 is gone.
Source: client-go's clientcmd (KUBECONFIG lists, the `.lock` file beside a kubeconfig).
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.machine.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "sk8"
_PREVIOUS = "sk8.io/previous-context"
_LISTS = ("clusters", "contexts", "users")


class KubeconfigError(ValueError):
    """The file is not what kubectl would read; it is left as it is."""


@dataclass(frozen=True, slots=True)
class Access:
    """PEM bytes of what a client needs."""

    server: str
    ca: bytes
    cert: bytes
    key: bytes


def merged(document: Mapping[str, Any] | None, access: Access, name: str = NAME) -> dict[str, Any]:
    """The document with our cluster, user and context, which is current."""
    doc = _checked(document)
    previous = doc.get("current-context", "")
    if previous == name:
        previous = _remembered(doc, name)
    cluster = {"certificate-authority-data": _text(access.ca), "server": access.server}
    user = {"client-certificate-data": _text(access.cert), "client-key-data": _text(access.key)}
    context: dict[str, Any] = {"cluster": name, "user": f"{name}-admin"}
    if previous:
        context["extensions"] = [{"name": _PREVIOUS, "extension": {"context": previous}}]
    doc = _put(doc, "clusters", name, "cluster", cluster)
    doc = _put(doc, "contexts", name, "context", context)
    doc = _put(doc, "users", f"{name}-admin", "user", user)
    return {**doc, "current-context": name}


def without(document: Mapping[str, Any] | None, name: str = NAME) -> dict[str, Any]:
    """The document without ours; the context that was current before is current again if it is still there."""
    doc = _checked(document)
    previous = _remembered(doc, name)
    for key, entry in (("clusters", name), ("contexts", name), ("users", f"{name}-admin")):
        doc[key] = [e for e in doc[key] if e.get("name") != entry]
    if doc.get("current-context") == name:
        known = [c.get("name") for c in doc["contexts"]]
        doc["current-context"] = previous if previous in known else ""
    return doc


def is_empty(document: Mapping[str, Any]) -> bool:
    """True when it says nothing, so that a file that we made may go."""
    return not any(document.get(k) for k in (*_LISTS, "preferences", "extensions", "current-context"))


def _checked(document: Mapping[str, Any] | None) -> dict[str, Any]:
    doc = dict(document or {})
    if doc.get("kind", "Config") != "Config":
        raise KubeconfigError(f"kind is {doc.get('kind')!r}, not Config")
    start = {"apiVersion": "v1", "kind": "Config"}
    for key in _LISTS:
        if not isinstance(doc.get(key) or [], list):
            raise KubeconfigError(f"{key} is not a list")
        doc[key] = list(doc.get(key) or [])
    return {**start, **doc}


def _remembered(doc: Mapping[str, Any], name: str) -> str:
    for entry in doc["contexts"]:
        if entry.get("name") == name:
            for extension in (entry.get("context") or {}).get("extensions") or []:
                if extension.get("name") == _PREVIOUS:
                    return str(extension.get("extension", {}).get("context", ""))
    return ""


def _put(doc: dict[str, Any], key: str, name: str, kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    entry = {"name": name, kind: dict(value)}
    names = [e.get("name") for e in doc[key]]
    items = [entry if e.get("name") == name else e for e in doc[key]]
    return {**doc, key: items if name in names else [*items, entry]}


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()


# -- files -----------------------------------------------------------------------------------------------------------
def target(environment: Mapping[str, str]) -> Path:
    """The file kubectl would write to: the first of KUBECONFIG that exists, else its last, else ~/.kube/config."""
    listed = [Path(p) for p in environment.get("KUBECONFIG", "").split(os.pathsep) if p]
    for path in listed:
        if path.exists():
            return path.resolve()
    return listed[-1] if listed else (Path(environment.get("HOME", "/root")) / ".kube" / "config").resolve()


def install(path: Path, access: Access) -> None:
    """Merges our context into the file, making it (0600) if needed. Raises KubeconfigError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    with _locked(path):
        _write(path, merged(_read(path), access))


def has(path: Path, access: Access) -> bool:
    """Whether the file already leads to this very cluster as its administrator. Raises KubeconfigError."""
    document = _checked(_read(path))
    ours = merged(document, access)
    return all(entry in document[key] for key in ("clusters", "users") for entry in ours[key] if _is_ours(entry))


def _is_ours(entry: Mapping[str, Any]) -> bool:
    return entry.get("name") in (NAME, f"{NAME}-admin")


def uninstall(path: Path) -> bool:
    """Takes our context out; a file that only held ours goes. False when there was nothing of ours."""
    if not path.exists():
        return False
    with _locked(path):
        before = _checked(_read(path))
        after = without(before)
        if after == before:
            return False
        if is_empty(after):
            path.unlink()
        else:
            _write(path, after)
    return True


def render(access: Access) -> str:
    """A kubeconfig of its own, for `sk8 kubeconfig`."""
    return yaml.safe_dump(merged(None, access), sort_keys=False)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        raise KubeconfigError(f"{path} is not YAML: {e}") from e
    if document is not None and not isinstance(document, dict):
        raise KubeconfigError(f"{path} is not a kubeconfig: it holds no mapping")
    return document


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """A file that is there keeps its owner: under sudo it may be another user's."""
    before = path.stat() if path.exists() else None
    write_atomic(path, yaml.safe_dump(dict(document), sort_keys=False).encode())
    if before is not None and before.st_uid != os.geteuid():
        os.chown(path, before.st_uid, before.st_gid)


@contextmanager
def _locked(path: Path, patience_s: float = 3.0) -> Iterator[None]:
    """The lock that kubectl takes too."""
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + patience_s
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError as e:
            if time.monotonic() > deadline:
                raise KubeconfigError(f"{lock} exists: another program is changing it, or died; remove it") from e
            time.sleep(0.1)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
