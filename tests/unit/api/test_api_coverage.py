"""docs/api-coverage.md says what the code serves."""

from __future__ import annotations

from pathlib import Path

from cluster.api import coverage
from cluster.api.scheme import EDGE, SCHEME

ROOT = Path(__file__).parents[3]


def test_the_page_is_current() -> None:
    assert (ROOT / coverage.PAGE).read_text() == coverage.page(), "run: python -m cluster.api.coverage"


def test_every_kind_has_a_row() -> None:
    text = coverage.page()
    for info in (*SCHEME.served(), *EDGE):
        assert f"| {info.api_version} | {info.kind} |" in text
