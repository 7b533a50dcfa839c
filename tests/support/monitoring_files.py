"""What is in infra/monitoring: the rules, the dashboards' queries, and which series they read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).resolve().parents[2] / "infra" / "monitoring"
_PREFIXES = "etcd|grpc|apiserver|workqueue|leader|scheduler|kube|kubelet|kubeproxy|coredns|container|sk8"
_LABELS = re.compile(r"\{[^}]*\}|\bby \([^)]*\)")
_SERIES = re.compile(rf"(?<![:\w])(?:{_PREFIXES})_[a-z0-9_]+(?![\w:])")


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]:
        yield from group["rules"]


def dashboard_queries() -> list[str]:
    return [
        str(target["expr"])
        for path in sorted((MONITORING / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]


def series_read() -> set[str]:
    """Names of series, without those that a rule records."""
    expressions = [*dashboard_queries(), *(str(rule["expr"]) for rule in rules())]
    return {name for text in expressions for name in _SERIES.findall(_LABELS.sub("", text))}
