"""What holds for all tests. They import each other's helpers from the root: `tests.support.memory_store`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A busy box is no failure: neither an example that took long, nor that drawing them did.
settings.register_profile("sk8", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sk8")


def pytest_addoption(parser: pytest.Parser) -> None:
    text = (
        "write what happens into the scripts that say what must happen (tests/unit/raft_core/scripts): review the diff"
    )
    parser.addoption("--rewrite", action="store_true", help=text)
