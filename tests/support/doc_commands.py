"""The commands of a page of docs/: lines that begin with `$ ` in its ```console blocks, in their order."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[list[str]]:
    found = _BLOCK.findall((DOCS / page).read_text())
    return [[line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")] for block in found]


def commands(page: str) -> list[str]:
    return [command for block in blocks(page) for command in block]
