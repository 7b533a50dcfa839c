"""One machine: pods on a real kubelet and container engine, and what their network carries beside a bare veth pair.

Needs root; the pods need a container engine on this box too, and are left out, with the reason, where none answers.
What is real and what is not: `_node_pods.py`, `_pod_paths.py`.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks import _node_pods, _pod_paths
from benchmarks.frame import Bench, main


def paths(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(prefix="sk8-bench-") as directory:
        _pod_paths.measure(bench, Path(directory))


def run(bench: Bench) -> None:
    if os.geteuid():
        raise SystemExit("benchmarks.node needs root: it makes network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # what was made goes away then, too
    for name, part in (("pods", _node_pods.measure), ("pod network", paths)):
        try:
            part(bench)
        except _node_pods.Unavailable as err:
            bench.note(f"{name}: left out: {err}")
        except Exception as err:
            if bench.smoke:  # does it run at all?
                raise
            bench.note(f"{name}: failed: {type(err).__name__}: {err}")  # the rows of the other part count all the same


if __name__ == "__main__":
    main(run, __doc__)
