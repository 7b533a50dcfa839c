"""`sk8 completion SHELL`: a script that completes commands, options and their values. Pure, but for printing it.

It is written out from the parser once, so that pressing Tab starts no Python. zsh uses bash's script through its own
bashcompinit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.cli.help import subcommands

SHELLS = ("bash", "zsh", "fish")
_FILES = frozenset({"FILE", "DIR"})
_MACHINES = "ls /var/lib/sk8/machines 2>/dev/null"


@dataclass(frozen=True, slots=True)
class Level:
    """One command: what may follow it. `words`: its subcommands and its positional argument's choices; `options` with
    their help; `values`: what may follow an option, () for anything."""

    path: tuple[str, ...]
    words: dict[str, str]
    options: dict[str, str]
    values: dict[str, tuple[str, ...]]
    files: frozenset[str]
    machines: bool


def levels(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Level]:
    """The command and all below it."""
    below = subcommands(parser)
    words, options, values, files, machines = dict.fromkeys(below, ""), {}, {}, set(), False
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            words |= {c.dest: c.help or "" for c in action._choices_actions}
            continue
        if not action.option_strings:
            words |= dict.fromkeys(map(str, action.choices or ()), "")
            machines = machines or (action.metavar == "NAME" and path[:1] in (("machine",), ("link",)))
            continue
        for option in action.option_strings:
            options[option] = (action.help or "").replace("%(default)s", str(action.default))
            if action.nargs != 0:
                values[option] = tuple(map(str, action.choices or ()))
                if action.metavar in _FILES:
                    files.add(option)
    yield Level(path, words, options, values, frozenset(files), machines)
    for name, child in below.items():
        yield from levels(child, (*path, name))


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    found = list(levels(parser))
    if shell == "fish":
        return _fish(found)
    bash = _bash(found)
    return bash if shell == "bash" else f"#compdef sk8\nautoload -U +X bashcompinit && bashcompinit\n{bash}"


# ---- bash

_BASH = """\
# bash completion for sk8: source <(sk8 completion bash)
_sk8() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} path="" word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$path $word" in
{steps}
        esac
    done
    COMPREPLY=()
    case "$path $prev" in
{values}
    esac
    case "$path" in
{levels}
    esac
}}
complete -F _sk8 sk8
"""


def _bash(found: list[Level]) -> str:
    steps = [
        f'            "{" ".join(one.path[:-1])} {one.path[-1]}") path="{" ".join(one.path)}" ;;'
        for one in found
        if one.path
    ]
    values = []
    for level in found:
        for option, choices in level.values.items():
            words = f'-W "{" ".join(choices)}"' if choices else "-f" if option in level.files else ""
            reply = f'COMPREPLY=($(compgen {words} -- "$cur")); ' if words else ""
            values.append(f'        "{" ".join(level.path)} {option}") {reply}return ;;')
    return _BASH.format(steps="\n".join(steps), values="\n".join(values), levels="\n".join(map(_bash_level, found)))


def _bash_level(level: Level) -> str:
    machines = f" $({_MACHINES})" if level.machines else ""
    words, options = " ".join(level.words) + machines, " ".join(level.options)
    return (
        f'        "{" ".join(level.path)}") [[ $cur == -* ]] && COMPREPLY=($(compgen -W "{options}" -- "$cur")) '
        f'|| COMPREPLY=($(compgen -W "{words}" -- "$cur")) ;;'
    )


# ---- fish


def _fish(found: list[Level]) -> str:
    lines = ["# fish completion for sk8: sk8 completion fish | source", "complete -c sk8 -f"]
    for level in found:
        here = _fish_at(level, found)
        lines += [f"complete -c sk8 -n {here} -a {word}{_fish_help(text)}" for word, text in level.words.items()]
        if level.machines:
            lines.append(f"complete -c sk8 -n {here} -a '({_MACHINES})'")
        for option, text in level.options.items():
            flag = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            takes = ""
            if option in level.values:
                choices = level.values[option]
                takes = f" -x -a '{' '.join(choices)}'" if choices else " -r -F" if option in level.files else " -x"
            lines.append(f"complete -c sk8 -n {here} {flag}{takes}{_fish_help(text)}")
    return "\n".join(lines) + "\n"


def _fish_at(level: Level, found: list[Level]) -> str:
    """A condition: the words so far name this command, and none of those below it."""
    seen = [f"__fish_seen_subcommand_from {word}" for word in level.path]
    below = [one.path[-1] for one in found if one.path and one.path[:-1] == level.path]
    if not level.path:
        return "__fish_use_subcommand"
    if below:
        seen.append(f"not __fish_seen_subcommand_from {' '.join(below)}")
    return f"'{'; and '.join(seen)}'"


def _fish_help(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f" -d '{quoted}'" if text else ""
