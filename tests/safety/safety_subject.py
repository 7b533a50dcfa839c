"""One member of a group of three, spoken to directly: what a rule of the safety suite may do to it and see of it.

The member under test is 1; the rule plays members 2 and 3 and the clock. Positions count the entries after the group's
founding, from 1; (0, 0) is what comes before the first. Terms in rules start at 2, as a group is founded in term 1.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Item(NamedTuple):
    term: int
    data: bytes


class Refused(Exception):
    """The member does not start, or stopped by itself; the text is its own."""


class Subject(Protocol):
    name: str

    def wait(self, ms: float) -> None:
        """Time passes."""

    # --- others speak to it; what it answers to that, None if nothing

    def vote(self, candidate: int, term: int, position: int, log_term: int) -> bool | None: ...

    def append(
        self, leader: int, term: int, position: int, log_term: int, items: list[Item], commit: int
    ) -> bool | None: ...

    def vote_answer(self, voter: int, term: int, granted: bool) -> None: ...

    def append_answer(self, follower: int, term: int, position: int) -> None:
        """``follower`` says that it has everything up to there."""

    # --- it does something by itself

    def stand(self) -> int:
        """Its time-out has passed: the term it is a candidate in, having asked for votes."""

    def lead(self) -> int:
        """Stand, and be elected by member 2. The term."""

    def propose(self, data: bytes) -> None: ...

    def read(self) -> None:
        """Ask for a linearizable read; ``reads_served`` counts."""

    # --- looking

    @property
    def term(self) -> int: ...
    @property
    def leads(self) -> bool: ...
    @property
    def items(self) -> list[Item]:
        """The log, without what leaders put there for themselves."""

    @property
    def positions(self) -> int:
        """The position of the log's last entry, of whatever kind."""

    @property
    def applied(self) -> list[bytes]: ...
    @property
    def reads_served(self) -> int: ...

    # --- its machine; all three start it again. Raise Refused

    def kill(self) -> None:
        """SIGKILL: what was written stays."""

    def cut_power(self) -> None:
        """What was written and not synced is gone."""

    def tear(self) -> None:
        """Killed in the middle of writing its last record."""

    def damage(self) -> None:
        """A byte in the middle of its log is another one now."""

    def fail_sync(self) -> None:
        """From now on the disk takes nothing. Does not start it again."""

    def close(self) -> None: ...
