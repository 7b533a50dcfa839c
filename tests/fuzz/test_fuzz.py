"""The fuzzing targets as tests: their seeds, hypothesis' bytes, and a short run that follows coverage."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.storage import segment
from tests.fuzz.fuzz_targets import SEEDS, TARGETS

HERE = Path(__file__).parent
RUNS = 5_000


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_understood(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=300))
@settings(max_examples=200)
def test_any_bytes(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@given(steps=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=4)), max_size=4), seed=st.integers(0, 3))
@settings(max_examples=200)
def test_seeds_with_some_bytes_replaced(name: str, steps: list[tuple[int, bytes]], seed: int) -> None:
    data = bytearray(SEEDS[name][seed % len(SEEDS[name])])
    for at, junk in steps:
        place = at % len(data)
        data[place : place + len(junk)] = junk
    TARGETS[name](bytes(data))


def run(name: str, corpus: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "fuzz.py"), name, str(corpus), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=corpus.parent)


atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine"
)


@atheris
@pytest.mark.timeout(660)
@pytest.mark.parametrize("name", TARGETS)
def test_coverage_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    done = run(name, tmp_path / "corpus", f"-runs={RUNS}", "-max_len=600", "-seed=1")
    assert done.returncode == 0, done.stderr[-3000:]
    covered = [int(n) for n in re.findall(r"cov: (\d+)", done.stderr)]
    assert covered and covered[-1] > 30, "it follows no branches"
    assert len(list((tmp_path / "corpus").iterdir())) > len(SEEDS[name]), "and found no new ones"


@atheris
@pytest.mark.timeout(660)
def test_coverage_finds_a_reader_that_believes_what_is_damaged(tmp_path: Path) -> None:
    """A fuzzer that cannot fail proves nothing: this one is given a reader without the check of a record's body."""
    broken = tmp_path / "broken.py"
    source = (HERE / "fuzz.py").read_text()
    patch = "from raft.storage import segment\nsegment._check = lambda data, offset, crc: None\n"
    broken.write_text(source.replace("def main()", f"{patch}\n\ndef main()", 1))
    assert segment._check is not None
    command = [sys.executable, str(broken), "records", str(tmp_path / "corpus"), f"-runs={RUNS}", "-seed=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 77, done.stderr[-3000:]
    assert list(tmp_path.glob("crash-*"))
