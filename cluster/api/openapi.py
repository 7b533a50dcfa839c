"""The published OpenAPI v3 documents, made from the definitions and the scheme.

Reads the definitions like `schema`; otherwise pure. kubectl explain, diff, apply and `--validate=strict` read
components.schemas (with x-kubernetes-group-version-kind) and the paths' operations (x-kubernetes-action, the
fieldValidation parameter). A document holds its kinds and all they refer to. Only the finished bytes are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import orjson

from cluster.api import openapi_merge, openapi_v2, schema
from cluster.api.crd import models
from cluster.api.scheme import EDGE, RELAYED, SCHEME, ResourceInfo, subresource_kind, subresource_verbs

Doc = dict[str, Any]

_REF = "#/components/schemas/"
_SPECIAL: dict[str, Doc] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {
        "format": "int-or-string",
        "oneOf": [{"type": "integer"}, {"type": "string"}],
    },
}
_DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
_STATUS = "io.k8s.apimachinery.pkg.apis.meta.v1.Status"
_PATCH = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
_ACTIONS = {"get": "get", "list": "list", "create": "post", "update": "put", "patch": "patch", "delete": "delete"}
_PATCH_TYPES = (
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)


def _query(name: str, description: str, kind: str = "string") -> Doc:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": kind, "uniqueItems": True},
    }


_DRY_RUN = _query("dryRun", "When present, indicates that modifications should not be persisted.")
_MANAGER = _query("fieldManager", "The name of the actor or entity that is making these changes.")
_VALIDATION = _query(
    "fieldValidation", "What to do with unknown or duplicate fields: Ignore, Warn (the default) or Strict."
)
_FORCE = _query("force", "Force is going to force Apply requests.", "boolean")
_LABELS = _query("labelSelector", "A selector to restrict the list of returned objects by their labels.")
_FIELDS = _query("fieldSelector", "A selector to restrict the list of returned objects by their fields.")
_LIMIT = _query("limit", "The maximum number of responses to return for a list call.", "integer")
_CONTINUE = _query("continue", "Where to go on, from a previous answer.")
_WATCH = _query("watch", "Watch for changes to the described resources.", "boolean")
_VERSION = _query("resourceVersion", "A constraint on what resource versions a request may be served from.")
_GRACE = _query("gracePeriodSeconds", "Seconds before the object is deleted.", "integer")
_PROPAGATION = _query("propagationPolicy", "Whether and how garbage collection will be performed.")
_PRETTY = _query("pretty", "If 'true', then the output is pretty printed.")
_BOOKMARKS = _query("allowWatchBookmarks", 'Asks for watch events with type "BOOKMARK".', "boolean")
_MATCH = _query("resourceVersionMatch", "How resourceVersion is applied to list calls.")
_INITIAL = _query("sendInitialEvents", "Begin the watch with the present state.", "boolean")
_SECONDS = _query("timeoutSeconds", "Timeout for the list or watch call.", "integer")
_ORPHAN = _query("orphanDependents", "Deprecated: use propagationPolicy.", "boolean")
_PARAMETERS = {
    "get": [],
    "list": [_BOOKMARKS, _CONTINUE, _FIELDS, _LABELS, _LIMIT, _VERSION, _MATCH, _INITIAL, _SECONDS, _WATCH],
    "create": [_DRY_RUN, _MANAGER, _VALIDATION],
    "update": [_DRY_RUN, _MANAGER, _VALIDATION],
    "patch": [_DRY_RUN, _MANAGER, _VALIDATION, _FORCE],
    "delete": [_DRY_RUN, _GRACE, _ORPHAN, _PROPAGATION],
    "deletecollection": [
        _CONTINUE,
        _DRY_RUN,
        _FIELDS,
        _GRACE,
        _LABELS,
        _LIMIT,
        _ORPHAN,
        _PROPAGATION,
        _VERSION,
        _MATCH,
    ],
}
_OPERATIONS = {"get": "read", "update": "replace", "deletecollection": "delete"}


def _published(node: Any, defaults: bool = True) -> Any:
    """A JSON-schema node as Kubernetes publishes it: no nulls among types, references wrapped."""
    if isinstance(node, list):
        return [_published(n) for n in node]
    if not isinstance(node, dict):
        return node
    out: Doc = {}
    for k, v in node.items():
        if k == "$ref":
            continue
        if k == "type" and isinstance(v, list):
            out["type"] = next((t for t in v if t != "null"), "object")
        elif k == "properties":
            out[k] = {name: _property(name, sub) for name, sub in v.items()}
        elif k in ("description", "required", "default", "enum", "format") or k.startswith("x-kubernetes-"):
            out[k] = v
        else:
            out[k] = _published(v)
    if "$ref" in node:
        ref = {"$ref": _REF + node["$ref"].rsplit("/", 1)[-1]}
        return {**out, "allOf": [ref]} if out else ref
    return out


def _property(name: str, sub: Doc) -> Doc:
    doc: Doc = _published(sub)
    if name in ("apiVersion", "kind"):
        doc.pop("enum", None)  # the data's addition: one definition serves several versions
    return doc


def _schemas(definitions: dict[str, Doc], roots: list[str]) -> Doc:
    """The roots and everything they refer to."""
    out: Doc = {}
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name in out or name not in definitions:
            continue
        if name in _SPECIAL:
            description = definitions[name].get("description")
            out[name] = {**({"description": description} if description else {}), **_SPECIAL[name]}
            continue
        out[name] = _published(definitions[name])
        todo.extend(_refs(definitions[name]))
    return dict(sorted(out.items()))


def _refs(node: Any) -> list[str]:
    if isinstance(node, list):
        return [r for n in node for r in _refs(n)]
    if not isinstance(node, dict):
        return []
    found = [str(node["$ref"]).rsplit("/", 1)[-1]] if isinstance(node.get("$ref"), str) else []
    return found + [r for v in node.values() for r in _refs(v)]


def _camel(text: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in text.replace("-", ".").split("."))


def _operation_id(action: str, info: ResourceInfo, sub: str, *, everywhere: bool) -> str:
    """Kubernetes' naming, which generated clients take their method names from."""
    group = info.group.removesuffix(".k8s.io") or "core"
    scope = "Namespaced" if info.namespaced and not everywhere else ""
    collection = "Collection" if action == "deletecollection" else ""
    tail = _camel(sub) + ("ForAllNamespaces" if everywhere else "")
    verb = _OPERATIONS.get(action, action)
    return f"{verb}{_camel(group)}{_camel(info.version)}{collection}{scope}{info.kind}{tail}"


def _operation(
    action: str,
    gvk: tuple[str, str, str],
    body: str,
    answer: str,
    info: ResourceInfo,
    sub: str = "",
    *,
    everywhere: bool = False,
) -> Doc:
    """`gvk` is what the operation speaks, `info` whose it is; `everywhere`: a list across namespaces."""
    group, version, kind = gvk
    content = {"application/json": {"schema": {"$ref": _REF + answer}}}
    op: Doc = {
        "description": f"{action} {kind}",
        "operationId": _operation_id(action, info, sub, everywhere=everywhere),
        "tags": [f"{(info.group or 'core').replace('.k8s.io', '').replace('.', '_')}_{info.version}"],
        "parameters": [*_PARAMETERS[action], _PRETTY],
        "responses": {
            "200": {"description": "OK", "content": content},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": {"create": "post", "update": "put"}.get(action, action),
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    }
    if action == "patch":
        patch = {"schema": {"$ref": _REF + _PATCH}}
        types = [t for t in _PATCH_TYPES if info.custom is None or "strategic" not in t]
        op["requestBody"] = {"content": dict.fromkeys(types, patch), "required": True}
    elif body:
        op["requestBody"] = {"content": {"*/*": {"schema": {"$ref": _REF + body}}}, "required": action != "delete"}
    return op


def _relay_operation(verb: str, gvk: tuple[str, str, str], info: ResourceInfo, sub: str) -> Doc:
    """What is passed on to a machine: neither body nor answer has a schema."""
    op = _operation("get", gvk, "", "", info, sub)
    method = _ACTIONS[verb].capitalize()
    if sub != "log":
        op["operationId"] = op["operationId"].replace("read", "connect" + method, 1)
        op["x-kubernetes-action"] = "connect"
    op["responses"]["200"]["content"] = {"*/*": {"schema": {"type": "string"}}}
    op["parameters"] = []
    return op


def _path_parameter(name: str, what: str) -> Doc:
    return {
        "name": name,
        "in": "path",
        "description": what,
        "required": True,
        "schema": {"type": "string", "uniqueItems": True},
    }


_NAMESPACE = _path_parameter("namespace", "object name and auth scope, such as for teams and projects")
_NAME = _path_parameter("name", "name of the object")


def _resource_paths(info: ResourceInfo, names: dict[schema.Gvk, str]) -> Doc:
    base = f"/api/{info.version}" if not info.group else f"/apis/{info.group}/{info.version}"
    gvk = (info.group, info.version, info.kind)
    model = names.get(gvk, "")
    listed = names.get((info.group, info.version, info.list_kind), model)
    out: Doc = {}
    if info.namespaced and "list" in info.verbs:
        out[f"{base}/{info.plural}"] = {"get": _operation("list", gvk, "", listed, info, everywhere=True)}
    scope = f"{base}/namespaces/{{namespace}}/{info.plural}" if info.namespaced else f"{base}/{info.plural}"
    common = [_NAMESPACE] if info.namespaced else []
    collection: Doc = {}
    if "list" in info.verbs:
        collection["get"] = _operation("list", gvk, "", listed, info)
    if "create" in info.verbs:
        collection["post"] = _operation("create", gvk, model, model, info)
    if "deletecollection" in info.verbs:
        collection["delete"] = _operation("deletecollection", gvk, _DELETE_OPTIONS, _STATUS, info)
    out[scope] = {**collection, **({"parameters": common} if common else {})}
    single: Doc = {}
    for verb in ("get", "update", "patch", "delete"):
        if verb in info.verbs:
            body = {"update": model, "delete": _DELETE_OPTIONS}.get(verb, "")
            single[_ACTIONS[verb]] = _operation(verb, gvk, body, _STATUS if verb == "delete" else model, info)
    if single:
        out[f"{scope}/{{name}}"] = {**single, "parameters": [*common, _NAME]}
    for sub in info.subresources:
        sub_gvk = subresource_kind(info, sub)
        sub_model = names.get(sub_gvk, model)
        item: Doc = {}
        for verb in subresource_verbs(sub):
            if sub in RELAYED:
                item[_ACTIONS[verb]] = _relay_operation(verb, sub_gvk, info, sub)
                continue
            body = sub_model if verb in ("create", "update") else ""
            item[_ACTIONS[verb]] = _operation(verb, sub_gvk, body, sub_model, info, sub)
        out[f"{scope}/{{name}}/{sub}"] = {**item, "parameters": [*common, _NAME]}
    return out


def _parts(infos: Sequence[ResourceInfo]) -> tuple[Doc, Doc]:
    """Paths, and the schemas they and the kinds need."""
    definitions = schema.load_definitions()
    for info in infos:
        if info.custom is not None:
            definitions.update(models.definitions(info))
    names = schema.definition_names(definitions)
    paths: Doc = {}
    roots = [_DELETE_OPTIONS, _STATUS, _PATCH, "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent"]
    for info in infos:
        paths.update(_resource_paths(info, names))
        kinds = [(info.group, info.version, info.kind), (info.group, info.version, info.list_kind)]
        kinds += [subresource_kind(info, s) for s in info.subresources]
        roots += [names[k] for k in kinds if k in names]
    return paths, _schemas(definitions, roots)


@lru_cache(maxsize=64)
def document_bytes(group: str, version: str) -> bytes:
    """The document of a group version as JSON; raises KeyError for one that is not served."""
    infos = builtin(group, version)
    if not infos:
        raise KeyError((group, version))
    return render(infos)


def render(infos: Sequence[ResourceInfo]) -> bytes:
    """One document of these resources."""
    paths, schemas = _parts(infos)
    doc = {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": schema.data_version()},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    return orjson.dumps(doc)


def document_v2(custom: Sequence[ResourceInfo] = (), aggregated: Iterable[Doc] = ()) -> Doc:
    """The one Swagger 2.0 document of all that is served, parts of aggregated servers (`openapi_merge`) included."""
    paths, schemas = _parts([*SCHEME.served(), *EDGE, *custom])
    own = openapi_v2.document("Kubernetes", schema.data_version(), paths, schemas)
    return openapi_merge.merged(own, aggregated)


def builtin(group: str, version: str) -> list[ResourceInfo]:
    """The built-in resources of a group version."""
    return [i for i in (*SCHEME.served(), *EDGE) if (i.group, i.version) == (group, version)]


def document(group: str, version: str) -> Doc:
    doc: Doc = orjson.loads(document_bytes(group, version))
    return doc


def index(custom: Sequence[ResourceInfo] = (), aggregated: Mapping[str, str] = MappingProxyType({})) -> Doc:
    """/openapi/v3: one entry per group version, with a hash so that clients may cache the document for ever.

    `aggregated`: path to serverRelativeURL of those that other servers answer for.
    """
    paths = {}
    for group, version in dict.fromkeys((i.group, i.version) for i in (*SCHEME.served(), *EDGE, *custom)):
        path = f"apis/{group}/{version}" if group else f"api/{version}"
        mine = [i for i in custom if (i.group, i.version) == (group, version)]
        digest = models.digest(mine) if mine else _digest(group, version)
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths | {path: {"serverRelativeURL": url} for path, url in aggregated.items()}}


@lru_cache(maxsize=64)
def _digest(group: str, version: str) -> str:
    """Of what the document is made from, so that the index does not have to build every document."""
    text = f"{schema.data_version()} 2 {builtin(group, version)!r}"
    return hashlib.sha512(text.encode()).hexdigest().upper()
