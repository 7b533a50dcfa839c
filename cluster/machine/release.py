"""Which copy of sk8 a machine runs, and going over to another one in place.

IO. A release is a checkout (or a virtual environment) on the machine's own file system; the machine's disk says which
one is its own, and which it had before. sk8-machine puts itself into another by execve(2): its process id stays, so the
host agent (or systemd) sees no machine go down, and the containers, which belong to the engine, run on.

 <disk>/release.json  {"python": "/opt/sk8-2/.venv/bin/python", "checkout": "/opt/sk8-2", "before": {...} or null}
                      absent: whatever started sk8-machine
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import orjson

from cluster.machine.files import write_atomic
from cluster.machine.machine_config import MachineConfig

log = logging.getLogger(__name__)
_ENTERED = "SK8_RELEASE_ENTERED"
_AGAIN = "SK8_MACHINE_AGAIN"


class NoRelease(ValueError):
    """The directory holds no sk8 that could be run."""


@dataclass(frozen=True, slots=True)
class Release:
    """`python`: the interpreter with sk8's libraries; `checkout`: the source tree, None for an installed package."""

    python: Path
    checkout: Path | None

    def to_json(self) -> dict[str, str]:
        return {"python": str(self.python), "checkout": str(self.checkout or "")}

    @classmethod
    def from_json(cls, raw: Any) -> Release:
        return cls(Path(raw["python"]), Path(raw["checkout"]) if raw["checkout"] else None)

    def __str__(self) -> str:
        return str(self.checkout or self.python.parent.parent)


def checkout_dir() -> Path | None:
    """The source tree this runs from, None when sk8 is an installed package."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").exists() else None


def running() -> Release:
    """What this process runs."""
    return Release(Path(sys.executable), checkout_dir())


def in_directory(directory: Path) -> Release:
    """The release in a checkout whose libraries are in its `.venv`, or in a virtual environment. Raises NoRelease."""
    directory = directory.resolve()
    if (directory / "pyproject.toml").is_file() and (directory / "cluster/machine").is_dir():
        found = Release(directory / ".venv/bin/python", directory)
    else:
        found = Release(directory / "bin/python", None)
    if not os.access(found.python, os.X_OK):
        raise NoRelease(f"{directory} is no release: there is no {found.python}; infra/bootstrap.sh makes it")
    return found


def chosen(machine: MachineConfig) -> Release | None:
    """What this machine's disk says it has to run; None: whatever started it."""
    raw = _read(machine)
    return Release.from_json(raw) if raw else None


def before(machine: MachineConfig) -> Release | None:
    """What it ran before the last change."""
    raw = (_read(machine) or {}).get("before")
    return Release.from_json(raw) if raw else None


def choose(machine: MachineConfig, release: Release, previous: Release | None) -> None:
    """Takes effect at sk8-machine's next start, or at once by SIGHUP."""
    before = None if previous is None else previous.to_json()
    write_atomic(_file(machine), orjson.dumps(release.to_json() | {"before": before}))


def enter(machine: MachineConfig, *, again: bool = False) -> None:
    """Goes over to the chosen release unless this is it; `again`: begins anew in any case. Returns otherwise.

    A release that is gone from the disk is logged and passed over: a machine that runs an old one is better than none.
    """
    wanted = chosen(machine) or running()
    if not os.access(wanted.python, os.X_OK):
        log.error("%s is gone; this machine runs %s", wanted, running())
        wanted = running()
    if again or (wanted != running() and _ENTERED not in os.environ):
        _execute(wanted, first=not again)


def begun_again() -> bool:
    """Whether `enter(again=True)` led here, not a boot. True once: what this process starts has not begun again."""
    return os.environ.pop(_AGAIN, None) is not None


def _execute(release: Release, *, first: bool) -> NoReturn:
    """`first`: entered from another release; whatever it then is, it is not left once more."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", _ENTERED)}
    if release.checkout is not None:
        env["PYTHONPATH"] = str(release.checkout)
    env[_ENTERED if first else _AGAIN] = "1"
    log.info("going over to %s", release)
    os.execve(release.python, [str(release.python), "-m", "cluster.machine", *sys.argv[1:]], env)


def _read(machine: MachineConfig) -> dict[str, Any] | None:
    try:
        raw: dict[str, Any] = orjson.loads(_file(machine).read_bytes())
        Release.from_json(raw)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as e:
        log.error("%s is not read: %r", _file(machine), e)
        return None
    return raw


def _file(machine: MachineConfig) -> Path:
    return machine.disk / "release.json"
