"""bird2: started, told of changes, asked how its sessions are.

IO, blocking. One directory (mode 0700) holds its configuration, its log and its control socket. It is a daemon that
outlives us, as all that an agent makes: an agent that begins anew finds it by its socket. A change is written and then
`configure`d, which does not interrupt sessions that stay the same. One that ended is started by the next `run`, and
takes its neighbours' routes over (-R); its own stay in the kernel meanwhile.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

_ANSWER_S = 10.0
_START_S = 30.0


class BirdError(OSError):
    """bird is not installed, does not start, or refuses its configuration."""


class Bird:
    def __init__(self, directory: Path) -> None:
        self._config = directory / "bird.conf"
        self._control = directory / "bird.ctl"

    def run(self, config: str) -> None:
        """With this configuration from now on; nothing to do is fine. Raises BirdError."""
        runs = self.runs()
        if runs and self._config.exists() and self._config.read_text() == config:
            return
        self._config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._config.write_text(config)
        try:
            self._told() if runs else self._start()
        except BirdError:
            self._config.unlink()  # it is not what runs
            raise

    def runs(self) -> bool:
        try:
            return bool(self.ask("show status"))
        except BirdError:
            return False

    def ask(self, command: str) -> str:
        """The answer to one command of birdc(8). Raises BirdError."""
        try:
            with socket.socket(socket.AF_UNIX) as control:
                control.settimeout(_ANSWER_S)
                control.connect(str(self._control))
                _answer(control)  # its greeting
                control.sendall(command.encode() + b"\n")
                return _answer(control)
        except OSError as err:
            raise BirdError(f"bird does not answer: {err}") from err

    def stop(self) -> None:
        """It closes its sessions and ends; its routes stay. One that does not run is fine."""
        if self.runs():
            self.ask("down")

    def _told(self) -> None:
        answer = self.ask("configure")
        if "Reconfigur" not in answer:
            raise BirdError(f"bird refuses its configuration: {answer.strip()}")

    def _start(self) -> None:
        program = shutil.which("bird", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            raise BirdError("cni: bgp needs the program bird (Debian: bird2)")
        self._control.unlink(missing_ok=True)
        command = [program, "-R", "-c", str(self._config), "-s", str(self._control)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
        if done.returncode:
            raise BirdError(f"bird did not start: {(done.stderr or done.stdout).strip()}")


def _answer(control: socket.socket) -> str:
    """Lines begin with a code and "-" for more to come or " " for the last one; continued ones with a space (bird's
    doc/reply_codes)."""
    data = b""
    while chunk := control.recv(65536):
        data += chunk
        last = data.rstrip(b"\n").rpartition(b"\n")[2]
        if data.endswith(b"\n") and last[:4].isdigit() and last[4:5] == b" ":
            break
    lines = data.decode("utf-8", "replace").splitlines()
    return "\n".join(line[5:] if line[:4].isdigit() else line[1:] for line in lines)
