"""What `sk8` and `sk8 --help` say: the commands in groups, as one looks for them. Pure."""

from __future__ import annotations

import argparse
from typing import Any

GROUPS = {
    "Clusters": ("up", "down", "upgrade", "configure", "kubeconfig", "machine", "node", "link", "image", "hollow"),
    "Clusters of VMs": ("init", "join", "reset", "token"),
    "Seeing": ("status", "top", "events", "trace", "explain", "dashboard", "doctor", "dump"),
    "The store": ("snapshot", "member", "store"),
    "Trying": ("chaos", "bench"),
    "Others": ("completion", "version", "host-agent"),
}
_TAIL = """\
Exit codes:
  0  done    1  it failed; the error says what to do    2  wrong usage    3  the cluster is not healthy (status, doctor)

Environment:
  KUBECONFIG    where `sk8 up` puts the context `sk8` (default ~/.kube/config)
  NO_COLOR      no colours, also on a terminal

Examples:
  sk8 up --machines 5 --control-planes 3 --cni vxlan     # five machines on this box
  sk8 up --profile kubernetes                            # with the times of a stock cluster
  sk8 status -w                                          # how it is, again and again
  sk8 trace web-7d4b9c-x2x1z                             # how a pod came to run
  source <(sk8 completion bash)

Use "sk8 COMMAND --help" for a command's options. Daily work is kubectl's.
"""


class GroupedParser(argparse.ArgumentParser):
    """The root parser. Its help lists subcommands by `GROUPS`; one that is in no group would not be found."""

    def format_help(self) -> str:
        commands = subcommands(self)
        if not commands:
            return super().format_help()
        width = max(map(len, commands)) + 2
        about = {action.dest: action.help or "" for action in _choices_of(self)}
        parts = [f"{self.description}\n\nUsage: sk8 COMMAND [options]\n"]
        for title, names in GROUPS.items():
            lines = [f"  {name:<{width}}{about[name]}" for name in names if name in about]
            parts.append("\n".join([f"{title}:", *lines, ""]))
        return "\n".join([*parts, _TAIL])


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """By name; {} of a command that has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _choices_of(parser: argparse.ArgumentParser) -> list[Any]:
    """The subcommands with their one line of help."""
    return [c for a in parser._actions if isinstance(a, argparse._SubParsersAction) for c in a._choices_actions]
