"""Paths of files below a volume, and their modes (pkg/apis/core/validation).

Pure.
"""

from __future__ import annotations

from cluster.api.validation.fields import Faults

_MODE = "must be a number between 0 and 0777 (octal), both inclusive"


def check_no_backsteps(faults: Faults, at: str, path: str) -> None:
    if ".." in path.split("/"):
        faults.invalid(at, path, "must not contain '..'")


def check_local_path(faults: Faults, at: str, path: str) -> None:
    """One that stays in its volume, out of the names the kubelet keeps for itself."""
    if path.startswith("/"):
        faults.invalid(at, path, "must be a relative path")
    check_no_backsteps(faults, at, path)
    if path.startswith("..") and not path.startswith("../") and path != "..":
        faults.invalid(at, path, "must not start with '..'")


def check_file_mode(faults: Faults, at: str, mode: int | None) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        faults.invalid(at, mode, _MODE)
