"""The one way scheduler, controllers, kubelet and proxy speak to the API: a Protocol and the shapes that cross it.

Pure declarations; no IO. `RegistryClient` (in process) and `HttpClient` (HTTPS) fulfil it alike, so that a controller
cannot tell which of them it was given, and a test gives it either.

Invariants: objects are plain decoded JSON; what a read or a watch returned is shared and must not be changed in place
(`clone` first); every failure is an `ApiError`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cluster.api.errors import ApiError

Obj = dict[str, Any]
Outcomes = list[ApiError | None]
BindOutcomes = Outcomes
Created = list[Obj | ApiError]
PatchKind = Literal["merge", "strategic", "json", "apply"]

PATCH_MEDIA_TYPES: dict[str, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """`type` is ADDED, MODIFIED, DELETED or BOOKMARK; a bookmark's object carries only metadata.resourceVersion.

    `cause`: the cause id of the write behind it (cluster/registry/context.py), where the client can know it.
    """

    type: str
    object: Obj
    cause: str = ""

    @classmethod
    def from_wire(cls, raw: Obj) -> WatchEvent:
        """One line of a watch. Raises the ApiError that an ERROR event carries."""
        if raw.get("type") == "ERROR":
            raise ApiError.from_status(raw.get("object") or {})
        return cls(raw["type"], raw["object"])


@dataclass(frozen=True, slots=True)
class ObjectList:
    items: list[Obj]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Binding:
    """Put pod `namespace/name` (of exactly this `uid`, "" for any) on `node`."""

    namespace: str
    name: str
    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class Turn:
    """Nobody binds under an older turn any more. All that was bound is below `revision`; `before` had the last turn."""

    revision: int
    before: str = ""


class Client(Protocol):
    """A resource is named as `cluster.api.scheme.SCHEME.named` knows it: `pods`, `deployments.apps`."""

    async def get(self, resource: str, name: str, namespace: str = "") -> Obj: ...

    async def list(
        self, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        """All pages, at one revision."""
        ...

    def watch(
        self,
        resource: str,
        namespace: str = "",
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """Events after `resource_version`. Raises ApiError 410 when expired; ends when the server closes."""
        ...

    async def create(
        self, resource: str, obj: Obj, namespace: str = "", *, subresource: str = "", name: str = ""
    ) -> Obj: ...

    async def create_all(self, resource: str, objects: Sequence[Obj]) -> Created:
        """Create objects of the namespaces they name; of each what was stored or why it was not, in order. In process
        they share transactions."""
        ...

    async def update(self, resource: str, obj: Obj, *, subresource: str = "") -> Obj:
        """Replace; conflicts (409) when the object's resourceVersion is set and no longer current."""
        ...

    async def patch(
        self,
        resource: str,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: PatchKind = "merge",
        subresource: str = "",
    ) -> Obj: ...

    async def delete(
        self,
        resource: str,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        grace_period_s: int | None = None,
        propagation: str = "",
    ) -> None: ...

    async def take_turn(self, holder: str) -> Turn:
        """For who binds from a picture of the cluster: to be taken before deciding. Raises ApiError."""
        ...

    async def bind(self, bindings: Sequence[Binding], *, together: bool = False, turn: int = 0) -> BindOutcomes:
        """One outcome per binding, in order. `together`: all of them are bound or none; HTTP cannot promise that.
        `turn`: the revision of the caller's; raises FenceLost, and binds nothing, when another has taken one since."""
        ...


def clone(obj: Obj) -> Obj:
    """A deep copy to change; faster than copy.deepcopy for JSON."""
    import orjson  # the coredns pods read with this module too, and their Debian has no orjson

    copied: Obj = orjson.loads(orjson.dumps(obj))
    return copied


def key_of(obj: Obj) -> str:
    """`namespace/name`, or `name` for cluster-scoped objects: the keys of work queues and informers."""
    meta = obj.get("metadata", {})
    namespace = meta.get("namespace", "")
    return f"{namespace}/{meta.get('name', '')}" if namespace else str(meta.get("name", ""))


def split_key(key: str) -> tuple[str, str]:
    """The (namespace, name) of a key; namespace "" for cluster-scoped objects."""
    namespace, slash, name = key.partition("/")
    return (namespace, name) if slash else ("", namespace)


def is_not_found(err: ApiError) -> bool:
    return err.code == 404


@contextlib.contextmanager
def ignore_not_found() -> Iterator[None]:
    """Around a write to an object that may be gone by now, where that is as good: what was to go has gone, and what was
    to be told of needs no telling."""
    try:
        yield
    except ApiError as err:
        if not is_not_found(err):
            raise


def is_conflict(err: ApiError) -> bool:
    """A lost compare-and-swap (409 Conflict), not a name that is taken (409 AlreadyExists)."""
    return err.code == 409 and err.reason == "Conflict"


def is_already_exists(err: ApiError) -> bool:
    return err.code == 409 and err.reason == "AlreadyExists"


class Reads:
    """Reading passed on as it is; for a client that stands before another and adds something to its writes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, resource: str, name: str, namespace: str = "") -> Obj:
        return await self._client.get(resource, name, namespace)

    async def list(
        self, resource: str, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        return await self._client.list(
            resource, namespace, label_selector=label_selector, field_selector=field_selector
        )

    def watch(
        self,
        resource: str,
        namespace: str = "",
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        return self._client.watch(
            resource,
            namespace,
            resource_version=resource_version,
            label_selector=label_selector,
            field_selector=field_selector,
        )
