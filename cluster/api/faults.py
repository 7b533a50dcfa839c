"""Named points in shipped code where a test may delay, fail or kill a part; off by default. Pure.

A part takes a `Hit` and calls it at its points, with what the point is about (a key, a name). `no_fault` does nothing.
What is injected, and how it is told, is `raft/faults.py`; `actors` joins the two.
"""

from __future__ import annotations

from collections.abc import Callable

Hit = Callable[[str, str], None]
"""(point, what it is about). Raises OSError where a test wants the part to fail."""


def no_fault(_point: str, _about: str) -> None:
    """Nothing is injected."""
