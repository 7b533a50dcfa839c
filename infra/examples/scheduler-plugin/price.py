"""A scheduler plugin: nodes say in label `example.com/price` what they cost; pods name the most they pay.

Named in scheduler.yaml beside this file; the scheduler's Python must be able to import it (`pip install`, or a
directory of PYTHONPATH).
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Price:
    static = True
    reason = "node(s) cost more than the pod pays"

    def __init__(self, args: dict[str, Any]) -> None:
        self.label = args.get("label", "example.com/price")
        self.dearest = float(args.get("dearest", 100))

    def filter(self, pod: Any, nodes: Any) -> Any:
        """Pods with label max-price stay off dearer nodes."""
        limit = float(dict(pod.labels).get("max-price", "inf"))
        return nodes.number(self.label) <= limit

    def score(self, pod: Any, nodes: Any) -> Any:
        """The cheaper the better."""
        return np.clip(100.0 - nodes.number(self.label) * 100.0 / self.dearest, 0.0, 100.0)
