"""Which objects a controller owns: selection, adoption and release by ownerReferences.

Pure decisions plus the two patches that carry them out; the rules are Kubernetes' ControllerRefManager:
- an object with another controller is never touched;
- ours by reference and selected: kept; ours but no longer selected: released;
- nobody's and selected: adopted, unless it or we are being deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.meta import controller_of, owner_reference
from cluster.machinery.client import Client, Obj, is_not_found


@dataclass(frozen=True, slots=True)
class Claims:
    owned: list[Obj]
    adopt: list[Obj]
    release: list[Obj]


def claims(owner: Obj, objects: Iterable[Obj], selects: Callable[[Mapping[str, str]], bool]) -> Claims:
    """Sort `objects` (of the owner's namespace) into owned, to adopt, to release; others are left out."""
    result = Claims([], [], [])
    meta = owner["metadata"]
    dying = "deletionTimestamp" in meta
    for obj in objects:
        ref = controller_of(obj)
        selected = selects(obj["metadata"].get("labels") or {})
        if ref is not None:
            if ref.get("uid") != meta["uid"]:
                continue
            if selected:
                result.owned.append(obj)
            elif not dying:
                result.release.append(obj)
        elif selected and not dying and "deletionTimestamp" not in obj["metadata"]:
            result.adopt.append(obj)
    return result


async def claim(
    client: Client, resource: str, owner: Obj, objects: Iterable[Obj], selects: Callable[[Mapping[str, str]], bool]
) -> list[Obj]:
    """The objects the owner owns after adopting and releasing. Loses races quietly (the object is then not ours)."""
    found = claims(owner, objects, selects)
    owned = list(found.owned)
    if found.adopt and await _same_owner(client, owner):
        for obj in found.adopt:
            adopted = await _set_refs(
                client, resource, obj, [*obj["metadata"].get("ownerReferences", []), owner_reference(owner)]
            )
            if adopted is not None:
                owned.append(adopted)
    for obj in found.release:
        rest = [r for r in obj["metadata"]["ownerReferences"] if r.get("uid") != owner["metadata"]["uid"]]
        await _set_refs(client, resource, obj, rest)
    return owned


async def _same_owner(client: Client, owner: Obj) -> bool:
    """Adoption asks the API itself: the cached owner may be deleted, or another of the same name by now."""
    kinds = {"ReplicaSet": "replicasets.apps", "Deployment": "deployments.apps"}
    kinds |= {"StatefulSet": "statefulsets.apps", "DaemonSet": "daemonsets.apps", "Job": "jobs.batch"}
    kinds |= {"ReplicationController": "replicationcontrollers"}
    meta = owner["metadata"]
    try:
        fresh = await client.get(kinds[owner["kind"]], meta["name"], meta["namespace"])
    except ApiError as err:
        if is_not_found(err):
            return False
        raise
    return fresh["metadata"]["uid"] == meta["uid"] and "deletionTimestamp" not in fresh["metadata"]


async def _set_refs(client: Client, resource: str, obj: Obj, refs: list[dict[str, Any]]) -> Obj | None:
    """Compare-and-swap the references; None when the object changed meanwhile or is gone."""
    meta = obj["metadata"]
    patch = {
        "metadata": {
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "ownerReferences": refs or None,
        }
    }
    try:
        return await client.patch(resource, meta["name"], patch, meta.get("namespace", ""))
    except ApiError as err:
        if err.code in (404, 409, 422):
            return None
        raise
