"""One seed of the whole cluster: faults and changes of mind for a while, then everything is mended and has to rest.

`run(seed)` raises ClusterFailure with the seed, what was violated and what had happened.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from cluster.api.errors import ApiError
from tests.sim.cluster_faults import Nemesis
from tests.sim.cluster_loop import VirtualLoop
from tests.sim.cluster_rest import Always, AtRest
from tests.sim.cluster_users import User
from tests.sim.cluster_world import Sim

START_S = 20.0
FAULTY_S = 240.0
QUIET_S = 90.0
REST_WITHIN_S = 2400.0
_STORY = 60


class ClusterFailure(AssertionError):
    pass


@dataclass(frozen=True)
class Outcome:
    seed: int
    revisions: int
    faults: int
    acts: int
    evictions: int
    virtual_s: float
    digest: str


class _Errors(logging.Handler):
    """Errors that no part expects: whoever logs one with its stack has a bug."""

    def __init__(self, always: Always) -> None:
        super().__init__(logging.ERROR)
        self._always = always

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, ApiError):
            self._always.say(f"{record.getMessage()}: {error!r}")


def run(seed: int) -> Outcome:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(_run(seed, loop))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(5))
        loop.close()


async def _run(seed: int, loop: VirtualLoop) -> Outcome:
    sim = Sim(seed, loop)
    always, nemesis, user = Always(sim), Nemesis(sim), User(sim)
    errors = _Errors(always)
    logging.getLogger("cluster").addHandler(errors)
    try:
        await sim.begin()
        looking = loop.create_task(_look(always))
        await asyncio.sleep(START_S)
        busy = [loop.create_task(nemesis.run()), loop.create_task(user.run())]
        await asyncio.sleep(FAULTY_S)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        nemesis.mend()
        await user.tidy()
        mended = loop.time()
        while loop.time() - max(always.changed_at, mended) < QUIET_S and loop.time() - mended < REST_WITHIN_S:
            await asyncio.sleep(5)
        if loop.time() - mended >= REST_WITHIN_S:
            always.say("it does not come to rest")
        looking.cancel()
        found = always.violations + await AtRest(sim).violations()
    finally:
        logging.getLogger("cluster").removeHandler(errors)
    if found:
        story = "\n".join(sim.story[-_STORY:])
        raise ClusterFailure(f"seed {seed} (again: SK8_SIM_SEED={seed}):\n" + "\n".join(found) + f"\n\n{story}")
    return Outcome(seed, sim.store.revision, nemesis.faults, user.done, always.evictions, loop.time(), sim.digest)


async def _look(always: Always) -> None:
    while True:
        always.look_at_machines()
        await asyncio.sleep(0.25)


if __name__ == "__main__":
    import sys

    began = time.process_time()
    print(run(int(sys.argv[1])), f"{time.process_time() - began:.1f} CPU s")
