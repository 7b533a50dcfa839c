"""The libraries that can make the store's members agree, by the name that ``StateConfig.engine`` uses. IO."""

from __future__ import annotations

from raft.config import StateConfig
from raft.engine import OpenLog
from raft.engines.native import open_native
from raft.storage.identity import StateDirectory


def open_log(config: StateConfig, directory: StateDirectory) -> OpenLog:
    """Raises storage.errors.StorageError; errors.Invalid if the engine is not installed or was not used here before."""
    return open_native(config, directory)
