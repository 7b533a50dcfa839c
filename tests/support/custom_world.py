"""An API server with the controllers that custom resources need, and definitions to try it with."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from cluster.api import schema
from cluster.controllers.config import ControllerConfig
from cluster.controllers.definitions import DefinitionController
from cluster.controllers.env import Env
from cluster.controllers.garbage_collector import GarbageCollector
from cluster.controllers.namespace import NamespaceController
from cluster.machinery.informer import Informers
from cluster.machinery.registry_client import RegistryClient
from cluster.machinery.write_through import WriteThrough
from cluster.registry.context import MASTERS, RequestContext
from tests.support.apiserver_harness import Edge, Pki, edge

Object = dict[str, Any]
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CRONTABS = "/apis/stable.example.com/v1/namespaces/default/crontabs"

SPEC_SCHEMA: Object = {
    "type": "object",
    "required": ["cronSpec"],
    "properties": {
        "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
        "image": {"type": "string", "default": "busybox"},
        "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
        "color": {"type": "string", "enum": ["red", "blue"]},
        "port": {"x-kubernetes-int-or-string": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "ports": {
            "type": "array",
            "maxItems": 5,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "maxLength": 20},
                    "number": {"type": "integer"},
                    "protocol": {"type": "string", "default": "TCP"},
                },
            },
        },
    },
    "x-kubernetes-validations": [
        {
            "rule": "!has(self.replicas) || self.replicas != 7",
            "messageExpression": "'seven is not allowed: ' + string(self.replicas)",
            "fieldPath": ".replicas",
        },
        {"rule": "!has(oldSelf.color) || has(self.color)", "message": "a color once given stays"},
    ],
}
STATUS_SCHEMA: Object = {
    "type": "object",
    "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}, "phase": {"type": "string"}},
}


def crontab_definition(**version: Any) -> Object:
    """The definition of CronTabs, with `version` put over its only version."""
    schema = {"type": "object", "properties": {"spec": SPEC_SCHEMA, "status": STATUS_SCHEMA}}
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    v1: Object = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, "scale": scale},
        "additionalPrinterColumns": [
            {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "selectableFields": [{"jsonPath": ".spec.color"}],
    }
    names = {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]}
    spec = {
        "group": "stable.example.com",
        "scope": "Namespaced",
        "names": names,
        "versions": [{**v1, **version}],
    }
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": spec,
    }
    return copy.deepcopy(crd)


def crontab(name: str = "one", **spec: Any) -> Object:
    body: Object = {"cronSpec": "* * * * */5", **spec}
    return {
        "apiVersion": "stable.example.com/v1",
        "kind": "CronTab",
        "metadata": {"name": name},
        "spec": {k: v for k, v in body.items() if v is not ...},
    }


async def established(world: Edge, crd: Object) -> Object:
    """Create a definition and wait until it is served."""
    made = await world.create(CRDS, crd)
    path = f"{CRDS}/{made['metadata']['name']}"
    return await until(world, path, lambda o: condition(o, "Established") == "True")


def condition(obj: Object, kind: str) -> str:
    found = [c for c in (obj.get("status") or {}).get("conditions") or () if c["type"] == kind]
    return found[0]["status"] if found else ""


async def until(world: Edge, path: str, holds: Callable[[Object], bool], *, code: int = 200) -> Any:
    """Wait until a GET of `path` answers `code` with an object that `holds`."""
    got = await world.call("GET", path)
    async with asyncio.timeout(60):
        while got.status != code or not holds(got.json):
            await asyncio.sleep(0.01)
            got = await world.call("GET", path)
    return got.json


async def watched(world: Edge, path: str) -> list[Object]:
    """The events of a watch that ends by its own timeoutSeconds."""
    async with world.session.get(world.url + path, ssl=world.pki.client_context("admin")) as response:
        assert response.status == 200
        return [orjson.loads(line) async for line in response.content]


@contextlib.asynccontextmanager
async def custom_edge(pki: Pki, *, store: Any = None) -> AsyncIterator[Edge]:
    async with edge(pki, store=store) as world:
        client = RegistryClient(world.registry, lambda: RequestContext(user=MASTERS, field_manager="controllers"))
        informers = Informers(client)
        env = Env(
            WriteThrough(client, informers),
            informers,
            ControllerConfig(),
            time.time,
            random.Random(1),
            resources=world.registry.catalog,
        )
        controllers = [DefinitionController(env), GarbageCollector(env), NamespaceController(env)]
        tasks = [asyncio.create_task(informers.run()), *(asyncio.create_task(c.run()) for c in controllers)]
        await informers.wait_synced()
        try:
            yield world
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def pod_template_schema() -> Object:
    """Kubernetes' own PodTemplateSpec as a structural schema, as generators of definitions write it."""
    return _structural({"$ref": "#/io.k8s.api.core.v1.PodTemplateSpec"}, schema.load_definitions())


_INT_OR_STRING: Object = {
    "x-kubernetes-int-or-string": True,
    "anyOf": [{"type": "integer"}, {"type": "string"}],
}
_OPEN: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _structural(node: Object, definitions: dict[str, Object]) -> Object:
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        if name.endswith(("resource.Quantity", "IntOrString")):
            return copy.deepcopy(_INT_OR_STRING)
        if name.endswith("v1.Time"):
            return {"type": "string", "format": "date-time"}
        return dict(_OPEN) if name.endswith("ObjectMeta") else _structural(definitions[name], definitions)
    written = node.get("type")
    kind = next((t for t in written if t != "null"), "") if isinstance(written, list) else written
    out: Object = {"description": node["description"]} if node.get("description") else {}
    if kind == "array":
        items = _structural(node["items"], definitions)
        keys = node.get("x-kubernetes-list-map-keys") or []
        if keys:
            out |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}
            items["required"] = [*dict.fromkeys([*items.get("required", []), *keys])]
        return {**out, "type": "array", "items": items}
    if "properties" in node:
        out["properties"] = {k: _structural(v, definitions) for k, v in node["properties"].items()}
        return {**out, "type": "object", "required": node.get("required") or []}
    if node.get("additionalProperties"):
        return {**out, "type": "object", "additionalProperties": _structural(node["additionalProperties"], definitions)}
    return {**out, "type": kind or "object"}
