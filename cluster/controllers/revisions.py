"""Keeping a workload's ControllerRevisions: carries out what `revisions_core` says.

A thin shell, shared by StatefulSet and DaemonSet controllers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cluster.api.errors import ApiError
from cluster.controllers import revisions_core as core
from cluster.controllers.env import Env
from cluster.controllers.ownership import candidates, index_by_owner, selector_of
from cluster.controllers.refs import claim
from cluster.machinery.client import Obj, clone, ignore_not_found, is_already_exists

_REVISIONS = "controllerrevisions.apps"


class RevisionHistory:
    """`resource` is the owners' kind, `hash_label` the label that carries a revision's hash."""

    def __init__(self, env: Env, resource: str, hash_label: str) -> None:
        self._client = env.client
        self._informers = env.informers
        self._resource = resource
        self._hash_label = hash_label
        self._revisions = env.informer(_REVISIONS)
        index_by_owner(self._revisions)

    async def owned(self, owner: Obj) -> list[Obj]:
        """All revisions of the owner, adopting lost ones; oldest first."""
        there = candidates(self._revisions, owner)
        return core.ordered(await claim(self._client, _REVISIONS, owner, there, selector_of(owner).matches))

    async def current(self, owner: Obj, revisions: Sequence[Obj]) -> Obj:
        """The revision of the owner's present template, written if it was not there."""
        collisions = int((owner.get("status") or {}).get("collisionCount") or 0)
        want = core.wanted(owner, revisions, self._hash_label, collisions)
        if want.write == "renumber":
            return await self._client.update(_REVISIONS, want.revision)
        if want.write == "create":
            return await self._create(owner, want.revision)
        return want.revision

    async def trim(self, owner: Obj, revisions: Sequence[Obj], live: Collection[str]) -> None:
        limit = owner["spec"].get("revisionHistoryLimit")
        for revision in core.surplus(revisions, live, 10 if limit is None else int(limit)):
            meta = revision["metadata"]
            with ignore_not_found():
                await self._client.delete(_REVISIONS, meta["name"], meta["namespace"], uid=meta["uid"])

    async def _create(self, owner: Obj, revision: Obj) -> Obj:
        meta = owner["metadata"]
        try:
            return await self._client.create(_REVISIONS, revision, meta["namespace"])
        except ApiError as err:
            if not is_already_exists(err):
                raise
            found = await self._client.get(_REVISIONS, revision["metadata"]["name"], meta["namespace"])
            if found.get("data") == revision["data"]:  # our own earlier write, which the cache does not show yet
                self._informers.observe(_REVISIONS, found)
                return found
            changed = clone(owner)
            status = changed.setdefault("status", {})
            status["collisionCount"] = int(status.get("collisionCount") or 0) + 1
            await self._client.update(self._resource, changed, subresource="status")
            raise
