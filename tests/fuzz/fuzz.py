"""Coverage-guided fuzzing of one target: `make fuzz SECONDS=60`, or

    python tests/fuzz/fuzz.py frames build/fuzz/frames -max_total_time=60       (libFuzzer's arguments)
    python tests/fuzz/fuzz.py frames crash-0123...                              replays what was found

Atheris instruments raft/ and follows the branches that an input takes. Exits with libFuzzer's code: 77 when an input is
found that a target raises for; its bytes are then in ./crash-<sha1>.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["raft"]):
    from tests.fuzz.fuzz_targets import SEEDS, TARGETS


def main() -> None:
    name, *arguments = sys.argv[1:]
    for corpus in (Path(a) for a in arguments if not a.startswith("-") and not Path(a).is_file()):
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(SEEDS[name]):
            (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
