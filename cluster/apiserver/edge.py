"""Kinds that are answered here and stored nowhere: Binding (an act) and ComponentStatus (a look at the control plane).

Awaits the registry and the store. Source: pkg/registry/core/{pod,componentstatus}.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from cluster.api import errors
from cluster.api.scheme import SCHEME
from cluster.apiserver import views
from cluster.apiserver.call import Call, Reply
from cluster.registry.registry import Registry
from cluster.registry.store import Store

Object = dict[str, Any]

_LEADERS = {"scheduler": b"/sk8/leader/kube-scheduler", "controller-manager": b"/sk8/leader/kube-controller-manager"}
_ASK_S = 2.0


async def bind(registry: Registry, call: Call) -> Reply:
    """POST bindings: assigns the pod that the Binding is named after."""
    body = await call.review()
    name = (body.get("metadata") or {}).get("name")
    if not name:
        cause = errors.Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")
        raise errors.invalid("Binding", "", "", [cause])
    pods = SCHEME.named("pods")
    await registry.create(call.context(), pods, call.namespace, body, subresource="binding", name=name)
    return Reply(201, obj={"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})


class ComponentStatuses:
    """Who leads says that it is healthy; the store answers for itself."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def _leads(self, key: bytes) -> str:
        found = await self._store.range(key, serializable=True)
        return "" if found.kvs else "nobody holds the lease"

    async def _answers(self) -> str:
        await self._store.read_index()
        return ""

    async def _status(self, name: str) -> Object:
        ask = self._leads(_LEADERS[name]) if name in _LEADERS else self._answers()
        try:
            wrong = await asyncio.wait_for(ask, _ASK_S)
        except Exception as e:  # noqa: BLE001 - what is wrong is the answer
            wrong = str(e) or type(e).__name__
        condition: Object = {"type": "Healthy", "status": "False" if wrong else "True"}
        condition |= {"message": "", "error": wrong} if wrong else {"message": "ok"}
        metadata = {"name": name, "creationTimestamp": None}
        return {"kind": "ComponentStatus", "apiVersion": "v1", "metadata": metadata, "conditions": [condition]}

    async def get(self, call: Call) -> Reply:
        if call.info.name not in (*_LEADERS, "etcd-0"):
            raise errors.not_found(call.kind, call.info.name)
        status = orjson.dumps(await self._status(call.info.name))
        return Reply(raw=views.object_view(call.accept, call.kind, status, 0.0, "Metadata"))

    async def list(self, call: Call) -> Reply:
        found = [await self._status(name) for name in (*_LEADERS, "etcd-0")]
        items = [views.Bytes(orjson.dumps(s)) for s in found]
        return Reply(raw=await views.list_view(call.accept, call.kind, items, {"resourceVersion": ""}, 0.0, "Metadata"))
