"""Regular expressions: `find` and `findAll`, in Go's dialect (RE2), which runs in linear time whatever a user writes.

Pure. Source: k8s.io/apiserver `pkg/cel/library/regex.go`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cluster.api.cel.library.declaring import Declarations


@lru_cache(maxsize=1024)
def pattern(text: str) -> Any:
    """A compiled RE2 expression; raises ValueError."""
    import re2  # only processes that validate load it

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error as e:
        reason = e.args[0]
        raise ValueError(reason.decode() if isinstance(reason, bytes) else str(reason)) from e


def _find(text: str, expression: str) -> str:
    found = pattern(expression).search(text)
    return found.group(0) if found is not None else ""


def _find_all(text: str, expression: str, limit: int = -1) -> list[str]:
    found = [m.group(0) for m in pattern(expression).finditer(text)]
    return found if limit < 0 else found[:limit]


def declare(to: Declarations) -> None:
    """find, findAll."""
    to.method("find", [to.text, to.text], to.text, _find)
    to.method("findAll", [to.text, to.text], to.texts, _find_all)
    to.method("findAll", [to.text, to.text, to.integer], to.texts, _find_all)
