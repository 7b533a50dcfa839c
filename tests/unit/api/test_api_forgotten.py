"""Which certificates count of a machine that was forgotten, and how long that has to be known."""

from __future__ import annotations

import pytest

from cluster.api import forgotten
from cluster.api.meta import rfc3339

FORGOTTEN_AT = 1_800_000_000.0


@pytest.mark.parametrize(("after_s", "counts"), [(-1, False), (0, False), (1, True)])
def test_only_what_was_made_in_a_later_second_counts(after_s: float, counts: bool) -> None:
    not_before = FORGOTTEN_AT + after_s - forgotten.BACKDATE_S
    assert forgotten.counts(not_before, FORGOTTEN_AT) is counts


@pytest.mark.parametrize("now", [-299, -60, 0, 0.9, 1, 1.5, 3600])
def test_what_is_made_for_one_who_joins_again_counts_and_is_valid_at_once(now: float) -> None:
    made = forgotten.made_after(FORGOTTEN_AT + now, FORGOTTEN_AT)
    not_before = int(made - forgotten.BACKDATE_S)
    assert forgotten.counts(not_before, FORGOTTEN_AT)
    assert not_before <= FORGOTTEN_AT + now <= made


def test_a_clock_that_is_further_ahead_than_certificates_are_backdated_is_an_error() -> None:
    with pytest.raises(ValueError, match="forgotten 301 s from now"):
        forgotten.made_after(FORGOTTEN_AT - 301, FORGOTTEN_AT)


def test_marks_outlive_every_certificate_from_before() -> None:
    day_s = 86400.0
    ages = {"new": 0.0, "last": 365.0, "old": 366.0}
    data = {name: rfc3339(FORGOTTEN_AT - days * day_s) for name, days in ages.items()} | {"odd": "yesterday"}
    assert forgotten.outlived({"data": data}, FORGOTTEN_AT, 365 * day_s) == ["old"]
    assert forgotten.outlived({}, FORGOTTEN_AT, 0.0) == []
