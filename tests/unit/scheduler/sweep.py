"""The oracles' tests over many more generated clusters than CI takes: `make scheduler-cases SEEDS=20000`.

    python -m tests.unit.scheduler.sweep SEEDS [FIRST]

Every seed is a cluster with ten decisions, a batch of up to 120 pods against one by one, and a preemption. Prints how
many of each were asked; the first that differs raises, with its seed.
"""

from __future__ import annotations

import sys

from tests.unit.scheduler.test_against_oracle import check_batch, check_choices
from tests.unit.scheduler.test_preempt_oracle import check


def main() -> None:
    seeds, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    decisions = batched = evictions = 0
    for seed in range(first, first + seeds):
        decisions += check_choices(seed)
        batched += check_batch(seed, rules=bool(seed % 2))
        evictions += check(seed, rules=bool(seed % 2))
    print(f"{decisions} decisions, {batched} pods in batches, {evictions} evictions: all as the rules say")


if __name__ == "__main__":
    main()
