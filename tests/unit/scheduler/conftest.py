"""A running scheduler for the tests of its shell."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.scheduler.shell import Cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster.running() as made:
        yield made
