"""Reading a Deployment and its ReplicaSets: sizes, revisions, and how far a rolling update may go. Pure."""

from __future__ import annotations

from cluster.controllers.percent import scaled
from cluster.machinery.client import Obj

REVISION = "deployment.kubernetes.io/revision"


def replicas(obj: Obj) -> int:
    value = obj["spec"].get("replicas")
    return 1 if value is None else int(value)


def available(rs: Obj) -> int:
    return int((rs.get("status") or {}).get("availableReplicas") or 0)


def revision(obj: Obj) -> int:
    try:
        return int((obj["metadata"].get("annotations") or {}).get(REVISION, "0"))
    except ValueError:
        return 0


def rolling_bounds(deployment: Obj) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) as numbers: surge rounds up, unavailable down; never both 0."""
    strategy = deployment["spec"].get("strategy") or {}
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return 0, 0
    rolling = strategy.get("rollingUpdate") or {}
    want = replicas(deployment)
    surge = scaled(rolling.get("maxSurge", "25%"), want, up=True)
    unavailable = scaled(rolling.get("maxUnavailable", "25%"), want, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, want) if want else unavailable
