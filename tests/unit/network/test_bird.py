"""When bird is started, told again, or left alone: a bird that is played, at a real control socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.network import bird
from cluster.network.bird import Bird, BirdError

CONFIG = "router id 10.89.77.11;\n"


class Played:
    """Answers as bird does; `answers` False: takes connections and says nothing."""

    def __init__(self, control: Path) -> None:
        self.asked: list[str] = []
        self.answers = True
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(control))
        self._listener.listen()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(conn)
            if self.answers:
                self._answer(conn)

    def _answer(self, conn: socket.socket) -> None:
        conn.sendall(b"0001 BIRD 2.0.12 ready.\n")
        self.asked.append(conn.recv(1000).decode().strip())
        conn.sendall(b"0003 Reconfigured\n" if self.asked[-1].startswith("configure") else b"0013 Daemon is up\n")

    @property
    def configured(self) -> int:
        return sum(command.startswith("configure") for command in self.asked)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in (self._listener, *self._open):
            sock.close()


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    daemon = Played(tmp_path / "bird.ctl")
    yield daemon
    daemon.close()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes the program bird of a script; the file that it returns is there once the program was started."""
    started = tmp_path / "started"

    def make(script: str) -> Path:
        path = tmp_path / "bin" / "bird"
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\necho "$@" > {started}\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
        return started

    return make


def test_a_bird_that_does_not_answer_is_not_started_a_second_time(
    played: Played, program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = program("exit 0")
    monkeypatch.setattr(bird, "_ANSWER_S", 0.2)
    played.answers = False
    with pytest.raises(BirdError, match="does not answer"):
        Bird(tmp_path).run(CONFIG)
    assert not started.exists() and (tmp_path / "bird.ctl").exists()


def test_a_bird_is_told_what_an_agent_that_died_had_not_told_it(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bird(tmp_path).run(CONFIG)
    ask = Bird.ask

    def die(self: Bird, command: str) -> str:
        if command.startswith("configure"):
            raise SystemExit
        return ask(self, command)

    with monkeypatch.context() as patch:
        patch.setattr(Bird, "ask", die)
        with pytest.raises(SystemExit):
            Bird(tmp_path).run(CONFIG + "# more\n")
    assert played.configured == 1
    for _ in range(2):
        Bird(tmp_path).run(CONFIG + "# more\n")
    assert played.configured == 2, "told once, and then it knows"


def test_a_bird_that_does_not_start_in_time_is_an_error_of_birds(
    program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("exec sleep 600")
    monkeypatch.setattr(bird, "_START_S", 0.2)
    with pytest.raises(BirdError, match=r"did not start within 0\.2 s"):
        Bird(tmp_path).run(CONFIG)


@pytest.mark.parametrize("left", [True, False])
def test_routes_are_taken_over_only_where_there_are_any(
    program: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    """Regression: a machine that booted while another was off announced nothing for two minutes."""
    started = program("exit 0")
    monkeypatch.setattr(bird, "_routes_are_left", lambda: left)
    Bird(tmp_path).run(CONFIG)
    assert ("-R" in started.read_text().split()) is left


def test_a_bird_that_runs_and_knows_is_left_alone(played: Played, tmp_path: Path) -> None:
    for _ in range(2):
        Bird(tmp_path).run(CONFIG)
    assert played.asked == ["show status", f'configure "{tmp_path / "bird.conf.next"}"', "show status"]
    assert (tmp_path / "bird.conf").read_text() == CONFIG
