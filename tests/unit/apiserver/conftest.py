"""One set of keys and certificates for the room's tests."""

from pathlib import Path

import pytest

from tests.support.apiserver_harness import Pki


@pytest.fixture(scope="session")
def pki(tmp_path_factory) -> Pki:
    root: Path = tmp_path_factory.mktemp("pki")
    made = Pki(root)
    made.issue("alice", "alice", ("dev",))
    made.issue("m1", "system:node:m1", ("system:nodes",))
    return made
