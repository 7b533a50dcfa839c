"""The walkthrough fails when a machine has not seen the Service, and says which machine, and what of it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def walkthrough(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3] / "infra"))
    return importlib.import_module("walkthrough")


def test_what_no_machine_misses_is_no_failure(walkthrough: Any) -> None:
    walkthrough.check({"m1": (1.0, 2.0), "m2": (2.0, 1.0)}, "10.96.0.7")
    walkthrough.check({}, "10.96.0.7")


@pytest.mark.parametrize(
    ("seen", "missing"),
    [((0.0, 2.0), "m2 does not reach 10.96.0.7:80"), ((1.0, 0.0), "m2 does not resolve the Service's name")],
)
def test_what_a_machine_misses_is_named(walkthrough: Any, seen: tuple[float, float], missing: str) -> None:
    with pytest.raises(SystemExit, match=missing):
        walkthrough.check({"m1": (1.0, 1.0), "m2": seen}, "10.96.0.7")
