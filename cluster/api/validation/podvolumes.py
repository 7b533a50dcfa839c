"""A pod's volumes and how containers mount them (pkg/apis/core/validation).

Pure. Sources that nothing here mounts are judged by their number alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.api.quantity import parse_quantity
from cluster.api.validation import fields
from cluster.api.validation.downward import validate_files
from cluster.api.validation.fields import Faults
from cluster.api.validation.filepaths import check_file_mode, check_local_path, check_no_backsteps

Object = dict[str, Any]
Check = Callable[[Faults, str, Object], None]

_HOST_PATHS = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket",
)  # fmt: skip
_MIN_TOKEN_S, _MAX_TOKEN_S = 600, 1 << 32


def validate_volumes(faults: Faults, at: str, volumes: list[Object]) -> set[str]:
    """Their names."""
    names: set[str] = set()
    for i, v in enumerate(volumes):
        where, name = f"{at}[{i}]", v.get("name", "")
        if not name:
            faults.required(where + ".name")
        else:
            faults.check(where + ".name", name, fields.dns_label(name))
        if name in names:
            faults.duplicate(where + ".name", name)
        names.add(name)
        sources = [k for k in v if k != "name"]
        for extra in sources[1:]:
            faults.forbidden(f"{where}.{extra}", "may not specify more than 1 volume type")
        if not sources:
            faults.required(where, "must specify a volume type")
        elif sources[0] in _CHECKS:
            _CHECKS[sources[0]](faults, f"{where}.{sources[0]}", v[sources[0]])
    return names


def _needs(*names: str) -> Check:
    def check(faults: Faults, at: str, source: Object) -> None:
        for name in names:
            if not source.get(name):
                faults.required(f"{at}.{name}")

    return check


def _empty_dir(faults: Faults, at: str, source: Object) -> None:
    limit = source.get("sizeLimit")
    if limit is not None and parse_quantity(limit) < 0:
        faults.forbidden(at + ".sizeLimit", "SizeLimit field must be a valid resource quantity")


def _host_path(faults: Faults, at: str, source: Object) -> None:
    if not source.get("path"):
        faults.required(at + ".path")
    else:
        check_no_backsteps(faults, at + ".path", source["path"])
    if source.get("type") is not None:
        faults.enum(at + ".type", source["type"], _HOST_PATHS)


def _nfs(faults: Faults, at: str, source: Object) -> None:
    _needs("server", "path")(faults, at, source)
    if source.get("path") and not source["path"].startswith("/"):
        faults.invalid(at + ".path", source["path"], "must be an absolute path")


def _keyed(name: str) -> Check:
    """Of ConfigMaps and Secrets, whose name is in the field `name`."""

    def check(faults: Faults, at: str, source: Object) -> None:
        _needs(name)(faults, at, source)
        check_file_mode(faults, at + ".defaultMode", source.get("defaultMode"))
        for i, item in enumerate(source.get("items") or ()):
            where = f"{at}.items[{i}]"
            _needs("key")(faults, where, item)
            _file(faults, where, item)

    return check


def _file(faults: Faults, at: str, item: Object) -> None:
    if not item.get("path"):
        faults.required(at + ".path")
    else:
        check_local_path(faults, at + ".path", item["path"])
    check_file_mode(faults, at + ".mode", item.get("mode"))


def _downward(faults: Faults, at: str, source: Object) -> None:
    check_file_mode(faults, at + ".defaultMode", source.get("defaultMode"))
    for i, item in enumerate(source.get("items") or ()):
        _file(faults, f"{at}.items[{i}]", item)
    validate_files(faults, at + ".items", source.get("items") or [])


def _token(faults: Faults, at: str, source: Object) -> None:
    seconds = source.get("expirationSeconds")
    if seconds is not None and seconds < _MIN_TOKEN_S:
        faults.invalid(at + ".expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
    elif seconds is not None and seconds > _MAX_TOKEN_S:
        faults.invalid(at + ".expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")
    if not source.get("path"):
        faults.required(at + ".path")
    else:
        check_local_path(faults, at + ".path", source["path"])


def _projected(faults: Faults, at: str, source: Object) -> None:
    check_file_mode(faults, at + ".defaultMode", source.get("defaultMode"))
    for i, part in enumerate(source.get("sources") or ()):
        where = f"{at}.sources[{i}]"
        present = [k for k in _PROJECTED if part.get(k) is not None]
        for extra in present[1:]:
            faults.forbidden(f"{where}.{extra}", "may not specify more than 1 volume type per source")
        for kind in present[:1]:
            _PROJECTED[kind](faults, f"{where}.{kind}", part[kind])


_PROJECTED: dict[str, Check] = {
    "secret": _keyed("name"),
    "configMap": _keyed("name"),
    "downwardAPI": _downward,
    "serviceAccountToken": _token,
}
_CHECKS: dict[str, Check] = {
    "emptyDir": _empty_dir,
    "hostPath": _host_path,
    "nfs": _nfs,
    "secret": _keyed("secretName"),
    "configMap": _keyed("name"),
    "downwardAPI": _downward,
    "projected": _projected,
    "persistentVolumeClaim": _needs("claimName"),
    "ephemeral": _needs("volumeClaimTemplate"),
    "csi": _needs("driver"),
}


# --- mounts ---------------------------------------------------------------------------------------------------------


def validate_mounts(faults: Faults, at: str, mounts: list[Object], volumes: set[str], *, privileged: bool) -> None:
    paths: set[str] = set()
    for i, m in enumerate(mounts):
        where = f"{at}[{i}]"
        if not m.get("name"):
            faults.required(where + ".name")
        elif m["name"] not in volumes:
            faults.not_found(where + ".name", m["name"])
        path = m.get("mountPath", "")
        if not path:
            faults.required(where + ".mountPath")
        elif path in paths:
            faults.invalid(where + ".mountPath", path, "must be unique")
        paths.add(path)
        _sub_paths(faults, where, m)
        _propagation(faults, where, m, privileged)


def _sub_paths(faults: Faults, at: str, m: Object) -> None:
    for field in ("subPath", "subPathExpr"):
        sub = m.get(field) or ""
        if sub.startswith("/"):
            faults.invalid(f"{at}.{field}", sub, "must be a relative path")
        check_no_backsteps(faults, f"{at}.{field}", sub)
    if m.get("subPath") and m.get("subPathExpr"):
        faults.invalid(at + ".subPathExpr", m["subPathExpr"], "subPathExpr and subPath are mutually exclusive")


def _propagation(faults: Faults, at: str, m: Object, privileged: bool) -> None:
    kind = m.get("mountPropagation")
    if kind is not None:
        faults.enum(at + ".mountPropagation", kind, ("Bidirectional", "HostToContainer", "None"))
        if kind == "Bidirectional" and not privileged:
            why = "Bidirectional mount propagation is available only to privileged containers"
            faults.forbidden(at + ".mountPropagation", why)
    recursive = m.get("recursiveReadOnly")
    if recursive is not None:
        faults.enum(at + ".recursiveReadOnly", recursive, ("Disabled", "Enabled", "IfPossible"))
        if recursive in ("Enabled", "IfPossible") and not m.get("readOnly"):
            faults.forbidden(at + ".recursiveReadOnly", "may only be specified when readOnly is true")
