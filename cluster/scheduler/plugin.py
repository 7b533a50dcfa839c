"""Filters and scores of your own: Python classes, named in the configuration, that look at all nodes at once.

    class Cheapest:
        static = True                                   # follows from nodes and pod alone, not from what runs where

        def __init__(self, args):                       # the plugin's pluginConfig args, {} without
            self.key = args.get("label", "price")

        def filter(self, pod, nodes):                   # bool[N]: the nodes that may run the pod
            return nodes.label(self.key) != ""

        def score(self, pod, nodes):                    # float[N]: 0 to 100
            return 100 - nodes.number(self.key)

Either method may be missing. `pod` is a `PodShape`, `nodes` a `Nodes`; both are to be read, not changed. A plugin whose
answer depends on other pods leaves `static` out: then every pod is asked about by itself.
Loading imports modules; everything else here is pure. What a plugin gets wrong is a `PluginError` in kube-scheduler's
words, which keeps that pod waiting and says so on it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.scheduler.columns import Floats, NodeColumns
from cluster.scheduler.filters import Ask, Mask, Rejection
from cluster.scheduler.shape import PodShape


class PluginError(RuntimeError):
    """A plugin raised, or answered what it must not."""


class Nodes:
    """The nodes as a plugin sees them. Position i is the same node in every array of one call; `alive[i]` is False
    where there is none, and what a plugin says there does not matter."""

    def __init__(self, columns: NodeColumns) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return self._columns.size

    @property
    def names(self) -> list[str]:
        return self._columns.names

    @property
    def alive(self) -> Mask:
        return self._columns.alive

    def label(self, key: str) -> NDArray[np.str_]:
        """Each node's value of a label, "" where it has none."""
        column = self._columns.label(key)
        values = np.array([*column.values, ""], dtype=np.str_)
        result: NDArray[np.str_] = values[column.codes]
        return result

    def number(self, key: str, default: float = 0.0) -> Floats:
        """The same as a number, `default` where it is none."""
        found = self._columns.label(key).numeric()
        return np.where(np.isnan(found), default, found)

    def allocatable(self, resource: str) -> Floats:
        """In millicores, bytes or units; 0 where there is none of it."""
        return self._amounts(self._columns.allocatable, resource)

    def requested(self, resource: str) -> Floats:
        """By the pods that are there, or assumed to be."""
        return self._amounts(self._columns.requested, resource)

    def _amounts(self, table: Floats, resource: str) -> Floats:
        row = self._columns.resources.get(resource)
        return np.zeros(self._columns.size) if row is None else table[row].copy()


@dataclass(frozen=True, slots=True, eq=False)
class Plugin:
    """A plugin that was loaded under `name`."""

    name: str
    instance: Any

    @property
    def static(self) -> bool:
        return bool(getattr(self.instance, "static", False))

    @property
    def filters(self) -> bool:
        return hasattr(self.instance, "filter")

    @property
    def scores(self) -> bool:
        return hasattr(self.instance, "score")

    @property
    def reason(self) -> str:
        """What is said of nodes that it refuses."""
        return str(getattr(self.instance, "reason", f"node(s) were refused by plugin {self.name}"))

    def filter(self, ask: Ask) -> list[Rejection]:
        """The rows that it refuses. Raises PluginError."""
        mask = self._asked("filter", ask.columns, ask.shape, self._rejected)
        return [Rejection(mask, self.reason, None if self.static else mask)]

    def score(self, columns: NodeColumns, shape: PodShape) -> Floats:
        """0 to 100 by row. Raises PluginError."""
        found: Floats = self._asked("score", columns, shape, self._score)
        return found

    def _asked(
        self, point: str, columns: NodeColumns, shape: PodShape, ask: Callable[[NodeColumns, PodShape], Any]
    ) -> Any:
        try:
            if self.static:
                return columns.memo((point, self.name, shape), lambda: ask(columns, shape))
            return ask(columns, shape)
        except PluginError:
            raise
        except Exception as error:  # whatever a plugin raises is its own; the pod's condition says it
            raise PluginError(f'running "{self.name}" {point} plugin: {error}') from error

    def _rejected(self, columns: NodeColumns, shape: PodShape) -> Mask:
        answer = np.asarray(self.instance.filter(shape, Nodes(columns)))
        if answer.shape != (columns.size,) or answer.dtype != np.bool_:
            said = f"an array of {answer.dtype}{answer.shape}"
            raise PluginError(f'running "{self.name}" filter plugin: it returned {said}, not bool({columns.size},)')
        return ~answer

    def _score(self, columns: NodeColumns, shape: PodShape) -> Floats:
        answer = np.asarray(self.instance.score(shape, Nodes(columns)), dtype=np.float64)
        if answer.shape != (columns.size,):
            raise PluginError(
                f'running "{self.name}" score plugin: it returned an array of {answer.shape}, not ({columns.size},)'
            )
        wrong = columns.alive & ~((answer >= 0) & (answer <= 100))
        if wrong.any():
            raise PluginError(
                f'plugin "{self.name}" returns an invalid score {answer[wrong][0]:g}, '
                "it should in the range of [0, 100] after normalizing"
            )
        result: Floats = np.where(columns.alive, np.floor(answer), 0.0)
        return result


def load(name: str, args: Mapping[str, Any]) -> Plugin:
    """The class that `package.module:Class` names, made with its args. Raises ValueError saying what is wrong."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(f'plugin "{name}" does not exist: name one of kube-scheduler\'s, or package.module:Class')
    try:
        made = getattr(importlib.import_module(module), attribute)(dict(args))
    except Exception as error:
        raise ValueError(f'plugin "{name}" does not exist or cannot be made: {error}') from error
    plugin = Plugin(name, made)
    if not plugin.filters and not plugin.scores:
        raise ValueError(f'plugin "{name}" has neither a filter nor a score method')
    return plugin
