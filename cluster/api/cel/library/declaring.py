"""Telling the engine of functions: an overload is its parameters' types, its result's type and a Python callable.

Pure. All values of types of their own are maps to the engine, so their overloads differ in the name or in the number of
parameters, or look at what they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.api.cel.library.values import Value

Types = list[Any]


class Declarations:
    """Overloads by function name, and the engine's types: `items` is list<dyn>, `value` a map (see `values`)."""

    def __init__(self, cel: Any) -> None:
        self._cel = cel
        self._overloads: dict[str, list[Any]] = {}
        types = cel.Type
        self.dyn, self.text, self.boolean, self.integer = types.DYN, types.STRING, types.BOOL, types.INT
        self.double = types.DOUBLE
        self.items, self.texts = types.List(types.DYN), types.List(types.STRING)
        self.value = types.Map(types.STRING, types.DYN)
        self.texts_by_name = types.Map(types.STRING, self.texts)
        self.mapping = types.Map(types.DYN, types.DYN)
        plain = (types.UINT, types.BYTES, types.TIMESTAMP, types.DURATION)
        self.of_any_type = (self.text, self.integer, self.boolean, self.double, *plain, self.items, self.value)

    def method(self, name: str, params: Types, result: Any, impl: Callable[..., Any]) -> None:
        """`x.name(y)`: the first parameter is x."""
        self._add(name, params, result, impl, is_member=True)

    def function(self, name: str, params: Types, result: Any, impl: Callable[..., Any]) -> None:
        """`name(x, y)`."""
        self._add(name, params, result, impl, is_member=False)

    def constructor(self, name: str, tag: str, parse: Callable[[str], Any]) -> None:
        """`name(text)`: a value that keeps its text. `parse` raises ValueError for a wrong one."""

        def build(text: str) -> Value:
            parse(text)
            return {tag: text}

        self.function(name, [self.text], self.value, build)

    def predicate(self, name: str, parse: Callable[[str], Any]) -> None:
        """`name(text)`: whether `parse` takes it, or raises ValueError."""

        def accepts(text: str) -> bool:
            try:
                parse(text)
            except ValueError:
                return False
            return True

        self.function(name, [self.text], self.boolean, accepts)

    def functions(self) -> list[Any]:
        """All that was declared, as the engine takes it."""
        return [self._cel.FunctionDecl(name, overloads) for name, overloads in self._overloads.items()]

    def _add(self, name: str, params: Types, result: Any, impl: Callable[..., Any], *, is_member: bool) -> None:
        overloads = self._overloads.setdefault(name, [])
        identity = f"k8s_{name.replace('.', '_')}_{len(overloads)}"
        overload = self._cel.Overload(identity, return_type=result, parameters=params, is_member=is_member, impl=impl)
        overloads.append(overload)
