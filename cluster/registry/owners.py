"""Owner references that are there twice: once is kept, and the client told.

Pure, in place. Source: k8s.io/apiserver `pkg/endpoints/handlers/rest.go` (dedupOwnerReferencesAndAddWarning), which
looks before mutating admission and after it.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

_TWICE = (
    ".metadata.ownerReferences contains duplicate entries%s; API server dedups owner references in 1.20+, and may "
    "reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: "
)


def kept_once(metadata: Object, *, admitted: bool = False) -> str:
    """The warning; "" where nothing was there twice. `admitted`: mutating admission is over."""
    refs = metadata.get("ownerReferences")
    if not refs or len(refs) < 2:
        return ""
    by_uid: dict[str, list[Object]] = {}
    kept, twice = [], []
    for ref in refs:
        same = by_uid.setdefault(ref.get("uid", ""), [])
        if ref in same:
            twice.append(ref.get("uid", ""))
        else:
            same.append(ref)
            kept.append(ref)
    if not twice:
        return ""
    metadata["ownerReferences"] = kept
    return _TWICE % (" after mutating admission happens" if admitted else "") + ", ".join(twice)
