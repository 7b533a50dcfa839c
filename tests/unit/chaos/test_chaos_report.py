"""The report says what happened, what broke, and fits in one page without anything from elsewhere."""

from __future__ import annotations

import json
from html.parser import HTMLParser

from cluster.chaos.report import Happened, Report, as_html, as_json, rows, verdict


def report(*problems: str) -> Report:
    done = Happened("kill-machine", ("m1",), 3.0, 10.0, 22.5, 1.2, 0.0, 0.4)
    stuck = Happened("kill-state", ("m2",), 30.0, 30.0, note="after 180 s: <node> m2")
    found = Report("soup", 7, 3, 200.0, [done, stuck], {"slow-link": "no netem"})
    found.requests = {"api": {"answered": 900, "failed": 2}}
    found.series = {"api": [(0, 50, 0), (1, 48, 2)]}
    found.problems = list(problems)
    return found


def test_the_verdict_names_what_broke() -> None:
    assert verdict(report()).endswith("everything held")
    said = verdict(report("money is gone"))
    assert "BROKEN: money is gone" in said and said.endswith("1 promises did not hold")
    assert "2 faults of 2 kinds in 200 s, seed 7" in said and "not tried: slow-link (no netem)" in said


def test_the_verdict_has_the_figures_that_goals_are_about() -> None:
    found = report()
    found.faults.append(
        Happened("kill-leader", ("m3",), 60.0, 65.0, 70.0, 3.4, note="not made: nobody leads", made=False)
    )
    found.lost, found.stuck = ["register-1: 7 was acknowledged last, 6 is stored"], []
    said = verdict(found)
    assert "kill-machine 1, kill-state 1" in said and "kill-leader" not in said
    assert "api: 900 answered (4/s), 2 failed" in said
    assert "web failing when a machine lost power (1 times): 1.2 s at most, 1.2 s in the middle" in said
    assert "acknowledged writes lost: 1; stuck at the end: 0" in said


def test_what_nobody_asked_for_is_no_time_without_failures() -> None:
    """Regression: a run without requests to the web said that it had failed for 0.0 s at most."""
    found = report()
    found.faults[0].web_error_s = None
    assert "web failing" not in verdict(found) and rows(found)[0][5] == "-"


def test_rows_show_recovery_and_a_cluster_that_never_came_back() -> None:
    first, second = rows(report())
    assert first[:5] == ("3.0", "kill-machine", "m1", "7.0", "12.5")
    assert second[4] == "never"


def test_json_can_be_read_back() -> None:
    read = json.loads(as_json(report("x")))
    assert read["held"] is False and read["faults"][0]["recovery_s"] == 12.5 and read["seed"] == 7


def test_the_page_is_whole_and_escaped() -> None:
    page = as_html(report())

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.links: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.links += [value or "" for key, value in attrs if key in ("src", "href")]
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            pass

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    parser = Tags()
    parser.feed(page)
    assert parser.open == [] and parser.links == []
    assert "&lt;node&gt; m2" in page and "power failure" in page
