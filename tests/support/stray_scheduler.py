"""A scheduler under a lease of its own: what an accident of configuration starts beside the one there should be.

python -m tests.support.stray_scheduler scheduler MACHINE BASE_DIR
"""

from __future__ import annotations

from functools import partial

from actors.wiring import scheduler
from cluster.machinery.election import Elector
from tests.support import part_process


def _under_another_lease(store, component, *of):  # type: ignore[no-untyped-def]
    return Elector(store, f"stray-{component}", *of)


if __name__ == "__main__":
    scheduler.Elector = partial(_under_another_lease)  # type: ignore[assignment,misc]
    part_process.main()
