"""What a pod's containers stand on: its sandbox and its volumes.

Pure. Each is made, tried again more and more slowly when that fails, and given back when the pod ends.

    sandbox: none --StartSandbox--> starting --> ready --StopSandbox--> stopping --> none (its next attempt)
    volumes: none --MountVolumes--> mounting --> mounted --ReleaseVolumes--> releasing --> released
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cluster.node.core_container import Retry
from cluster.node.core_events import SandboxReady, SeenSandbox


def _retry() -> Retry:
    return Retry(0.5, 30.0)


@dataclass(slots=True)
class SandboxState:
    """`lost`: the pause container is gone, and the network with it."""

    phase: Literal["none", "starting", "ready", "stopping"] = "none"
    id: str = ""
    ip: str = ""
    second_ip: str = ""
    attempt: int = 0
    lost: bool = False
    retry: Retry = field(default_factory=_retry)

    def is_due(self, now: float) -> bool:
        return self.phase == "none" and now >= self.retry.at

    def adopt(self, found: SeenSandbox) -> None:
        """One that a kubelet before this one made."""
        self.phase, self.lost = "ready", not found.running
        self.id, self.ip, self.second_ip, self.attempt = found.id, found.ip, found.second_ip, found.attempt

    def became_ready(self, made: SandboxReady) -> None:
        self.phase, self.lost = "ready", False
        self.id, self.ip, self.second_ip = made.id, made.ip, made.second_ip
        self.retry.reset()

    def failed(self, now: float) -> None:
        self.phase = "none"
        self.attempt += 1
        self.retry.failed(now)

    def stopped(self) -> None:
        """Its addresses are shown until the pod has others, or none."""
        self.phase, self.id, self.lost = "none", "", False
        self.attempt += 1
        self.retry.reset()

    def next_wake(self) -> list[float]:
        return [self.retry.at] if self.phase == "none" and self.retry.failures else []


@dataclass(slots=True)
class VolumesState:
    """`waits`: how often one of them was not there yet, which is no failure."""

    phase: Literal["none", "mounting", "mounted", "releasing", "released"] = "none"
    waits: int = 0
    retry: Retry = field(default_factory=_retry)

    def is_due(self, now: float) -> bool:
        return self.phase == "none" and now >= self.retry.at

    def became_mounted(self) -> None:
        self.phase = "mounted"
        self.retry.reset()

    def failed(self, now: float) -> None:
        self.phase = "none"
        self.retry.failed(now)

    def wait(self, now: float) -> None:
        """Somebody else has yet to do something (attach a disk, write a Secret): look again soon, ever less often."""
        self.phase = "none"
        self.waits += 1
        self.retry.at = now + min(0.2 + 0.02 * self.waits, 1.0)

    def next_wake(self) -> list[float]:
        return [self.retry.at] if self.phase == "none" and (self.retry.failures or self.waits) else []
