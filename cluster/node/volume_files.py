"""Volumes made of files: what is in them (pure) and writing them so that readers never see half of an update.

A volume's directory holds `..<content hash>/` with the files, `..data` -> that directory, and for each top-level name
a link to `..data/<name>`. An update writes a new hashed directory and renames one link: atomic for every reader that
opens through it. Source: Kubernetes' atomic writer, seen from the outside.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.node.pod_env import ConfigError, EnvContext, data_of, field_value, resource_value

Obj = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FileContent:
    data: bytes
    mode: int


Payload = dict[str, FileContent]


def object_payload(obj: Obj | None, kind: str, source: Obj, default_mode: int) -> Payload:
    """The files of a ConfigMap or Secret (`items` chooses and renames). Raises ConfigError."""
    name = source.get("name") or source.get("secretName") or ""
    optional = bool(source.get("optional"))
    if obj is None:
        if optional:
            return {}
        raise ConfigError(f'{kind} "{name}" not found')
    data = data_of(obj, kind)
    items = source.get("items")
    if not items:
        return {key: FileContent(value, default_mode) for key, value in data.items()}
    payload: Payload = {}
    for item in items:
        if item["key"] not in data:
            if optional:
                continue
            raise ConfigError(f"{kind} references non-existent {kind} key: {item['key']}")
        mode = default_mode if item.get("mode") is None else int(item["mode"])
        payload[checked_path(item["path"])] = FileContent(data[item["key"]], mode)
    return payload


def downward_payload(items: list[Obj], context: EnvContext, default_mode: int) -> Payload:
    """The files of the downward API. Raises ConfigError."""
    containers = {
        c["name"]: c
        for key in ("initContainers", "containers")
        for c in context.pod["spec"].get(key) or ()
    }  # fmt: skip
    payload: Payload = {}
    for item in items:
        if "fieldRef" in item:
            text = field_value(item["fieldRef"]["fieldPath"], context)
        else:
            ref = item.get("resourceFieldRef") or {}
            container = containers.get(ref.get("containerName", ""))
            if container is None:
                raise ConfigError(f"resourceFieldRef: container {ref.get('containerName')!r} not found")
            text = resource_value(ref, container, context)
        mode = default_mode if item.get("mode") is None else int(item["mode"])
        payload[checked_path(item["path"])] = FileContent(text.encode(), mode)
    return payload


def checked_path(path: str) -> str:
    """A relative path that stays inside. Raises ConfigError."""
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise ConfigError(f'invalid path "{path}": must be relative and must not contain ".."')
    return "/".join(p for p in parts if p)


def digest(payload: Mapping[str, FileContent], group: int | None) -> str:
    state = hashlib.sha256(repr(group).encode())
    for path in sorted(payload):
        content = payload[path]
        state.update(f"\0{path}\0{content.mode}\0{len(content.data)}\0".encode())
        state.update(content.data)
    return state.hexdigest()[:20]


def write_atomically(directory: str, payload: Mapping[str, FileContent], group: int | None = None) -> bool:
    """Make the volume's visible content exactly `payload`; True if anything changed. `group` owns the files (fsGroup).

    Blocking. A crash at any point leaves the old or the new content visible, and is tidied by the next call.
    """
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    name = f"..{digest(payload, group)}"
    link = root / "..data"
    if os.path.islink(link) and os.readlink(link) == name:
        return False
    fresh = root / name
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for path, content in payload.items():
        _write(fresh / path, content, group)
    fresh.chmod(0o755)
    temporary = root / "..data_tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, link)
    _link_names(root, {path.split("/")[0] for path in payload})
    for old in root.iterdir():
        if old.name.startswith("..") and old.name not in ("..data", name) and old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
    return True


def _write(target: Path, content: FileContent, group: int | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = content.mode
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as handle:
            handle.write(content.data)
        if group is not None:
            os.fchown(descriptor, -1, group)
            mode |= 0o040 if mode & 0o400 else 0
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _link_names(root: Path, names: set[str]) -> None:
    for name in sorted(names):
        link = root / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    for entry in root.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
