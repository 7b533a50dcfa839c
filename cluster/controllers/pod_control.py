"""Deleting pods once, and knowing which deletions the cache does not show yet.

A thin shell over the client, shared by the controllers whose pods are told apart one by one.

Race: a delete returns nothing, and the watch shows the deletionTimestamp later. Until then the pod's uid is remembered,
and `known` shows the pod as terminating, so that a decision made from the cache never deletes it twice or counts on it:
  1. pod A deleted, uid noted.  2. decision before the watch: A reads as terminating.  3. the watch shows it: forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.api.meta import rfc3339
from cluster.machinery.client import Client, Obj, ignore_not_found
from cluster.machinery.clock import Clock
from cluster.machinery.informer import Informer


class PodControl:
    """`client` must write through to `pods`."""

    def __init__(self, client: Client, pods: Informer, clock: Clock) -> None:
        self._client = client
        self._pods = pods
        self._clock = clock
        self._deleted: set[str] = set()
        pods.add_handler(self._on_pod)

    def known(self, pods: Iterable[Obj]) -> list[Obj]:
        """The pods, those we deleted already shown as terminating."""
        return [self._terminating(p) if p["metadata"]["uid"] in self._deleted else p for p in pods]

    async def delete(self, pod: Obj) -> None:
        """Gracefully; one that is gone already is no error. Raises ApiError otherwise."""
        meta = pod["metadata"]
        with ignore_not_found():
            await self._client.delete("pods", meta["name"], meta["namespace"], uid=meta["uid"])
        current = self._pods.get(meta["namespace"], meta["name"])
        shown = current["metadata"] if current is not None else {}
        if shown.get("uid") == meta["uid"] and "deletionTimestamp" not in shown:
            self._deleted.add(meta["uid"])

    def _terminating(self, pod: Obj) -> Obj:
        if "deletionTimestamp" in pod["metadata"]:
            return pod
        return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": rfc3339(self._clock())}}

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if new is None and old is not None:
            self._deleted.discard(old["metadata"]["uid"])
        elif new is not None and "deletionTimestamp" in new["metadata"]:
            self._deleted.discard(new["metadata"]["uid"])


def namespace_of(obj: Obj) -> list[str]:
    """Index: the object's namespace, for those who would else look through all pods of the cluster."""
    return [obj["metadata"].get("namespace", "")]
