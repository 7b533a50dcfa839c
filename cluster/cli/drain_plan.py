"""Which pods a drain takes from a node, which stay, and which forbid it: kubectl's rules and words. Pure.

The rules are asked in this order, and the first that keeps a pod ends it; what the last one warns of is told. Pods that
are over need nobody's leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.api.errors import ApiError
from cluster.api.meta import controller_of, parse_time
from cluster.api.pods import is_terminal

Pod = Mapping[str, Any]
MIRROR = "kubernetes.io/config.mirror"
_DAEMON_SET_FATAL = "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"
_DAEMON_SET_WARNING = "ignoring DaemonSet-managed Pods"
_LOCAL_FATAL = "cannot delete Pods with local storage (use --delete-emptydir-data to override)"
_LOCAL_WARNING = "deleting Pods with local storage"
_UNMANAGED_FATAL = "cannot delete Pods that declare no controller (use --force to override)"
_UNMANAGED_WARNING = "deleting Pods that declare no controller"


@dataclass(frozen=True, slots=True)
class Flags:
    """kubectl drain's, with its defaults. `timeout_s` 0: no end; `grace_period_s` below 0: each pod's own."""

    force: bool = False
    ignore_daemonsets: bool = False
    delete_emptydir_data: bool = False
    disable_eviction: bool = False
    grace_period_s: int = -1
    timeout_s: float = 0.0
    skip_wait_s: int = 0
    pod_selector: str = ""
    dry_run: str = "none"
    chunk_size: int = 500

    @property
    def suffix(self) -> str:
        """What is said behind everything that is only tried."""
        return {"client": " (dry run)", "server": " (server dry run)"}.get(self.dry_run, "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one pod: `takes` it, or not; with a warning, or an error, which forbids the whole drain."""

    pod: Pod
    takes: bool
    warning: str = ""
    error: str = ""


_Answer = tuple[bool, str, str]  # takes, warning, error
_TAKE: _Answer = (True, "", "")


def judge(pod: Pod, flags: Flags, now: float, no_daemon_set: ApiError | None = None) -> Verdict:
    """`no_daemon_set`: the answer when the DaemonSet that it says it belongs to was asked for and did not come."""
    answer = _TAKE
    rules: tuple[Callable[[], _Answer], ...] = (
        lambda: (not long_deleted(pod, flags.skip_wait_s, now), "", ""),
        lambda: _daemon_set(pod, flags, no_daemon_set),
        lambda: (MIRROR not in (pod["metadata"].get("annotations") or {}), "", ""),
        lambda: _local_storage(pod, flags),
        lambda: _unmanaged(pod, flags),
    )
    for rule in rules:
        answer = rule()
        if not answer[0]:
            break
    return Verdict(pod, *answer)


def daemon_set_of(pod: Pod) -> str:
    """The name of the DaemonSet that it says it belongs to and that `judge` must know about; or nothing."""
    owner = controller_of(pod)
    return str(owner["name"]) if owner is not None and owner["kind"] == "DaemonSet" and not is_terminal(pod) else ""


def warnings(verdicts: Iterable[Verdict]) -> str:
    return "; ".join(_by_text((v.warning, v.pod) for v in verdicts if v.warning))


def errors(verdicts: Iterable[Verdict]) -> list[str]:
    return _by_text((v.error, v.pod) for v in verdicts if v.error)


def long_deleted(pod: Pod, skip_wait_s: int, now: float) -> bool:
    """It is being deleted for longer than `skip_wait_s` (0: never), so that nobody waits for it."""
    deleted = pod["metadata"].get("deletionTimestamp")
    return bool(skip_wait_s > 0 and deleted and now - parse_time(deleted) > skip_wait_s)


def go_duration(seconds: float) -> str:
    """As Go prints whole seconds: 3s, 1m30s, 1h0m0s."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours}h"] if hours else []
    parts += [f"{minutes}m"] if hours or minutes else []
    return "".join([*parts, f"{rest:g}s"])


def _daemon_set(pod: Pod, flags: Flags, no_daemon_set: ApiError | None) -> _Answer:
    """Force takes the pods of one that is gone, not of one that nobody could ask for."""
    if not daemon_set_of(pod):
        return _TAKE
    if no_daemon_set is not None:
        why, gone = no_daemon_set.message, no_daemon_set.code == 404
        return (True, why, "") if gone and flags.force else (False, "", why)
    return (False, _DAEMON_SET_WARNING, "") if flags.ignore_daemonsets else (False, "", _DAEMON_SET_FATAL)


def _local_storage(pod: Pod, flags: Flags) -> _Answer:
    local = any("emptyDir" in volume for volume in pod["spec"].get("volumes") or ())
    if not local or is_terminal(pod):
        return _TAKE
    return (True, _LOCAL_WARNING, "") if flags.delete_emptydir_data else (False, "", _LOCAL_FATAL)


def _unmanaged(pod: Pod, flags: Flags) -> _Answer:
    if is_terminal(pod) or controller_of(pod) is not None:
        return _TAKE
    return (True, _UNMANAGED_WARNING, "") if flags.force else (False, "", _UNMANAGED_FATAL)


def _by_text(found: Iterable[tuple[str, Pod]]) -> list[str]:
    """`text: namespace/name, namespace/name`, one for each text."""
    pods: dict[str, list[str]] = {}
    for text, pod in found:
        pods.setdefault(text, []).append(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}")
    return [f"{text}: {', '.join(names)}" for text, names in pods.items()]
