"""Durations as Go reads them."""

import pytest

from cluster.api import goduration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("30s", 30), ("1h30m", 5400), ("1.5h", 5400), ("300ms", 0.3), ("-2s", -2), ("+1m", 60), (".5s", 0.5),
     ("10us", 1e-5), ("10µs", 1e-5), ("5ns", 5e-9), ("1.s", 1)],
)  # fmt: skip
def test_is_read_as_go_does(text: str, seconds: float) -> None:
    assert goduration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("x", 'time: invalid duration "x"'),
        ("-", 'time: invalid duration "-"'),
        ("10", 'time: missing unit in duration "10"'),
        ("10 s", 'time: unknown unit " s" in duration "10 s"'),
        ("3d", 'time: unknown unit "d" in duration "3d"'),
        ("1e9s", 'time: unknown unit "e" in duration "1e9s"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ("٣s", 'time: invalid duration "٣s"'),
    ],
)
def test_says_what_go_says(text: str, message: str) -> None:
    with pytest.raises(goduration.BadDuration) as raised:
        goduration.parse(text)
    assert str(raised.value) == message
