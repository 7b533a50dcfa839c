"""Interactions of members, message by message: each script says what must happen (see core_script.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.raft_core import core_script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path, request: pytest.FixtureRequest) -> None:
    core_script.run(path, rewrite=bool(request.config.getoption("--rewrite")))


def test_there_are_scripts_and_they_can_be_rewritten(tmp_path: Path) -> None:
    assert len(SCRIPTS) >= 10
    for path in SCRIPTS:
        text = path.read_text()
        assert core_script.render(core_script.parse(text)) == text, f"{path.name} is not in the form a rewrite gives it"
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("group 1\n----\n\ncampaign 1\n----\n\nrun\n----\n1 is leader, leader=1\n")
    with pytest.raises(AssertionError, match=r"wrong\.txt: run"):
        core_script.run(wrong, rewrite=False)
    core_script.run(wrong, rewrite=True)
    core_script.run(wrong, rewrite=False)
    assert "1 hard term=2 vote=1" in wrong.read_text()
