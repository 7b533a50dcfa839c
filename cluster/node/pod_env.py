"""Environment, command and arguments of a container, as Kubernetes resolves them.

Pure: the ConfigMaps, Secrets and Services it needs are passed in. Source: Kubernetes' API reference (EnvVar,
EnvFromSource) and "Define Environment Variables for a Container": `$(NAME)` expands, `$$(NAME)` escapes, unknown names
stay as written.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.api.pods import amount
from cluster.api.quantity import parse_quantity

Obj = dict[str, Any]
_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")


class ConfigError(Exception):
    """The container cannot be configured: CreateContainerConfigError."""


@dataclass(frozen=True, slots=True)
class EnvContext:
    """What references point into. `second_...`: of the other family. ConfigMaps and Secrets by name; None: it does not
    exist."""

    pod: Obj
    pod_ip: str
    node_ip: str
    second_pod_ip: str = ""
    second_node_ip: str = ""
    config_maps: Mapping[str, Obj | None] = field(default_factory=dict)
    secrets: Mapping[str, Obj | None] = field(default_factory=dict)
    services: Sequence[Obj] = ()
    allocatable: Mapping[str, int] = field(default_factory=dict)


def references(container: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The names of the ConfigMaps and of the Secrets that a container's environment refers to."""
    config_maps: set[str] = set()
    secrets: set[str] = set()
    for source in container.get("envFrom") or ():
        if "configMapRef" in source:
            config_maps.add(source["configMapRef"].get("name", ""))
        if "secretRef" in source:
            secrets.add(source["secretRef"].get("name", ""))
    for entry in container.get("env") or ():
        source = entry.get("valueFrom") or {}
        if "configMapKeyRef" in source:
            config_maps.add(source["configMapKeyRef"].get("name", ""))
        if "secretKeyRef" in source:
            secrets.add(source["secretKeyRef"].get("name", ""))
    return config_maps, secrets


def expand(text: str, variables: Mapping[str, str]) -> str:
    """$(NAME) -> value; $$ -> $; anything else as it is."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        return variables.get(name, match.group(0))

    return _REFERENCE.sub(replace, text)


def environment(container: Obj, context: EnvContext) -> dict[str, str]:
    """All variables, in order: service links, envFrom, env. Raises ConfigError."""
    result = service_variables(context.pod, context.services)
    for source in container.get("envFrom") or ():
        result.update(_env_from(source, context))
    for entry in container.get("env") or ():
        value = _value(entry, container, context, result)
        if value is not None:
            result[entry["name"]] = value
    return result


def command_line(container: Obj, variables: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(command, args) with variables expanded; empty where the image decides."""
    command = tuple(expand(part, variables) for part in container.get("command") or ())
    args = tuple(expand(part, variables) for part in container.get("args") or ())
    return command, args


def data_of(obj: Obj, kind: str) -> dict[str, bytes]:
    """The keys of a ConfigMap or a Secret as bytes."""
    if kind == "secret":
        return {k: base64.b64decode(v or "") for k, v in (obj.get("data") or {}).items()}
    data = {k: str(v).encode() for k, v in (obj.get("data") or {}).items()}
    data.update({k: base64.b64decode(v or "") for k, v in (obj.get("binaryData") or {}).items()})
    return data


def _env_from(source: Obj, context: EnvContext) -> dict[str, str]:
    prefix = source.get("prefix", "")
    for key, kind, objects in (
        ("configMapRef", "configmap", context.config_maps),
        ("secretRef", "secret", context.secrets),
    ):
        ref = source.get(key)
        if ref is None:
            continue
        obj = objects.get(ref.get("name", ""))
        if obj is None:
            if ref.get("optional"):
                return {}
            raise ConfigError(f'{kind} "{ref.get("name", "")}" not found')
        return {prefix + k: v.decode("utf-8", "replace") for k, v in sorted(data_of(obj, kind).items())}
    return {}


def _value(entry: Obj, container: Obj, context: EnvContext, known: Mapping[str, str]) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        return expand(str(entry.get("value") or ""), known)
    if "fieldRef" in source:
        return field_value(source["fieldRef"]["fieldPath"], context)
    if "resourceFieldRef" in source:
        return resource_value(source["resourceFieldRef"], container, context)
    for key, kind, objects in (
        ("configMapKeyRef", "configmap", context.config_maps),
        ("secretKeyRef", "secret", context.secrets),
    ):
        if key in source:
            return _key_value(source[key], kind, objects, context)
    raise ConfigError(f"env {entry['name']}: unsupported valueFrom: {', '.join(sorted(source))}")


def _key_value(ref: Obj, kind: str, objects: Mapping[str, Obj | None], context: EnvContext) -> str | None:
    name, key = ref.get("name", ""), ref.get("key", "")
    obj = objects.get(name)
    if obj is None:
        if ref.get("optional"):
            return None
        raise ConfigError(f'{kind} "{name}" not found')
    data = data_of(obj, kind)
    if key not in data:
        if ref.get("optional"):
            return None
        where = "ConfigMap" if kind == "configmap" else "Secret"
        raise ConfigError(f"couldn't find key {key} in {where} {context.pod['metadata']['namespace']}/{name}")
    return data[key].decode("utf-8", "replace")


def field_value(path: str, context: EnvContext) -> str:
    """The downward API's fieldRef. Raises ConfigError for a path it does not have."""
    meta, spec = context.pod["metadata"], context.pod["spec"]
    simple = {
        "metadata.name": meta.get("name", ""),
        "metadata.namespace": meta.get("namespace", ""),
        "metadata.uid": meta.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.host": spec.get("nodeName", ""),  # its name before v1
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": context.node_ip,
        "status.hostIPs": ",".join(filter(None, (context.node_ip, context.second_node_ip))),
        "status.podIP": context.pod_ip,
        "status.podIPs": ",".join(filter(None, (context.pod_ip, context.second_pod_ip))),
    }
    if path in simple:
        return str(simple[path])
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = meta.get(path.split(".")[1]) or {}
        return "\n".join(f'{k}="{_escape(str(v))}"' for k, v in sorted(pairs.items()))
    match = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
    if match:
        return str((meta.get(match.group(1)) or {}).get(match.group(2), ""))
    raise ConfigError(f"unsupported fieldPath: {path}")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(ref: Obj, container: Obj, context: EnvContext) -> str:
    """The downward API's resourceFieldRef, divided and rounded up; limits default to what the node can give."""
    which, _, resource = str(ref.get("resource", "")).partition(".")
    if which not in ("limits", "requests") or not resource:
        raise ConfigError(f"unsupported container resource: {ref.get('resource')}")
    given = (container.get("resources") or {}).get(which) or {}
    if resource in given:
        value = amount(resource, given[resource])
    elif which == "limits":
        value = context.allocatable.get(resource, 0)
    else:
        value = 0
    divisor = parse_quantity(ref.get("divisor") or "1")
    if divisor == 0:
        divisor = parse_quantity("1")
    scaled = parse_quantity(value) / (1000 if resource == "cpu" else 1) / divisor
    return str(-((-scaled.numerator) // scaled.denominator))


def service_variables(pod: Obj, services: Iterable[Obj]) -> dict[str, str]:
    """Docker-link style variables of the namespace's Services; always those of default/kubernetes."""
    namespace = pod["metadata"].get("namespace", "")
    links = pod["spec"].get("enableServiceLinks", True) is not False
    result: dict[str, str] = {}
    for service in sorted(services, key=lambda s: str(s["metadata"]["name"])):
        meta, spec = service["metadata"], service.get("spec") or {}
        master = meta["name"] == "kubernetes" and meta.get("namespace") == "default"
        if not master and not (links and meta.get("namespace") == namespace):
            continue
        address = spec.get("clusterIP") or ""
        ports = spec.get("ports") or []
        if address in ("", "None") or not ports:
            continue
        result.update(_service(str(meta["name"]), address, ports))
    return result


def _service(name: str, address: str, ports: Sequence[Obj]) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    first = ports[0]
    out = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(first["port"])}
    for port in ports:
        if port.get("name"):
            out[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    for index, port in enumerate(ports):
        protocol = str(port.get("protocol") or "TCP")
        url = f"{protocol.lower()}://{address}:{port['port']}"
        if index == 0:
            out[f"{prefix}_PORT"] = url
        stem = f"{prefix}_PORT_{port['port']}_{protocol}"
        out.update(
            {
                stem: url,
                f"{stem}_PROTO": protocol.lower(),
                f"{stem}_PORT": str(port["port"]),
                f"{stem}_ADDR": address,
            }
        )
    return out
