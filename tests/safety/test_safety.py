"""The native engine keeps every rule; raftos breaks exactly those that docs/consensus.md says, and so it is an extra.

A rule that raftos suddenly kept would mean that somebody patched it silently, or that the rule tests nothing.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from tests.safety import safety_table
from tests.safety.native_subject import NativeSubject
from tests.safety.rules import RULES, Rule

DOCUMENT = Path(__file__).parents[2] / "docs/consensus.md"
SEEDS = 6


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("raft.engines").setLevel(logging.ERROR)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)
def test_the_native_engine_keeps_the_rule(rule: Rule) -> None:
    assert safety_table.broken(NativeSubject, rule.check) == ""


def test_the_documentation_shows_what_each_engine_keeps() -> None:
    found = safety_table.rows(SEEDS)
    print(safety_table.markdown(found))
    shown = re.search(r"\| rule \| native \| raftos \|\n(?:\|.*\n)+", DOCUMENT.read_text())
    assert shown is not None, "docs/consensus.md has lost its table"
    assert shown[0] == safety_table.markdown(found), "run `make safety` and put its table into docs/consensus.md"
