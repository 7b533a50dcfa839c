"""The service accounts' signing key is exchanged as docs/security.md says: by openssl and renaming, no token fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from actors.wiring.apiserver import account_keys
from cluster.apiserver.config import ISSUER
from cluster.apiserver.tokens import InvalidToken, TokenSigner, TokenVerifier

NOW = 1_000_000.0


def made(pki: Path, name: str) -> None:
    subprocess.run(["openssl", "genrsa", "-out", pki / f"{name}.key", "2048"], check=True, capture_output=True)
    public = ["openssl", "rsa", "-in", pki / f"{name}.key", "-pubout", "-out", pki / f"{name}.pub"]
    subprocess.run(public, check=True, capture_output=True)


def signed(pki: Path) -> str:
    """By who has `sa.key` as it is now."""
    signer = TokenSigner(str(pki / "sa.key"), ISSUER, lambda: NOW)
    return signer.sign("default", "robot", "u1", audiences=[ISSUER], seconds=3600)[0]


def believed(pki: Path, token: str) -> bool:
    """By an API server that is started now."""
    try:
        TokenVerifier(account_keys(pki), ISSUER, [ISSUER], lambda: NOW).verify(token)
    except InvalidToken:
        return False
    return True


def test_every_public_key_that_was_put_there_counts_and_no_private_one(tmp_path: Path) -> None:
    for name in ("sa.key", "sa.pub", "sa-old.pub", "sa-new.pub", "sa-new.key"):
        (tmp_path / name).write_text("")
    assert [Path(path).name for path in account_keys(tmp_path)] == ["sa.pub", "sa-new.pub", "sa-old.pub"]


def test_tokens_of_both_keys_are_believed_until_the_old_one_is_removed(tmp_path: Path) -> None:
    made(tmp_path, "sa")
    old = signed(tmp_path)
    made(tmp_path, "sa-new")
    assert (tmp_path / "sa-new.key").stat().st_mode & 0o777 == 0o600
    assert believed(tmp_path, old)
    (tmp_path / "sa.pub").rename(tmp_path / "sa-old.pub")
    for kind in ("key", "pub"):
        (tmp_path / f"sa-new.{kind}").rename(tmp_path / f"sa.{kind}")
    new = signed(tmp_path)
    assert believed(tmp_path, old) and believed(tmp_path, new)
    (tmp_path / "sa-old.pub").unlink()
    assert believed(tmp_path, new)
    with pytest.raises(InvalidToken, match="key that is not known"):
        TokenVerifier(account_keys(tmp_path), ISSUER, [ISSUER], lambda: NOW).verify(old)
