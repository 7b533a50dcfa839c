"""`--output json` of commands that do something: what was done, or what went wrong, on standard output."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from cluster.cli.help import subcommands
from cluster.cli.main import main, parser
from cluster.cli.output import CommandError, Output

WITHOUT = {"bench", "completion", "dashboard", "dump", "host-agent"}
"""They run a program, print a script, serve, or write an archive."""


def every(found: argparse.ArgumentParser, path: str = "") -> dict[str, argparse.ArgumentParser]:
    below = subcommands(found)
    if not below:
        return {path: found}
    return {name: leaf for word, one in below.items() for name, leaf in every(one, f"{path} {word}".strip()).items()}


def test_every_command_speaks_json() -> None:
    silent = {name for name, leaf in every(parser()).items() if "--output" not in leaf._option_string_actions}
    assert silent == WITHOUT


def test_what_was_done_and_how_long_it_took() -> None:
    out = Output(quiet=True, err=io.StringIO())
    with out.step("machine m2 is off") as step:
        step.update("at last")
    out.say("The cluster is down.")
    out.warn("m3 is slow.", "sk8 doctor")
    with pytest.raises(CommandError), out.step("machine m3 is off"):
        raise CommandError("no answer", "sk8 status")
    told = json.loads(out.summary(CommandError("no answer", "sk8 status")))
    assert [step.pop("seconds") >= 0 for step in told["steps"]] == [True, True]
    assert told == {
        "done": False,
        "error": "no answer",
        "try": "sk8 status",
        "steps": [
            {"step": "machine m2 is off", "detail": "at last", "done": True},
            {"step": "machine m3 is off", "detail": "", "done": False},
        ],
        "messages": ["The cluster is down.", "m3 is slow. sk8 doctor"],
    }


@pytest.mark.parametrize(
    "command", [["machine", "kill", "m2"], ["upgrade", "--rollback"], ["status"], ["member", "list"]]
)
def test_a_command_that_fails_says_so_as_json(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "-o", "json", "--base", str(tmp_path / "none")]) == 1
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["done"], told["try"]) == (False, "sk8 up makes one") and "there is no cluster" in told["error"]
    assert "error: there is no cluster" in said.err
