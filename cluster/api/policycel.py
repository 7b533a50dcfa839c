"""CEL in admission policies and match conditions: which variables there are, and how objects are constructed.

Pure. Mutating policies construct typed objects, `Object{spec: Object.spec{replicas: 1}}` and `JSONPatch{op: "add"}`.
Our engine has no such types, and what counts is the value: `to_maps` makes a construction a map literal before the
expression is compiled. The type's name goes, the fields' names become strings; everything else, strings and comments
above all, stays as it is.
"""

from __future__ import annotations

import re

from cluster.api import cel

VARIABLES = ("object", "oldObject", "request", "params", "namespaceObject", "authorizer", "variables")
CONDITION_VARIABLES = ("object", "oldObject", "request", "authorizer")


def policy_environment() -> cel.Environment:
    return cel.environment(*VARIABLES)


def condition_environment() -> cel.Environment:
    """Of webhooks' match conditions; those of policies may name `params` and the namespace too."""
    return cel.environment(*CONDITION_VARIABLES)


_TOKEN = re.compile(
    r"""
      (?P<comment>//[^\n]*)
    | (?P<string>[rRbB]{0,2}(?:\"\"\"(?:\\.|(?!\"\"\").)*\"\"\"|'''(?:\\.|(?!''').)*'''
                              |"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    | (?P<type>(?:Object(?:\.[A-Za-z_]\w*)*|JSONPatch)(?=\s*\{))
    | (?P<name>[A-Za-z_]\w*|`[^`]*`)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.X | re.S,
)


def to_maps(expression: str) -> str:
    """The expression with every construction as a map literal."""
    out: list[str] = []
    frames: list[str] = []  # of open brackets: "message", "{" of a map, "(" and "["
    construct = expects_field = False
    before = ""  # the last token that is not space
    for m in _TOKEN.finditer(expression):
        kind, text = str(m.lastgroup), m.group()
        if kind == "type" and before != ".":
            construct = True
            continue
        if kind in ("space", "comment"):
            out.append(text)
            continue
        if text == "{":
            frames.append("message" if construct else "{")
            expects_field, construct = construct, False
        elif text in ("(", "["):
            frames.append(text)
            expects_field = False
        elif text in ("}", ")", "]"):
            if frames:
                frames.pop()
            expects_field = False
        elif text == "," and frames and frames[-1] == "message":
            expects_field = True
        elif kind in ("name", "type") and expects_field:
            text, expects_field = f'"{text.strip("`")}"', False
        elif text != "?":
            expects_field = False
        out.append(text)
        before = text
    return "".join(out)
