"""What a pod's core asks for while it handles one event.

Pure. Actions keep the order they were added in, and each names its cause: the number of the event that led to it.
"""

from __future__ import annotations

from typing import Literal

from cluster.node.core_events import Action, Emit


class Output:
    def __init__(self) -> None:
        self.cause = 0
        self.actions: list[Action] = []
        self.taken: list[Action] = []  # what the last event led to

    def begin(self) -> None:
        """The next event: what is added from now on is for it."""
        self.cause += 1

    def add(self, action: Action) -> None:
        self.actions.append(action)

    def emit(self, type_: Literal["Normal", "Warning"], reason: str, message: str, container: str = "") -> None:
        self.add(Emit(type_, reason, message, self.cause, container))

    def take(self) -> list[Action]:
        self.taken, self.actions = self.actions, []
        return self.taken
