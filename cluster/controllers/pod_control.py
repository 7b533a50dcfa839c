"""Making pods for an owner, deleting them once, and knowing which deletions the cache does not show yet.

A thin shell over the client, shared by the controllers that have pods. Source: kubernetes pkg/controller
controller_utils.go (RealPodControl).

Race: a delete returns nothing, and the watch shows the deletionTimestamp later. Until then the pod's uid is remembered,
and `known` shows the pod as terminating, so that a decision made from the cache never deletes it twice or counts on it:
  1. pod A deleted, uid noted.  2. decision before the watch: A reads as terminating.  3. the watch shows it: forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.api.errors import ApiError
from cluster.api.meta import owner_reference, rfc3339
from cluster.controllers.slow_start import SlowStart
from cluster.machinery.client import Client, Created, Obj, clone, ignore_not_found
from cluster.machinery.clock import Clock
from cluster.machinery.events import EventRecorder
from cluster.machinery.informer import Informer


class PodControl:
    """`client` must write through to `pods`. `deleted`: uids of pods that went by us and that the cache still shows."""

    def __init__(self, client: Client, pods: Informer, events: EventRecorder, clock: Clock) -> None:
        self._client = client
        self._pods = pods
        self._events = events
        self._clock = clock
        self._slow_start = SlowStart(clock)
        self.deleted: set[str] = set()
        pods.add_handler(self._on_pod)

    def known(self, pods: Iterable[Obj]) -> list[Obj]:
        """The pods, those we deleted already shown as terminating."""
        return [self._terminating(p) if p["metadata"]["uid"] in self.deleted else p for p in pods]

    async def create(self, owner: Obj, pods: Sequence[Obj]) -> tuple[list[Obj], ApiError | None]:
        """What was made of them, and the first error. They are created in batches that grow (`SlowStart`), and none
        after the first batch with an error, so that a template no admission accepts costs one failed request and not
        hundreds. An Event of the owner tells of each."""
        made: list[Obj] = []
        error: ApiError | None = None
        start = 0
        while start < len(pods) and error is None:
            size = self._slow_start.size(owner)
            batch = pods[start : start + size]
            for outcome in await self._create_all(batch):
                if isinstance(outcome, ApiError):
                    error = error or outcome
                    self._events.event(owner, "Warning", "FailedCreate", f"Error creating: {outcome.message}")
                else:
                    made.append(outcome)
                    what = f"Created pod: {outcome['metadata']['name']}"
                    self._events.event(owner, "Normal", "SuccessfulCreate", what)
            if error is None:
                self._slow_start.went_well(owner, size)
            else:
                self._slow_start.failed(owner)
            start += len(batch)
        return made, error

    async def _create_all(self, pods: Sequence[Obj]) -> Created:
        try:
            return await self._client.create_all("pods", pods)
        except ApiError as err:
            return [err for _ in pods]

    async def end(self, owner: Obj, pod: Obj) -> ApiError | None:
        """Delete it; an Event of the owner says how it went. The error, so that many can be ended at once."""
        try:
            await self.delete(pod)
        except ApiError as err:
            self._events.event(owner, "Warning", "FailedDelete", f"Error deleting: {err.message}")
            return err
        self._events.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
        return None

    async def delete(self, pod: Obj) -> None:
        """Gracefully; one that is gone already is no error. Raises ApiError otherwise."""
        meta = pod["metadata"]
        with ignore_not_found():
            await self._client.delete("pods", meta["name"], meta["namespace"], uid=meta["uid"])
        current = self._pods.get(meta["namespace"], meta["name"])
        shown = current["metadata"] if current is not None else {}
        if shown.get("uid") == meta["uid"] and "deletionTimestamp" not in shown:
            self.deleted.add(meta["uid"])

    def _terminating(self, pod: Obj) -> Obj:
        if "deletionTimestamp" in pod["metadata"]:
            return pod
        return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": rfc3339(self._clock())}}

    def _on_pod(self, old: Obj | None, new: Obj | None) -> None:
        if new is None and old is not None:
            self.deleted.discard(old["metadata"]["uid"])
        elif new is not None and "deletionTimestamp" in new["metadata"]:
            self.deleted.discard(new["metadata"]["uid"])


def pod_from_template(template: Obj, owner: Obj) -> Obj:
    """A new pod of the owner's: labels, annotations, finalizers and spec of the template; named `<owner>-<random>`."""
    meta = template.get("metadata") or {}
    prefix = f"{owner['metadata']['name']}-"
    pod: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": prefix,
            "namespace": owner["metadata"]["namespace"],
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": clone(template["spec"]),
    }
    for field in ("labels", "annotations", "finalizers"):
        if meta.get(field):
            pod["metadata"][field] = meta[field]
    return pod


def namespace_of(obj: Obj) -> list[str]:
    """Index: the object's namespace, for those who would else look through all pods of the cluster."""
    return [obj["metadata"].get("namespace", "")]
