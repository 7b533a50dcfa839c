"""A chaos run as text, JSON and one HTML page with its timeline. Pure."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from cluster.chaos.plan import ACTORS, KINDS

_POWER = ("kill-machine", "kill-leader", "kill-head")


@dataclass(slots=True)
class Happened:
    """One fault as it went. Times are seconds since the run began; `whole_s` is when all was as before again.

    `web_error_s` and `api_error_s` are the time in which requests failed, `web_spans` where it lay: (seconds after the
    fault began, how long, failed requests); `api_pause_s` is the longest time without an answer; None where nobody
    asked. One that was not `made` says why in its note.
    """

    kind: str
    targets: tuple[str, ...]
    began_s: float
    ended_s: float = 0.0
    whole_s: float | None = None
    web_error_s: float | None = None
    web_spans: list[tuple[float, float, int]] = field(default_factory=list)
    api_error_s: float | None = None
    api_pause_s: float | None = None
    note: str = ""
    made: bool = True

    @property
    def recovery_s(self) -> float | None:
        """From the end of the fault to all as before."""
        return None if self.whole_s is None else self.whole_s - self.ended_s


@dataclass(slots=True)
class Report:
    """`problems` are broken promises: empty means that everything held. `lost` and `stuck` are those of them that are
    acknowledged writes, and what does not come to rest."""

    scenario: str
    seed: int
    machines: int
    seconds: float = 0.0
    faults: list[Happened] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    requests: dict[str, dict[str, int]] = field(default_factory=dict)
    watch_relists: int = 0
    problems: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    series: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)

    @property
    def made(self) -> Counter[str]:
        """How often each kind of fault was really there."""
        return Counter(f.kind for f in self.faults if f.made)

    @property
    def held(self) -> bool:
        return not self.problems


def as_json(report: Report) -> str:
    faults = [asdict(f) | {"recovery_s": f.recovery_s} for f in report.faults]
    return json.dumps(asdict(report) | {"held": report.held, "faults": faults}, indent=1)


def rows(report: Report) -> list[tuple[str, ...]]:
    """One a fault: when, what, where, how long, whole again after, failing time of web and API, longest API pause."""
    return [
        (
            f"{f.began_s:.1f}", f.kind, "+".join(f.targets), f"{f.ended_s - f.began_s:.1f}",
            "never" if f.recovery_s is None else f"{f.recovery_s:.1f}",
            _shown(f.web_error_s), _shown(f.api_error_s), _shown(f.api_pause_s), f.note,
        )
        for f in report.faults
    ]  # fmt: skip


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


COLUMNS = ("at (s)", "fault", "where", "lasted", "whole after", "web failing", "api failing", "api pause", "note")


def verdict(report: Report) -> str:
    made = report.made
    lines = [f"{made.total()} faults of {len(made)} kinds in {report.seconds:.0f} s, seed {report.seed}"]
    lines.append(", ".join(f"{kind} {made[kind]}" for kind in KINDS if kind in made))
    for name, n in report.requests.items():
        rate = n["answered"] / max(report.seconds, 1.0)
        lines.append(f"{name}: {n['answered']} answered ({rate:.0f}/s), {n['failed']} failed")
    lines += list(_service_times(report))
    lines += [f"not tried: {kind} ({why})" for kind, why in report.left_out.items()]
    lines.append(f"acknowledged writes lost: {len(report.lost)}; stuck at the end: {len(report.stuck)}")
    lines += [f"BROKEN: {problem}" for problem in report.problems]
    lines.append("everything held" if report.held else f"{len(report.problems)} promises did not hold")
    return "\n".join(lines)


def _service_times(report: Report) -> Iterator[str]:
    """How long a Service failed, for what has a goal."""
    for what, kinds in (("a machine lost power", _POWER), ("an actor was killed", [f"kill-{a}" for a in ACTORS])):
        made = [f for f in report.faults if f.kind in kinds and f.made]
        if times := sorted(f.web_error_s for f in made if f.web_error_s is not None):
            most, middle = times[-1], times[len(times) // 2]
            yield f"web failing when {what} ({len(times)} times): {most:.1f} s at most, {middle:.1f} s in the middle"


# -- one page --------------------------------------------------------------------------------------------------------
_WIDTH, _LANE = 1100, 90
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1160px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .2rem .6rem }
tr:nth-child(even) { background: #8881 } svg { width: 100%; height: auto } .bad { color: #c22 } .good { color: #282 }
"""


def as_html(report: Report) -> str:
    """One file without anything from elsewhere; the plots are drawn in it, the numbers are in its table too."""
    said = html.escape(verdict(report)).replace("\n", "<br>")
    plots = "".join(_plot(name, series, report) for name, series in report.series.items())
    head = "".join(f"<th scope=col>{html.escape(c)}</th>" for c in COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows(report))
    kinds = dict.fromkeys(f.kind for f in report.faults)
    about = "".join(f"<dt>{kind}</dt><dd>{html.escape(KINDS[kind].text)}</dd>" for kind in kinds)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>sk8 chaos: {html.escape(report.scenario)}</title>"
        f"<style>{_STYLE}</style><h1>Chaos: {html.escape(report.scenario)}</h1>"
        f"<p class={'good' if report.held else 'bad'}>{said}</p>{plots}"
        f"<h2>Faults</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<h2>What they are</h2><dl>{about}</dl></html>\n"
    )


def _plot(name: str, series: Sequence[tuple[int, int, int]], report: Report) -> str:
    """Answers a second above the line, failures in red, the time of each fault shaded."""
    span = max(report.seconds, 1.0)
    top = max((good + bad for _, good, bad in series), default=1) or 1
    width = max(_WIDTH / span, 0.5)
    bars = "".join(_bars(series, span, top, width))
    shades = "".join(
        f"<rect x='{f.began_s / span * _WIDTH:.1f}' y=0 height={_LANE} fill='#fa03' "
        f"width='{max((f.ended_s - f.began_s) / span * _WIDTH, 1.5):.1f}'><title>{html.escape(f.kind)} "
        f"{'+'.join(f.targets)}</title></rect>"
        for f in report.faults
    )
    failed = sum(bad for _, _, bad in series)
    return (
        f"<h2>{html.escape(name)}: answers a second, {top} at most, {failed} failed in all</h2>"
        f"<svg viewBox='0 0 {_WIDTH} {_LANE}' role=img aria-label='{html.escape(name)} over {span:.0f} seconds'>"
        f"{shades}{bars}</svg>"
    )


def _bars(series: Sequence[tuple[int, int, int]], span: float, top: int, width: float) -> Iterable[str]:
    for second, good, bad in series:
        x, tall, red = second / span * _WIDTH, good / top * _LANE, bad / top * _LANE
        if good:
            yield f"<rect x='{x:.1f}' y='{_LANE - tall:.1f}' width='{width:.1f}' height='{tall:.1f}' fill='#48a'/>"
        if bad:
            yield f"<rect x='{x:.1f}' y=0 width='{width:.1f}' height='{max(red, 3):.1f}' fill='#c22'/>"
