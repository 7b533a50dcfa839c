"""A pod's spec and metadata, wherever they stand.

Pure. Source: pkg/api/pod/warnings.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cluster.api.validation.advice import nodes, storage

Object = dict[str, Any]

_ANNOTATIONS = {
    "scheduler.alpha.kubernetes.io/critical-pod": 'non-functional in v1.16+; use the "priorityClassName" field instead',
    "security.alpha.kubernetes.io/sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "security.alpha.kubernetes.io/unsafe-sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
}
_SECCOMP = "seccomp.security.alpha.kubernetes.io/pod"
_SECCOMP_OF = "container.seccomp.security.alpha.kubernetes.io/"
_NO_SECCOMP = 'non-functional in v1.27+; use the "seccompProfile" field instead'
_APPARMOR_OF = "container.apparmor.security.beta.kubernetes.io/"
_OLD_APPARMOR = 'deprecated since v1.30; use the "appArmorProfile" field instead'
_REQUIRED, _PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)
_NEGATIVE_GRACE = "must be >= 0; negative values are invalid and will be treated as 1"
_NO_SELECTOR = "a null labelSelector results in matching no pod"


def pod(at: str, metadata: Object, spec: Object) -> Iterator[str]:
    """`at`: the path that spec and metadata are below, with its dot."""
    annotations = metadata.get("annotations") or {}
    yield from _placement(f"{at}spec", spec)
    for key, why in _ANNOTATIONS.items():
        if key in annotations:
            yield f"{at}metadata.annotations[{key}]: {why}"
    yield from _volumes(f"{at}spec.volumes", spec.get("volumes") or ())
    yield from _repeated(f"{at}spec.hostAliases", spec.get("hostAliases") or (), "ip")
    yield from _pull_secrets(f"{at}spec.imagePullSecrets", spec.get("imagePullSecrets") or ())
    for resource in ("memory", "ephemeral-storage"):
        yield from storage.fraction(f"{at}spec.overhead", spec.get("overhead"), resource)
    if annotations:
        yield from _profiles(f"{at}metadata.annotations", annotations, spec)
    for path, container in _containers(f"{at}spec", spec):
        yield from _container(path, container)
    yield from _ports(_containers(f"{at}spec", spec))
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        yield f"{at}spec.terminationGracePeriodSeconds: {_NEGATIVE_GRACE}"
    if spec.get("affinity"):
        yield from _affinity(f"{at}spec.affinity", spec["affinity"])


def _containers(at: str, spec: Object) -> Iterator[tuple[str, Object]]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for i, container in enumerate(spec.get(field) or ()):
            yield f"{at}.{field}[{i}]", container


def _placement(at: str, spec: Object) -> Iterator[str]:
    for key in sorted(spec.get("nodeSelector") or ()):
        if why := nodes.outdated_label(key):
            yield f"{at}.nodeSelector[{key}]: {why}"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    path = f"{at}.affinity.nodeAffinity"
    terms = (affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or ()
    yield from nodes.selector_terms(f"{path}.{_REQUIRED}.nodeSelectorTerms", terms)
    for i, term in enumerate(affinity.get(_PREFERRED) or ()):
        yield from nodes.selector_term(f"{path}.{_PREFERRED}[{i}].preference", term.get("preference") or {})
    for i, constraint in enumerate(spec.get("topologySpreadConstraints") or ()):
        path = f"{at}.topologySpreadConstraints[{i}]"
        yield from nodes.outdated_key(f"{path}.topologyKey", constraint.get("topologyKey", ""))
        if constraint.get("labelSelector") is None:
            yield f"{path}.labelSelector: {_NO_SELECTOR}"


def _affinity(at: str, affinity: Object) -> Iterator[str]:
    for field in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(field) or {}
        for i, term in enumerate(terms.get(_REQUIRED) or ()):
            if term.get("labelSelector") is None:
                yield f"{at}.{field}.{_REQUIRED}[{i}].labelSelector: {_NO_SELECTOR}"
        for i, weighted in enumerate(terms.get(_PREFERRED) or ()):
            if (weighted.get("podAffinityTerm") or {}).get("labelSelector") is None:
                yield f"{at}.{field}.{_PREFERRED}[{i}].podAffinityTerm.labelSelector: {_NO_SELECTOR}"


def _volumes(at: str, volumes: Iterable[Object]) -> Iterator[str]:
    tokens: set[str] = set()
    for i, volume in enumerate(volumes):
        yield from storage.gone_plugins(f"{at}[{i}]", volume)
        template = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
        if template:
            yield from storage.claim_spec(f"{at}[{i}].ephemeral.volumeClaimTemplate.spec", template.get("spec") or {})
        for source in (volume.get("projected") or {}).get("sources") or ():
            if source.get("serviceAccountToken"):
                tokens.add(source["serviceAccountToken"].get("path", ""))
    if tokens:
        for i, volume in enumerate(volumes):
            for source in (volume.get("projected") or {}).get("sources") or ():
                yield from _hidden_tokens(f"{at}[{i}].projected.sources", source, tokens)


def _hidden_tokens(at: str, source: Object, tokens: set[str]) -> Iterator[str]:
    for field, shown in (("configMap", "configMap"), ("secret", "secrets"), ("downwardAPI", "downwardAPI")):
        for i, item in enumerate((source.get(field) or {}).get("items") or ()):
            if item.get("path") in tokens:
                yield f'{at}.{shown}[{i}]: has duplicated path with ServiceAccountToken "{item["path"]}"'
    bundle = (source.get("clusterTrustBundle") or {}).get("path")
    if bundle in tokens:
        yield f'{at}.ClusterTrustBundle: has duplicated path with ServiceAccountToken "{bundle}"'


def _repeated(at: str, items: Iterable[Object], field: str) -> Iterator[str]:
    seen: set[str] = set()
    for i, item in enumerate(items):
        value = item.get(field) or ""
        if value in seen:
            yield f'{at}[{i}].{field}: duplicate {field} "{value}"'
        seen.add(value)


def _pull_secrets(at: str, secrets: Iterable[Object]) -> Iterator[str]:
    yield from _repeated(at, secrets, "name")
    for i, secret in enumerate(secrets):
        if not secret.get("name"):
            yield f'{at}[{i}].name: invalid empty name ""'


def _profiles(at: str, annotations: Object, spec: Object) -> Iterator[str]:
    """Profiles of seccomp and AppArmor have fields by now."""
    of_pod = spec.get("securityContext") or {}
    if _SECCOMP in annotations and of_pod.get("seccompProfile") is None:
        yield f"{at}[{_SECCOMP}]: {_NO_SECCOMP}"
    for _, container in _containers("", spec):
        own, name = container.get("securityContext") or {}, container.get("name", "")
        if _SECCOMP_OF + name in annotations and own.get("seccompProfile") is None:
            yield f"{at}[{_SECCOMP_OF}{name}]: {_NO_SECCOMP}"
        has_field = own.get("appArmorProfile") is not None or of_pod.get("appArmorProfile") is not None
        if _APPARMOR_OF + name in annotations and not has_field:
            yield f"{at}[{_APPARMOR_OF}{name}]: {_OLD_APPARMOR}"


def _container(at: str, container: Object) -> Iterator[str]:
    resources = container.get("resources")
    if resources:
        for resource in ("memory", "ephemeral-storage"):
            for field in ("limits", "requests"):
                yield from storage.fraction(f"{at}.resources.{field}", resources.get(field), resource)
    seen: set[str] = set()
    for i, variable in enumerate(container.get("env") or ()):
        name = variable.get("name", "")
        if name in seen and _hides(variable, f"$({name})"):
            yield f'{at}.env[{i}]: hides previous definition of "{name}", which may be dropped when using apply'
        seen.add(name)


def _hides(variable: Object, reference: str) -> bool:
    """Whether nothing is left of the variable's former value, or nothing but it."""
    value = variable.get("value") or ""
    return variable.get("valueFrom") is not None or value == reference or reference not in value


def _ports(containers: Iterable[tuple[str, Object]]) -> Iterator[str]:
    """Of all containers together. Only those ports are compared of which there is something to say."""
    same: dict[tuple[Any, ...], list[str]] = {}
    by_host_port: dict[tuple[Any, ...], dict[str, list[str]]] = {}
    for at, container in containers:
        for i, port in enumerate(container.get("ports") or ()):
            path, host, ip = f"{at}.ports[{i}]", port.get("hostPort") or 0, port.get("hostIP") or ""
            if ip and not host:
                yield f"{path}: hostIP set without hostPort: {_shown(port)}"
            key = port.get("containerPort"), port.get("protocol")
            for other in same.get((*key, host, ip), ()):
                yield f"{path}: duplicate port definition with {other}"
            yield from _clashes(path, key, host, ip, by_host_port)
            same.setdefault((*key, host, ip), []).append(path)
            by_host_port.setdefault((*key, host), {}).setdefault(ip, []).append(path)
            by_host_port.setdefault((*key, "any"), {}).setdefault(f"{host}/{ip}", []).append(path)


def _clashes(
    path: str, key: tuple[Any, ...], host: int, ip: str, known: dict[tuple[Any, ...], dict[str, list[str]]]
) -> Iterator[str]:
    if host == 0:
        for address, others in known.get((*key, "any"), {}).items():
            for other in others if address != f"0/{ip}" else ():
                yield f"{path}: overlapping port definition with {other}"
        return
    for others in known.get((*key, 0), {}).values():
        for other in others:
            yield f"{path}: overlapping port definition with {other}"
    for address, others in known.get((*key, host), {}).items():
        for other in others if bool(address) != bool(ip) else ():
            yield f"{path}: dangerously ambiguous port definition with {other}"


def _shown(port: Object) -> str:
    fields = (("Name", "name", ""), ("HostPort", "hostPort", 0), ("ContainerPort", "containerPort", 0))
    more = (("Protocol", "protocol", ""), ("HostIP", "hostIP", ""))
    return "{" + " ".join(f"{go}:{port.get(name, unset)}" for go, name, unset in (*fields, *more)) + "}"
