"""Durations as flags take them."""

from __future__ import annotations

import pytest

from cluster.api.duration import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("300ms", 0.3), ("30d", 2592000)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "h", "-5m", "5 m", "5x", "1h30"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)
