"""What several modules of integration tests stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.node_world import build_image, remove_image


@pytest.fixture(scope="module")
def node_image() -> Iterator[None]:
    """The image that kubelet tests run, in the engine for as long as a module needs it."""
    build_image()
    yield
    remove_image()
