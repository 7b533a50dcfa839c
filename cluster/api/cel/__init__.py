"""Kubernetes' expression language: compile once, evaluate often, within limits.

Pure: the engine is `cel-expr-python` (Google's C++ implementation), loaded when the first expression is compiled. An
`Environment` is the set of variables an expression may name; `compile` gives a `Program`, memoised by text, and
`Program.evaluate` its value for given data. Kubernetes' functions are in `library`; what it may cost in `cost`.

    CelError
    ├── CompileError      the expression is wrong; the message is what Kubernetes shows after "compilation failed:"
    └── EvaluationError   it failed on this data ("no such key: x"), or would cost too much
        └── OutOfBudget   with what was evaluated before about the same object

What the engine's binding cannot express is put in other terms by `portable`. The engine stops an evaluation after
10,000 turns of all its loops, which is earlier than Kubernetes' cost limit does.
"""

from cluster.api.cel.environment import (
    Budget,
    CelError,
    CompileError,
    Environment,
    EvaluationError,
    OutOfBudget,
    Program,
    environment,
)

__all__ = [
    "Budget",
    "CelError",
    "CompileError",
    "Environment",
    "EvaluationError",
    "OutOfBudget",
    "Program",
    "environment",
]
