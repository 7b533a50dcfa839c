"""Whose tokens an API server believes while the signing key is exchanged."""

from __future__ import annotations

from pathlib import Path

from actors.wiring.apiserver import account_keys


def test_every_public_key_that_was_put_there_counts_and_no_private_one(tmp_path: Path) -> None:
    for name in ("sa.key", "sa.pub", "sa-old.pub", "sa-new.pub", "sa-new.key"):
        (tmp_path / name).write_text("")
    assert [Path(path).name for path in account_keys(tmp_path)] == ["sa.pub", "sa-new.pub", "sa-old.pub"]
