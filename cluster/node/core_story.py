"""What a core remembers of its past: its first events and its last, with what each of them caused. Pure.

Of pods and statuses only what tells them apart is kept: 200 whole objects would be megabytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from cluster.node import core_events as ev
from cluster.node.core_events import Action, Event

Step = tuple[int, float, Event, tuple[Action, ...]]
"""(number, time, event, actions)."""
_BEGINNING = 40  # kept for good: how the pod came to run
_LATELY = 200


class Story:
    def __init__(self) -> None:
        self._beginning: list[Step] = []
        self._lately: deque[Step] = deque(maxlen=_LATELY)

    def add(self, number: int, now: float, event: Event, actions: Sequence[Action]) -> None:
        kept = self._beginning if len(self._beginning) < _BEGINNING else self._lately
        kept.append((number, now, _brief_event(event), tuple(map(_brief_action, actions))))

    def steps(self) -> list[Step]:
        return [*self._beginning, *self._lately]


def _brief_event(event: Event) -> Event:
    if not isinstance(event, ev.PodSeen):
        return event
    meta = event.pod["metadata"]
    kept = {k: meta[k] for k in ("name", "resourceVersion", "generation", "deletionTimestamp") if k in meta}
    return ev.PodSeen({"metadata": kept})


def _brief_action(action: Action) -> Action:
    if not isinstance(action, ev.Report):
        return action
    return ev.Report({k: action.status[k] for k in ("phase", "reason") if k in action.status}, action.cause)
