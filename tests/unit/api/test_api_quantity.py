"""Quantities: values, rounding, canonical text."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.api import quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0.5", "500m"), ("1000m", "1"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("100", "100"),
        ("0", "0"), ("2e3", "2e3"),
        ("0.1Gi", "107374182400m"), ("1000Ki", "1000Ki"), ("5000", "5k"), ("-1", "-1"),
        ("1.0", "1"), ("0.0000000001", "1n"),
    ],
)  # fmt: skip
def test_canonical(text: str, canonical: str) -> None:
    assert quantity.canonical(text) == canonical


def test_units_round_up() -> None:
    assert quantity.millis("100m") == 100
    assert quantity.millis("0.0001") == 1
    assert quantity.millis(2) == 2000
    assert quantity.units("1Ki") == 1024
    assert quantity.units("1500m") == 2
    assert quantity.parse_quantity("1E") == Fraction(10**18)


@pytest.mark.parametrize("text", ["", "abc", "1 Gi", "1gi", "--1", "1e", "0x10"])
def test_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        quantity.parse_quantity(text)


@given(st.integers(0, 2**62), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "u", "n"]))
def test_canonical_keeps_the_value(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    value = quantity.parse_quantity(text)
    assert quantity.parse_quantity(quantity.canonical(text)) == value
    assert quantity.canonical(quantity.canonical(text)) == quantity.canonical(text)
