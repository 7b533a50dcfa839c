"""Help and completion know every command; bash completes what it should."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest

from cluster.cli.completion import SHELLS, levels, script
from cluster.cli.help import GROUPS, subcommands
from cluster.cli.main import main, parser


def test_every_command_is_in_one_group_of_the_help_and_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    listed = [name for names in GROUPS.values() for name in names]
    assert sorted(listed) == sorted(subcommands(parser()))
    assert main([]) == 0
    text = capsys.readouterr().out
    for name in listed:
        [line] = [line for line in text.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 2, line


def test_every_option_of_every_command_has_a_help() -> None:
    for level in levels(parser()):
        assert all(text for text in level.options.values()), level


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_names_every_command(shell: str) -> None:
    text = script(parser(), shell)
    for level in levels(parser()):
        assert all(word in text for word in (*level.path, *level.words, *(o.lstrip("-") for o in level.options)))


def completed(line: str) -> set[str]:
    """What bash offers at the end of `line`."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    ask = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _sk8; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(
        ["bash", "-c", f"{script(parser(), 'bash')}\n{ask}"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sk8 sta", {"status"}),
        ("sk8 machine ", {"list", "add", "remove", "forget", "kill", "start", "stop", "restart", "renew"}),
        ("sk8 machine kill --qu", {"--quiet"}),
        ("sk8 up --cni ", set()),
        ("sk8 status -o ", {"table", "json"}),
        ("sk8 completion ", set(SHELLS)),
        ("sk8 chaos r", {"run"}),
    ],
)
def test_bash_completes(line: str, offered: set[str]) -> None:
    assert completed(line) == offered


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "sk8.fish"
    path.write_text(script(parser(), "fish"))
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {path}; complete -C 'sk8 machine '"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"list", "kill", "start", "stop"}
