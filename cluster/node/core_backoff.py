"""A container that does not run: when it is tried again, and what its pod shows until then.

Pure; changes the ContainerState it is given. Words and times are the kubelet's: CrashLoopBackOff after a run that
ended, ErrImagePull and then ImagePullBackOff for an image that cannot be had.
"""

from __future__ import annotations

from typing import Any

from cluster.node.core_container import ContainerState
from cluster.node.core_output import Output

SHOW_ERROR_S = 1.0  # how long ErrImagePull is shown before it turns into ImagePullBackOff


def next_wake(state: ContainerState, policy: str) -> list[float]:
    """When its pod must be looked at again; nothing when only an event can change anything. `policy`: restartPolicy."""
    if state.phase == "exited":
        return [state.try_at()] if state.wants_restart(policy) else []
    if state.waiting_reason == "ErrImagePull":
        return [min(state.try_at(), state.blocked_at + SHOW_ERROR_S)]
    return [state.try_at()] if state.waiting_reason else []


def show(state: ContainerState, pod: dict[str, Any], out: Output, now: float) -> None:
    """Say, once each time, that it waits."""
    meta = pod["metadata"]
    if state.phase == "exited" and state.waiting_reason != "CrashLoopBackOff":
        where = f"pod={meta['name']}_{meta['namespace']}({meta['uid']})"
        delay = _go_duration(state.backoff.current_s)
        state.waiting_reason = "CrashLoopBackOff"
        state.waiting_message = f"back-off {delay} restarting failed container={state.name} {where}"
        text = f"Back-off restarting failed container {state.name} in pod {meta['name']}_{meta['namespace']}"
        out.emit("Warning", "BackOff", f"{text}({meta['uid']})", state.name)
    elif state.waiting_reason == "ErrImagePull" and now >= state.blocked_at + SHOW_ERROR_S:
        state.waiting_reason = "ImagePullBackOff"
        image = state.spec.get("image", "")
        state.waiting_message = f'Back-off pulling image "{image}": ErrImagePull: {state.waiting_message}'
        out.emit("Normal", "BackOff", f'Back-off pulling image "{image}"', state.name)


def _go_duration(seconds: float) -> str:
    """10 -> 10s, 80 -> 1m20s, 300 -> 5m0s: as Go prints durations."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
