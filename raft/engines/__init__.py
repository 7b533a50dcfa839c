"""The libraries that can make the store's members agree, by the name that ``StateConfig.engine`` uses. IO."""

from __future__ import annotations

from raft.config import StateConfig
from raft.engine import OpenLog
from raft.engines.native import open_native
from raft.engines.raftos_log import folder_of, open_raftos
from raft.errors import Invalid
from raft.storage.identity import StateDirectory


def open_log(config: StateConfig, directory: StateDirectory) -> OpenLog:
    """Raises storage.errors.StorageError; errors.Invalid if the engine is not installed or another one wrote here."""
    if config.engine == "raftos":
        return open_raftos(config, directory)
    if folder_of(directory.path).exists():
        raise Invalid(f"{directory.path}: this member was written by the engine raftos: set engine to raftos")
    return open_native(config, directory)
