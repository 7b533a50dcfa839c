"""Compiling and evaluating CEL expressions.

Pure but for the memo of compiled programs. The engine gives errors in its own words; they are turned into those of
cel-go, which Kubernetes users know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import orjson

from cluster.api.cel import cost, syntax
from cluster.api.cel.library import declarations
from cluster.api.cel.library.authz import AUTHORIZE, Authorize
from cluster.api.cel.portable import portable, readable

# Kubernetes' limits: of one expression, and of all that one object's validation may evaluate.
PER_CALL_LIMIT = 1_000_000
BUDGET = 10_000_000


class CelError(ValueError):
    """Base of both; the message is for users."""


class CompileError(CelError):
    """The expression cannot be compiled."""


class EvaluationError(CelError):
    """The expression failed on the given data."""


class OutOfBudget(EvaluationError):
    """This expression, with those before it, would cost more than one object's validation may."""


_CODE = re.compile(r"\s*\[[A-Z_]+\]$")
_ERRORS = (
    (re.compile(r'NOT_FOUND: Key not found in map : "?(.*?)"?$'), r"no such key: \1"),
    (re.compile(r"UNKNOWN: No matching overloads found.*", re.S), "no such overload"),
    (re.compile(r"(INVALID_ARGUMENT: )?Applying SELECT to non-message type"), "no such overload"),
    (re.compile(r"UNKNOWN: Index error: index=(-?\d+) size=\d+"), r"index out of bounds: \1"),
    (re.compile(r"INVALID_ARGUMENT: divide by zero"), "division by zero"),
    (re.compile(r"INVALID_ARGUMENT: modulus by zero"), "modulus by zero"),
    (re.compile(r"(\w+: )?Iteration budget exceeded"), "operation cancelled: actual cost limit exceeded"),
    (re.compile(r"OUT_OF_RANGE: integer overflow"), "integer overflow"),
    (re.compile(r"[A-Z_]+: "), ""),
)


def _words(message: str) -> str:
    message = _CODE.sub("", message)
    for expression, text in _ERRORS:
        changed, n = expression.subn(text, message, count=1)
        if n:
            return changed
    return message


# An extension for which the binding has no class of its own.
_SETTINGS = "extensions:\n- name: two-var-comprehensions\n"


@lru_cache(maxsize=1)
def _engine() -> tuple[Any, list[Any], list[Any]]:
    """The engine's module, its extensions and Kubernetes' functions."""
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_bindings, ext_encoders, ext_math, ext_optional, ext_strings

    extensions = [
        ext_strings.ExtStrings(),
        ext_optional.ExtOptional(),
        ext_math.ExtMath(),
        ext_bindings.ExtBindings(),
        ext_encoders.ExtEncoders(),
    ]
    return cel, extensions, declarations(cel)


class Program:
    """A compiled expression. `result` is the static type: BOOL, STRING, DYN and so on; `names` are the identifiers it
    mentions."""

    __slots__ = ("_compiled", "_defaults", "_loops", "_nodes", "expression", "names", "result", "tree")

    def __init__(self, expression: str, compiled: Any, variables: tuple[str, ...]) -> None:
        self.expression = expression
        self.result: str = compiled.return_type().name()
        self.tree = syntax.parse(compiled.serialize())
        self.names = frozenset(syntax.names(self.tree))
        self._loops = cost.loops(self.tree)
        self._nodes = syntax.count(self.tree)
        self._compiled = compiled
        self._defaults = dict.fromkeys(variables)

    def evaluate(
        self, data: Mapping[str, Any], *, authorize: Authorize | None = None, budget: Budget | None = None
    ) -> Any:
        """The plain value; variables that `data` leaves out are null. Raises EvaluationError, also for what would cost
        more than one call may, and OutOfBudget."""
        bound = self._bound(data)
        if bound > PER_CALL_LIMIT and self.cost(data) > PER_CALL_LIMIT:
            raise EvaluationError("operation cancelled: actual cost limit exceeded")
        if budget is not None:
            budget.spend(bound, partial(self.cost, data))
        token = AUTHORIZE.set(authorize)
        try:
            value = self._compiled.eval(data={**self._defaults, **data})
            plain = value.plain_value()
        except (RuntimeError, TypeError) as e:
            raise EvaluationError(_words(str(e))) from e
        finally:
            AUTHORIZE.reset(token)
        if value.type().name() == "ERROR":
            raise EvaluationError(_words(str(plain)))
        return plain

    def _bound(self, data: Mapping[str, Any]) -> float:
        """At least `cost`, and cheaper to know: a loop has no more turns than the data has bytes."""
        if not self._loops:
            return float(self._nodes)
        size = sum(len(orjson.dumps(v, default=str)) for k, v in data.items() if k in self.names)
        return float(self._nodes * size**self._loops)

    def cost(self, data: Mapping[str, Any]) -> float:
        """At most this much, in CEL's units, with this data."""
        return cost.estimate(self.tree, {k: cost.shape_of(v) for k, v in data.items() if k in self.names}).cost

    def __repr__(self) -> str:
        return f"Program({self.expression!r})"


class Budget:
    """What the expressions about one object may cost together. Each is taken for a bound that is cheap to know, and for
    what it costs only once the bounds are too much."""

    def __init__(self, limit: float = BUDGET) -> None:
        self._limit = limit
        self._spent = 0.0  # by cost
        self._bounds = 0.0  # of those whose cost is not in _spent yet
        self._open: list[Callable[[], float]] = []

    def spend(self, bound: float, cost: Callable[[], float]) -> None:
        """Raises OutOfBudget."""
        self._bounds += bound
        self._open.append(cost)
        if self._spent + self._bounds <= self._limit:
            return
        self._spent += sum(of() for of in self._open)
        self._bounds = 0.0
        self._open.clear()
        if self._spent > self._limit:
            raise OutOfBudget(
                "validation failed due to running out of cost budget, no further validation rules will be run"
            )


class Environment:
    """`variables`: name -> type in CEL's own notation (`dyn`, `int`, `string`, `list<dyn>`, `map<string, dyn>`)."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        cel, extensions, functions = _engine()
        types = {name: _type(cel, text) for name, text in variables.items()}
        self._names = tuple(variables)
        settings = cel.NewEnvConfigFromYaml(_SETTINGS)
        self._env = cel.NewEnv(config=settings, variables=types, extensions=extensions, functions=functions)
        self._compile = lru_cache(maxsize=4096)(self._compile_new)

    def compile(self, expression: str, *results: str) -> Program:
        """Memoised. Raises CompileError, also when the result can be none of `results` (BOOL, STRING, ...)."""
        program = self._compile(expression)
        if results and program.result not in (*results, "DYN"):
            wanted = " or ".join(r.lower() for r in results)
            raise CompileError(f"must evaluate to {wanted}")
        return program

    def _compile_new(self, expression: str) -> Program:
        try:
            return Program(expression, self._env.compile(portable(expression)), self._names)
        except RuntimeError as e:
            text = _CODE.sub("", str(e)).removeprefix("INVALID_ARGUMENT: ")
            raise CompileError(readable(text)) from e


def _type(cel: Any, text: str) -> Any:
    simple = {
        "dyn": cel.Type.DYN,
        "bool": cel.Type.BOOL,
        "int": cel.Type.INT,
        "double": cel.Type.DOUBLE,
        "string": cel.Type.STRING,
        "bytes": cel.Type.BYTES,
        "timestamp": cel.Type.TIMESTAMP,
        "duration": cel.Type.DURATION,
        "list": cel.Type.List(cel.Type.DYN),
        "map": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
    }
    return simple[text]


@lru_cache(maxsize=256)
def _environment(variables: tuple[tuple[str, str], ...]) -> Environment:
    return Environment(dict(variables))


def environment(*names: str, **typed: str) -> Environment:
    """The shared environment with these variables: `environment("object", "oldObject", self="map")`."""
    return _environment(tuple(sorted({**dict.fromkeys(names, "dyn"), **typed}.items())))
