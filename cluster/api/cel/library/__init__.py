"""The functions that Kubernetes adds to CEL: lists, sets, regex, URLs, formats, quantities, versions, addresses, authz.

Pure. A module here is one topic, as in k8s.io/apiserver `pkg/cel/library`, whose names and meanings these are; its
`declare` tells the engine of its functions (`declaring.Declarations`). Values of types of their own (Quantity, IP, ...)
travel as maps of one key (`values`).
"""

from __future__ import annotations

from typing import Any

from cluster.api.cel.library import addresses, authz, formats, lists, ordered, regex, urls
from cluster.api.cel.library.declaring import Declarations

_TOPICS = (lists, regex, urls, formats, ordered, addresses, authz)


def declarations(cel: Any) -> list[Any]:
    """Function declarations for the engine's module `cel`."""
    declared = Declarations(cel)
    for topic in _TOPICS:
        topic.declare(declared)
    return declared.functions()
