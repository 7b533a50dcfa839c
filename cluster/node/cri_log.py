"""The log format of CRI, which log shippers parse, and what `kubectl logs` shows of it.

Pure. One entry is a line `<RFC 3339 time> <stdout|stderr> <F|P> <bytes>`; P marks a piece of a longer line, whose end
is the next entry of the same stream marked F. Source: Kubernetes' design proposal on logs in CRI.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cluster.api.meta import parse_time
from cluster.node.runtime import LogOptions

_NANOS = 9
_OVERLAP_NS = 10_000_000
_STREAMS = {1: b"stdout", 2: b"stderr"}


def entry(stamp: bytes, stream: int, data: bytes) -> bytes:
    """One entry from what was written; `data` without its end of line is a piece of a line."""
    if data.endswith(b"\n"):
        return b"%b %b F %b" % (stamp, _STREAMS[stream], data)
    return b"%b %b P %b\n" % (stamp, _STREAMS[stream], data)


def fixed_stamp(stamp: bytes) -> bytes:
    """With all nine digits of the second, as `kubectl logs --timestamps` shows times."""
    end = len(stamp) - (1 if stamp.endswith(b"Z") else 6)
    head, dot, digits = stamp[:end].partition(b".")
    return head + b"." + digits.ljust(_NANOS, b"0") + stamp[end:] if dot else head + b"." + b"0" * _NANOS + stamp[end:]


@dataclass(slots=True)
class Renderer:
    """File bytes in, shown bytes out. What is no entry is left out, as the kubelet does."""

    options: LogOptions
    left: int | None = None
    """Bytes that may still be shown; None for all."""
    _rest: bytes = b""
    _inside: bool = False  # the last thing shown was a piece of a line

    @property
    def full(self) -> bool:
        return self.left is not None and self.left <= 0

    def feed(self, data: bytes) -> bytes:
        *lines, self._rest = (self._rest + data).split(b"\n")
        out = b"".join(map(self._line, lines))
        if self.left is not None:
            out = out[: self.left]
            self.left -= len(out)
        return out

    def _line(self, line: bytes) -> bytes:
        parts = line.split(b" ", 3)
        if len(parts) < 4:
            return b""
        stamp, stream, tag, text = parts
        if self.options.stream and stream.decode("ascii", "replace") != self.options.stream:
            return b""
        if self.options.since is not None and time_of(stamp) < self.options.since:
            return b""
        shown = fixed_stamp(stamp) + b" " + text if self.options.timestamps and not self._inside else text
        self._inside = tag == b"P"
        return shown if self._inside else shown + b"\n"


def time_of(stamp: bytes) -> float:
    """Seconds since the epoch; 0 for what is no time."""
    try:
        return parse_time(stamp.decode("ascii", "replace"))
    except ValueError:
        return 0.0


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a writer goes on: `since` is the time to ask the engine from ("" for all), `known` are the entries of that
    time and later which the file has already."""

    since: str
    known: Counter[bytes]


def resume_after(tail: bytes) -> Resume:
    """From the last entries of a file (whole lines), with times as Docker writes them: UTC, nine digits.

    stdout and stderr are stamped by two threads, and what one stamped earlier may be written later: so the engine is
    asked for a moment more, and what is known of it is left out.
    """
    lines = [line + b"\n" for line in tail.split(b"\n") if line.count(b" ") >= 2]
    if not lines:
        return Resume("", Counter())
    newest = max(line.split(b" ", 1)[0] for line in lines)
    since = nanos_of(newest) - _OVERLAP_NS
    known = Counter(line for line in lines if nanos_of(line.split(b" ", 1)[0]) >= since)
    return Resume(f"{since // 10**9}.{since % 10**9:09d}", known)


def nanos_of(stamp: bytes) -> int:
    """Nanoseconds since the epoch, exactly; 0 for what is no time. Only for times in UTC."""
    head, _, digits = stamp.decode("ascii", "replace").removesuffix("Z").partition(".")
    try:
        return int(parse_time(head + "Z")) * 10**9 + int(digits[:_NANOS].ljust(_NANOS, "0"))
    except ValueError:
        return 0
