"""Any exception as the ApiError its client gets. Pure.

A store raises its own exceptions with a `code` (docs/contracts.md), which the registry names; OutcomeUnknown is 504,
because neither success nor failure may be claimed. What nobody expected is 500 without its text, which may hold
secrets.
"""

from __future__ import annotations

from cluster.api import errors
from cluster.registry.core import from_store_error


def translated(error: Exception) -> errors.ApiError:
    if isinstance(error, errors.ApiError):
        return error
    known = from_store_error(error)
    return known if known is not None else errors.internal(f"unexpected {type(error).__name__}; see the server's log")
