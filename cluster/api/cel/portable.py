"""Expressions in terms that the engine's binding can evaluate.

Pure, text to text. Three things of Kubernetes' CEL have no counterpart in the binding, and become something that has:

    x.indexOf(y), x.lastIndexOf(y)    x.index0f(y): the engine declares them for strings only, ours takes lists as well
    format.named(n), f.validate(s)    optional.ofNonZeroValue(...): functions in Python cannot return an optional
    m.transformMap(k, v, [f,] t)      m.transformList(k, v, [f,] {k: t}).merged(): the engine has the macro, but not the
    m.transformMapEntry(k, v, [f,] e)     function that it expands to

`readable` puts the names back in the engine's messages; a column behind a changed call may be off.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<string>[rR][bB]?(?:"{3}.*?"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')"""
    r"""|[bB]?(?:"{3}(?:\\.|[^\\])*?"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))"""
    r"""|(?P<space>\s+|//[^\n]*)|(?P<name>[A-Za-z_]\w*|`[^`\n]*`|\d[\w.]*)|(?P<dot>\.)|(?P<open>[(\[{])|(?P<close>[)\]}])"""
    r"""|(?P<other>.)""",
    re.S,
)
_TOUCHED = re.compile(r"\b(indexOf|lastIndexOf|validate|named|transformMap|transformMapEntry)\s*\(")
INDEX, LAST_INDEX, MERGED = "index0f", "lastIndex0f", "merged"


@dataclass(slots=True)
class _Piece:
    """`kind`: name, string, dot, space, other, or group: brackets and all between them, rewritten already."""

    kind: str
    text: str
    arguments: tuple[str, ...] = ()


def portable(expression: str) -> str:
    """The same text when nothing in it needs another form. Brackets that do not match are the engine's to refuse."""
    if not _TOUCHED.search(expression):
        return expression
    tokens = [(m.lastgroup or "other", m.group()) for m in _TOKEN.finditer(expression)]
    pieces, end = _pieces(tokens, 0)
    return "".join(p.text for p in pieces) if end == len(tokens) else expression


def readable(message: str) -> str:
    return message.replace(INDEX, "indexOf").replace(LAST_INDEX, "lastIndexOf")


def _pieces(tokens: list[tuple[str, str]], at: int) -> tuple[list[_Piece], int]:
    """Rewritten pieces from `at` to the bracket that closes them, and where that is."""
    out: list[_Piece] = []
    while at < len(tokens) and tokens[at][0] != "close":
        kind, text = tokens[at]
        if kind != "open":
            out.append(_Piece(kind, text))
            at += 1
            continue
        inner, end = _pieces(tokens, at + 1)
        closing = tokens[end][1] if end < len(tokens) else ""
        out.append(_Piece("group", text + "".join(p.text for p in inner) + closing, _split(inner)))
        at = end + 1
        if text == "(":
            _rewrite_call(out)
    return out, min(at, len(tokens))


def _split(pieces: list[_Piece]) -> tuple[str, ...]:
    """The arguments between brackets."""
    parts: list[str] = [""]
    for p in pieces:
        if p.kind == "other" and p.text == ",":
            parts.append("")
        else:
            parts[-1] += p.text
    return tuple(part.strip() for part in parts)


def _before(pieces: list[_Piece], at: int) -> int:
    """The index of the last piece before `at` that is not space; -1 when there is none."""
    at -= 1
    while at >= 0 and pieces[at].kind == "space":
        at -= 1
    return at


def _receiver(pieces: list[_Piece], dot: int) -> int:
    """Where the operand begins that the dot at `dot` belongs to."""
    while True:
        at = _before(pieces, dot)
        while at > 0 and pieces[at].kind == "group":
            before = _before(pieces, at)
            if before < 0 or pieces[before].kind not in ("name", "group") or pieces[before].text == "in":
                break  # a list, a map or brackets of its own
            at = before
        before = _before(pieces, at)
        if before < 0 or pieces[before].kind != "dot":
            return max(at, 0)
        dot = before


def _rewrite_call(pieces: list[_Piece]) -> None:
    """Change the call that `pieces` now ends with, if it is one that needs another form."""
    at = _before(pieces, len(pieces) - 1)
    if at < 1 or pieces[at].kind != "name":
        return
    rewrite, dot = _CALLS.get(pieces[at].text), _before(pieces, at)
    if rewrite is not None and dot >= 0 and pieces[dot].kind == "dot":
        rewrite(pieces, at, _receiver(pieces, dot))


def _renamed(name: str) -> Callable[[list[_Piece], int, int], None]:
    def rewrite(pieces: list[_Piece], at: int, start: int) -> None:
        pieces[at].text = name

    return rewrite


def _optional(pieces: list[_Piece], at: int, start: int) -> None:
    call = "".join(p.text for p in pieces[start:])
    pieces[start:] = [_Piece("name", "optional.ofNonZeroValue"), _Piece("group", f"({call})")]


def _named(pieces: list[_Piece], at: int, start: int) -> None:
    if pieces[start].text == "format":
        _optional(pieces, at, start)


def _transformed(pieces: list[_Piece], at: int, start: int) -> None:
    group = pieces[-1]
    if len(group.arguments) not in (3, 4):
        return
    *head, last = group.arguments
    made = last if pieces[at].text == "transformMapEntry" else f"{{{head[0]}: {last}}}"
    pieces[at].text = "transformList"
    group.text = f"({', '.join([*head, made])})"
    pieces += [_Piece("dot", "."), _Piece("name", MERGED), _Piece("group", "()")]


_CALLS = {
    "indexOf": _renamed(INDEX),
    "lastIndexOf": _renamed(LAST_INDEX),
    "validate": _optional,
    "named": _named,
    "transformMap": _transformed,
    "transformMapEntry": _transformed,
}
