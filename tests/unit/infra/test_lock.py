"""requirements.lock: everything pinned, by hash, and nothing that says where it came from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ENTRY = re.compile(r"^([a-z0-9._-]+)==(\S+)(.*?)(?=^[a-z0-9]|\Z)", re.MULTILINE | re.DOTALL)


def entries() -> dict[str, str]:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in re.sub(r"#.*", "", text)
    return {match[1]: match[3] for match in ENTRY.finditer(text)}


def test_every_package_is_pinned_by_hash() -> None:
    found = entries()
    assert len(found) > 100
    assert [name for name, rest in found.items() if "--hash=sha256:" not in rest] == []


def test_all_that_is_declared_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[<>=\[;]", one)[0].strip().lower() for one in declared}
    assert names - entries().keys() == set()
