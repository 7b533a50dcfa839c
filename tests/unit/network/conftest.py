"""A DNS server and an upstream resolver, for tests that need the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.dns_server import Running, Upstream, running_servers, running_upstream


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with running_servers() as start:
        yield start


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as made:
        yield made
