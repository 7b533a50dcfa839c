"""Nodes, and labels of nodes that have gone out of use.

Pure. Source: pkg/api/node/util.go, pkg/registry/core/node/strategy.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Object = dict[str, Any]

_TOPOLOGY = "topology.kubernetes.io"
_OUTDATED = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "failure-domain.beta.kubernetes.io/region": f'deprecated since v1.17; use "{_TOPOLOGY}/region" instead',
    "failure-domain.beta.kubernetes.io/zone": f'deprecated since v1.17; use "{_TOPOLOGY}/zone" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
    "app.kubernetes.io/created-by": "deprecated since v1.9",
    "scheduler.alpha.kubernetes.io/preferAvoidPods": "deprecated since v1.22; use Taints and Tolerations instead",
    "node-role.kubernetes.io/master": 'use "node-role.kubernetes.io/control-plane" instead',
}


def outdated_label(key: str) -> str:
    """What to say of a label's key; "" for one that is in use."""
    return _OUTDATED.get(key, "")


def outdated_key(path: str, key: str) -> Iterator[str]:
    """The label is named as the value of the field at `path`."""
    if why := outdated_label(key):
        yield f"{path}: {key} is {why}"


def selector_terms(path: str, terms: Iterable[Object]) -> Iterator[str]:
    for i, term in enumerate(terms):
        yield from selector_term(f"{path}[{i}]", term)


def selector_term(path: str, term: Object) -> Iterator[str]:
    for i, expression in enumerate(term.get("matchExpressions") or ()):
        yield from outdated_key(f"{path}.matchExpressions[{i}].key", expression.get("key", ""))


def label_selector(path: str, selector: Object) -> Iterator[str]:
    yield from selector_term(path, selector)
    for key in sorted(selector.get("matchLabels") or ()):
        if why := outdated_label(key):
            yield f"{path}.matchLabels.{key}: {why}"


def node(new: Object, old: Object | None) -> Iterator[str]:
    if (new.get("spec") or {}).get("externalID"):
        yield "spec.externalID: this field is deprecated, and is unused by Kubernetes"


def runtime_class(new: Object, old: Object | None) -> Iterator[str]:
    for key in sorted((new.get("scheduling") or {}).get("nodeSelector") or ()):
        if why := outdated_label(key):
            yield f"scheduling.nodeSelector: {why}"
