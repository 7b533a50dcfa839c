"""The scheduler's settings, under kube-scheduler's names. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """`batch` pods are decided per step; up to `parallel_binds` bind transactions are under way at once."""

    scheduler_name: str = "default-scheduler"
    identity: str = "scheduler"
    lease_ttl_s: int = 3
    batch: int = 512
    parallel_binds: int = 4

    def validate(self) -> None:
        """Raises ValueError that says what is wrong and what would be right."""
        if not self.scheduler_name:
            raise ValueError("scheduler_name is empty: pods name their scheduler, the usual name is default-scheduler")
        if self.batch < 1 or self.parallel_binds < 1:
            raise ValueError(f"batch ({self.batch}) and parallel_binds ({self.parallel_binds}) must be 1 or more")
        if self.lease_ttl_s < 2:
            raise ValueError(f"lease_ttl_s is {self.lease_ttl_s}: use 2 s or more, it is renewed every third of it")
