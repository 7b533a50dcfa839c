"""The process in the middle of a slowed cable (see slow_cable): frames wait between two TAP devices, and some are lost.

IO (tun(4), poll(2)); root; stdlib alone, and quick to start. It lives in the switch's network namespace:

    python -m cluster.cloud.cable_relay NEAR FAR --delay-ms 50 --jitter-ms 5 --loss-percent 1

makes the devices NEAR and FAR, says "ready", and carries frames both ways until one of the devices is removed or it is
killed; then both devices are gone. A TAP device takes no offloaded work, so every frame arrives whole: cut to the
link's size and with its checksums.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import heapq
import os
import random
import select
import struct
import time

QUEUE_FRAMES = 10_000
"""What a direction holds; more are lost, as in netem's `limit`."""
FRAME_BYTES = 1 << 16
BURST = 64
"""Frames read from one device before the other has its turn."""
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_BUSY = (errno.EIO, errno.EAGAIN, errno.ENOBUFS)


class DelayLine:
    """One direction. Pure: who calls says what time it is. Like netem, jitter may change the order of frames."""

    def __init__(self, rng: random.Random, delay_s: float, jitter_s: float, loss: float) -> None:
        """``loss``: the share of frames that is lost, 0 to 1. Each is delayed by ``delay_s`` ± up to ``jitter_s``."""
        self._rng = rng
        self._delay_s, self._jitter_s, self._loss = delay_s, jitter_s, loss
        self._waiting: list[tuple[float, int, bytes]] = []
        self._count = 0
        self.lost = 0

    def push(self, frame: bytes, now: float) -> None:
        if self._rng.random() < self._loss or len(self._waiting) >= QUEUE_FRAMES:
            self.lost += 1
            return
        due = now + max(0.0, self._delay_s + self._rng.uniform(-self._jitter_s, self._jitter_s))
        self._count += 1
        heapq.heappush(self._waiting, (due, self._count, frame))

    def due(self, now: float) -> list[bytes]:
        """What has waited long enough, in the order in which it was due."""
        frames = []
        while self._waiting and self._waiting[0][0] <= now:
            frames.append(heapq.heappop(self._waiting)[2])
        return frames

    @property
    def next_at(self) -> float | None:
        return self._waiting[0][0] if self._waiting else None


def open_tap(name: str) -> int:
    """A new TAP device of this process's network namespace; it goes with the descriptor. Raises OSError."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


def carry(near: int, far: int, lines: dict[int, DelayLine]) -> None:
    """Until a device is gone. ``lines``: by the descriptor that frames come from."""
    other = {near: far, far: near}
    poll = select.poll()
    for fd in other:
        poll.register(fd, select.POLLIN)
    while True:
        waiting = [line.next_at for line in lines.values() if line.next_at is not None]
        timeout_ms = max(0.0, (min(waiting) - time.monotonic()) * 1000) if waiting else None
        for fd, _ in poll.poll(timeout_ms):
            if not _read(fd, lines[fd]):
                return
        now = time.monotonic()
        for fd, line in lines.items():
            for frame in line.due(now):
                _write(other[fd], frame)


def _read(fd: int, line: DelayLine) -> bool:
    """Whether the device is still there."""
    for _ in range(BURST):
        try:
            line.push(os.read(fd, FRAME_BYTES), time.monotonic())
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def _write(fd: int, frame: bytes) -> None:
    """A device that is down or full loses it, as a cable does."""
    try:
        os.write(fd, frame)
    except OSError as error:
        if error.errno not in _BUSY:
            raise


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.cloud.cable_relay", description=__doc__.split("\n")[0])
    parser.add_argument("near", metavar="NEAR")
    parser.add_argument("far", metavar="FAR")
    for name in ("delay-ms", "jitter-ms", "loss-percent"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    asked = parser.parse_args()
    rng = random.Random()
    near, far = open_tap(asked.near), open_tap(asked.far)
    lines = {
        fd: DelayLine(rng, asked.delay_ms / 1000, asked.jitter_ms / 1000, asked.loss_percent / 100)
        for fd in (near, far)
    }
    print("ready", flush=True)
    carry(near, far, lines)


if __name__ == "__main__":
    main()
