"""Reporting status: written when it says something new, to an object that is still there.

IO only through the client.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.machinery.client import Client, Obj, clone, ignore_not_found


def same_status(old: Mapping[str, object] | None, new: Mapping[str, object]) -> bool:
    """Equal up to absent zeros (the API drops none, but writers differ)."""
    old = old or {}
    keys = set(old) | set(new)
    return all((old.get(k) or None) == (new.get(k) or None) for k in keys)


async def report(client: Client, resource: str, obj: Obj, status: Obj) -> None:
    """Raises ApiError, 409 when the object has changed since `obj` was read."""
    if same_status(obj.get("status"), status):
        return
    changed = clone(obj)
    changed["status"] = status
    with ignore_not_found():
        await client.update(resource, changed, subresource="status")


def present(status: Obj, *always: str) -> Obj:
    """A status as Kubernetes' types write it: without the counts that are zero, but for those named."""
    return {k: v for k, v in status.items() if v != 0 or k in always}
