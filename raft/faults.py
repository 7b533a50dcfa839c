"""Fault hooks: named points in shipped code where a test may delay, fail or kill. IO (sleeps, exits); off by default.

Code that owns a point takes a :class:`Faults` and calls ``faults.hit("wal.fsync")`` there. The default has no rules
and costs a dictionary look-up. Shells build theirs with ``Faults.parse(os.environ.get("SK8_FAULTS", ""))``; nothing
below a shell reads the environment.

    SK8_FAULTS="delay:wal.fsync=50ms, fail:wal.fsync@3, crash:wal.after_write@10"

- ``delay:POINT=DURATION``  every hit takes that much longer (``ms`` or ``s``); on an event loop the whole part stalls
- ``fail:POINT[@N]``        the Nth hit (default: each) raises OSError(EIO), as a failing disk does
- ``crash:POINT[@N]``       the Nth hit (default: the first) ends the process at once, as a power cut would

``POINT~TEXT`` counts only hits that are about something with TEXT in it (a key, a name), where the point says what it
is about. Points of the store: wal.write, wal.after_write, wal.fsync, wal.after_fsync, wal.cut, wal.after_cut,
wal.release, snapshot.write, snapshot.fsync, snapshot.before_rename, snapshot.after_rename, identity.before_rename.
Those of the other parts (``apiserver.after_commit`` and so on) are listed in docs/operations.md.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

CRASH_EXIT_CODE = 86

_RULE = re.compile(
    r"(?P<what>delay|fail|crash):(?P<point>[a-z_.]+)(~(?P<about>[^@=,\s]+))?"
    r"(@(?P<nth>[0-9]+))?(=(?P<value>[0-9.]+)(?P<unit>ms|s))?"
)


class FaultSpecError(ValueError):
    """SK8_FAULTS cannot be read; the text says what would be right."""


@dataclass(slots=True)
class _Rule:
    what: str
    nth: int
    delay_s: float
    about: str
    hits: int = 0


def _exit() -> None:
    os._exit(CRASH_EXIT_CODE)


class Faults:
    def __init__(self, *, on_crash: Callable[[], None] = _exit, sleep: Callable[[float], None] = time.sleep) -> None:
        self._rules: dict[str, list[_Rule]] = {}
        self._on_crash = on_crash
        self._sleep = sleep

    @classmethod
    def parse(cls, spec: str, *, on_crash: Callable[[], None] = _exit) -> Faults:
        """Raises FaultSpecError."""
        faults = cls(on_crash=on_crash)
        for part in filter(None, (p.strip() for p in spec.split(","))):
            found = _RULE.fullmatch(part)
            if found is None or (found["what"] == "delay") != (found["value"] is not None):
                raise FaultSpecError(
                    f"fault {part!r}: must be like delay:wal.fsync=50ms, fail:wal.fsync@3, crash:wal.after_write@1 "
                    "or crash:apiserver.after_commit~configmaps/default/x"
                )
            scale = 0.001 if found["unit"] == "ms" else 1.0
            delay_s = float(found["value"]) * scale if found["value"] else 0.0
            faults.add(
                found["what"], found["point"], nth=int(found["nth"] or 0), delay_s=delay_s, about=found["about"] or ""
            )
        return faults

    def add(self, what: str, point: str, *, nth: int = 0, delay_s: float = 0.0, about: str = "") -> None:
        """``what`` is delay, fail or crash; ``nth`` 0 is every hit (crash: the first)."""
        self._rules.setdefault(point, []).append(_Rule(what, nth, delay_s, about))

    @property
    def armed(self) -> bool:
        """Whether there is a rule at all."""
        return bool(self._rules)

    def clear(self) -> None:
        self._rules.clear()

    def hit(self, point: str, about: str = "") -> None:
        """Passed a named point. Raises OSError(EIO) if told to fail."""
        rules = self._rules.get(point)
        if rules:
            self._act(point, about, rules)

    def _act(self, point: str, about: str, rules: list[_Rule]) -> None:
        for rule in rules:
            if rule.about not in about:
                continue
            rule.hits += 1
            if rule.nth not in (0, rule.hits):
                continue
            if rule.what == "delay":
                self._sleep(rule.delay_s)
            elif rule.what == "fail":
                raise OSError(errno.EIO, f"injected fault at {point}")
            else:
                self._on_crash()
