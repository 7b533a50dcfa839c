"""bird2: started, told of changes, asked how its sessions are.

IO, blocking. One directory (mode 0700) holds its configuration, its log and its control socket. It is a daemon that
outlives us, as all that an agent makes; one that begins anew finds it by its socket. A change is `configure`d from a
file of its own, which does not interrupt sessions that stay the same. One that ended is started by the next `run`,
and takes over the routes that it left in the kernel (-R). Without any, as after a boot, it does not: it would announce
and believe nothing until all its neighbours are there, or two minutes have passed.

    BirdError                does not start, refuses its configuration, does not answer in time
        BirdAway             nobody is at its socket: it may be started

Invariant: bird.conf, where there is one, is what the bird that runs has taken; an agent that dies before bird has
answered leaves none, and the next one tells bird again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

from pyroute2 import IPRoute

_ANSWER_S = 10.0
_START_S = 30.0
_RTPROT_BIRD = 12
_MAIN_TABLE = 254


class BirdError(OSError):
    """bird is not installed, does not start, does not answer, or refuses its configuration."""


class BirdAway(BirdError):
    """No bird runs."""


class Bird:
    def __init__(self, directory: Path) -> None:
        self._config = directory / "bird.conf"
        self._next = directory / "bird.conf.next"
        self._control = directory / "bird.ctl"

    def run(self, config: str) -> None:
        """With this configuration from now on; nothing to do is fine. Raises BirdError."""
        self._config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.runs():
            self._start(config)
        elif not self._config.exists() or self._config.read_text() != config:
            self._configure(config)

    def runs(self) -> bool:
        """Raises BirdError when one is there and does not answer: a second one would take its sessions away."""
        try:
            self.ask("show status")
        except BirdAway:
            return False
        return True

    def ask(self, command: str) -> str:
        """The answer to one command of birdc(8). Raises BirdAway, BirdError."""
        try:
            with socket.socket(socket.AF_UNIX) as control:
                control.settimeout(_ANSWER_S)
                control.connect(str(self._control))
                _answer(control)  # its greeting
                control.sendall(command.encode() + b"\n")
                return _answer(control)
        except (FileNotFoundError, ConnectionError) as err:
            raise BirdAway(f"bird does not run: {err}") from err
        except OSError as err:
            raise BirdError(f"bird does not answer: {err}") from err

    def stop(self) -> None:
        """It closes its sessions and ends; its routes stay. One that does not run is fine."""
        with contextlib.suppress(BirdAway):  # it may end before it has answered
            self.ask("down")

    def _configure(self, config: str) -> None:
        self._config.unlink(missing_ok=True)
        self._next.write_text(config)
        answer = self.ask(f'configure "{self._next}"')
        if "Reconfigur" not in answer:
            raise BirdError(f"bird refuses its configuration: {answer.strip()}")
        self._next.rename(self._config)

    def _start(self, config: str) -> None:
        program = shutil.which("bird", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise BirdError("cni: bgp needs the program bird (Debian: bird2)")
        self._control.unlink(missing_ok=True)
        self._config.write_text(config)
        recover = ["-R"] if _routes_are_left() else []
        command = [program, *recover, "-c", str(self._config), "-s", str(self._control)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
        except subprocess.TimeoutExpired as err:
            raise BirdError(f"bird did not start within {_START_S:g} s") from err
        if done.returncode:
            raise BirdError(f"bird did not start: {(done.stderr or done.stdout).strip()}")


def _routes_are_left() -> bool:
    """Whether the kernel has routes of a bird that ended."""
    with IPRoute() as ipr:
        routes = ipr.route("dump", family=socket.AF_INET, proto=_RTPROT_BIRD)
        return any(r["proto"] == _RTPROT_BIRD and r.get("table", _MAIN_TABLE) == _MAIN_TABLE for r in routes)


def _answer(control: socket.socket) -> str:
    """Lines begin with a code and "-" for more to come or " " for the last one; continued ones with a space (bird's
    doc/reply_codes)."""
    data = b""
    while chunk := control.recv(65536):
        data += chunk
        last = data.rstrip(b"\n").rpartition(b"\n")[2]
        if data.endswith(b"\n") and last[:4].isdigit() and last[4:5] == b" ":
            break
    else:
        raise ConnectionError("it ended amid its answer")
    lines = data.decode("utf-8", "replace").splitlines()
    return "\n".join(line[5:] if line[:4].isdigit() else line[1:] for line in lines)
