"""What the user sees: steps with elapsed time, colours on a terminal only, tables, and errors that say what to do.

IO (a terminal). Progress goes to stderr, results to stdout, so that `--output json` can be piped. What was said is
kept: of a command that has no result of its own, and of one that failed, it is the JSON (`summary`).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

_COLOURS = {"green": "32", "red": "31", "yellow": "33", "dim": "2", "bold": "1"}
_PATIENCE_S = 1.0
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class CommandError(Exception):
    """Ends the command: what went wrong, and what to do about it."""

    def __init__(self, message: str, fix: str = "", code: int = 1) -> None:
        super().__init__(message)
        self.fix = fix
        self.code = code


def paint(text: str, colour: str, stream: TextIO) -> str:
    """In colour on a terminal; NO_COLOR (https://no-color.org) means never."""
    coloured = stream.isatty() and not os.environ.get("NO_COLOR")
    return f"\033[{_COLOURS[colour]}m{text}\033[0m" if coloured else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned as kubectl does: three blanks between them, upper-case header."""
    lines = [tuple(h.upper() for h in header), *(tuple(map(str, r)) for r in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("   ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


class Step:
    """One line of progress. `update` says how far it is; on a terminal it is redrawn, elsewhere every 5 seconds."""

    def __init__(self, text: str, stream: TextIO) -> None:
        self._text = text
        self._stream = stream
        self._detail = ""
        self._begin = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)

    def update(self, detail: str) -> None:
        self._detail = detail

    def record(self, *, done: bool) -> dict[str, Any]:
        """The step as it is now, for programs."""
        seconds = round(time.monotonic() - self._begin, 3)
        return {"step": self._text, "detail": self._detail, "seconds": seconds, "done": done}

    def __enter__(self) -> Step:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        mark = paint("✓", "green", self._stream) if kind is None else paint("✗", "red", self._stream)
        self._line(f"  {mark} {self._text}{self._suffix()}", end="\n")

    def _suffix(self) -> str:
        detail = f": {self._detail}" if self._detail else ""
        return f"{detail}  {paint(f'{time.monotonic() - self._begin:.1f}s', 'dim', self._stream)}"

    def _draw(self) -> None:
        terminal = self._stream.isatty()
        turn = 0
        while not self._done.wait(0.1 if terminal else 5.0):
            turn += 1
            mark = _SPINNER[turn % len(_SPINNER)] if terminal else "…"
            self._line(f"  {mark} {self._text}{self._suffix()}", end="" if terminal else "\n")

    def _line(self, text: str, end: str) -> None:
        self._stream.write(("\r\033[K" if self._stream.isatty() else "") + text + end)
        self._stream.flush()


def _wait(text: str, stream: TextIO, done: threading.Event) -> None:
    if done.wait(_PATIENCE_S):
        return
    turn = 0
    while not done.wait(0.1):
        turn += 1
        stream.write(f"\r\033[K  {_SPINNER[turn % len(_SPINNER)]} {text}")
        stream.flush()
    stream.write("\r\033[K")
    stream.flush()


class Output:
    """Where one command writes. `quiet` keeps results and errors only."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._quiet = quiet
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self._steps: list[dict[str, Any]] = []
        self._said: list[str] = []
        self.has_result = False

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        step = Step(text, self.err)
        done = False
        try:
            if self._quiet:
                yield step
            else:
                with step:
                    yield step
            done = True
        finally:
            self._steps.append(step.record(done=done))

    def summary(self, error: CommandError | None = None) -> str:
        """What was done, and what went wrong."""
        ended = {"done": error is None} | ({"error": str(error), "try": error.fix} if error is not None else {})
        return json.dumps(ended | {"steps": self._steps, "messages": self._said}, indent=2)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """For what is mostly quick: on a terminal, says what it waits for after a second, and takes it back."""
        if self._quiet or not self.err.isatty():
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=_wait, args=(text, self.err, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def say(self, text: str = "") -> None:
        if text:
            self._said.append(text.strip())
        if not self._quiet:
            print(text, file=self.err, flush=True)

    def result(self, text: str) -> None:
        self.has_result = True
        print(text, file=self.out, flush=True)

    def warn(self, message: str, fix: str = "") -> None:
        self._said.append(f"{message} {fix}".strip())
        print(f"  {paint('!', 'yellow', self.err)} {message}{f' {fix}' if fix else ''}", file=self.err, flush=True)

    def error(self, error: CommandError) -> None:
        print(f"{paint('error:', 'red', self.err)} {error}", file=self.err)
        if error.fix:
            print(f"{paint('  try:', 'bold', self.err)} {error.fix}", file=self.err)
