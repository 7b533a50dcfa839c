// What `sk8 chaos run` broke, when, and how long until all was as before. Reports are ConfigMaps that the command
// writes; one kept as a file can be opened, too, and stays in the browser.

import { el, follow, followRows, setText, svg, table } from "./dom.js";
import { plural } from "./model.js";

export const title = "Chaos";

const REPORTS = "/api/v1/namespaces/kube-system/configmaps";
const WIDTH = 1000;
const LANE = 22;
const LABEL = 150;

export function open(root, context) {
  const run = el("select", { id: "run" });
  const file = el("input", { id: "report", type: "file", accept: "application/json,.json" });
  const verdict = el("div", { id: "verdict", role: "status" });
  const plot = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Timeline" });
  const { node, rows } = table("Faults", ["At", "Fault", "Where", "Lasted", "Whole after", "Longest API pause", "Note"]);
  root.append(
    el("div", { class: "bar" }, el("label", { for: "run" }, "Run"), run, el("label", { for: "report" }, "or a report.json"), file),
    verdict, plot, node,
  );
  const opened = new Map();
  const draw = () => {
    const report = opened.get(run.value);
    verdict.replaceChildren(...(report ? judged(report) : [el("p", {}, "No run is reported. Start one with ", el("code", {}, "sk8 chaos run soup"), ".")]));
    plot.replaceChildren(...(report ? [timeline(report)] : []));
    followRows(rows, (report?.faults || []).map(row));
  };
  context.watch({ reports: [REPORTS, { labelSelector: "sk8.io/chaos-report=true" }] }, ({ reports }) => {
    for (const [name, report] of opened) if (!report.file) opened.delete(name);
    for (const map of reports.items) opened.set(map.metadata.name, JSON.parse(map.data["report.json"]));
    offer(run, opened);
    draw();
  });
  run.addEventListener("change", draw);
  file.addEventListener("change", async () => {
    const report = JSON.parse(await file.files[0].text());
    opened.set(file.files[0].name, { ...report, file: true });
    offer(run, opened);
    run.value = file.files[0].name;
    draw();
  });
}

/** The newest first. */
function offer(run, opened) {
  const names = [...opened.keys()].sort().reverse();
  follow(run, names, {
    key: (name) => name,
    make: (name) => el("option", { value: name }),
    update: (option, name) => setText(option, `${opened.get(name).scenario}, seed ${opened.get(name).seed} (${name})`),
  });
}

function judged(report) {
  const word = report.held ? "everything held" : `${report.problems.length} promises did not hold`;
  const requests = Object.entries(report.requests || {}).map(([name, r]) => el("li", {}, `${name}: ${r.answered} answered, ${r.failed} failed`));
  const broken = (report.problems || []).map((problem) => el("li", { class: "bad" }, problem));
  return [
    el("p", { class: report.held ? "good" : "bad" }, `${plural(report.faults.length, "fault")} in ${report.seconds.toFixed(0)} s: ${word}`),
    el("ul", {}, requests, broken),
  ];
}

/** A lane for each kind of fault: dark while it lasted, light until all was as before. The table says the same. */
function timeline(report) {
  const kinds = [...new Set(report.faults.map((fault) => fault.kind))];
  const span = Math.max(report.seconds, ...report.faults.map((fault) => fault.whole_s ?? fault.ended_s), 1);
  const at = (seconds) => LABEL + (seconds / span) * (WIDTH - LABEL);
  const bar = (fault, from, to, tone) =>
    svg("rect", { x: at(from), y: kinds.indexOf(fault.kind) * LANE + 4, height: LANE - 8, width: Math.max(at(to) - at(from), 2), class: tone });
  const lanes = kinds.map((kind, n) => svg("text", { x: 0, y: n * LANE + 15 }, kind));
  const bars = report.faults.flatMap((fault) => [
    bar(fault, fault.ended_s, fault.whole_s ?? span, fault.whole_s === null ? "never" : "mending"),
    bar(fault, fault.began_s, fault.ended_s, "fault"),
  ]);
  const label = `${report.faults.length} faults over ${span.toFixed(0)} seconds; the table below lists them`;
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${kinds.length * LANE}`, role: "img", "aria-label": label, class: "timeline" }, lanes, bars);
}

function row(fault, at) {
  const seconds = (number) => (number === null ? "-" : `${number.toFixed(1)} s`);
  const whole = fault.recovery_s === null ? "never" : seconds(fault.recovery_s);
  return {
    key: String(at),
    tone: fault.recovery_s === null ? "bad" : "",
    cells: [
      seconds(fault.began_s), fault.kind, fault.targets.join(", "), seconds(fault.ended_s - fault.began_s), whole,
      seconds(fault.api_pause_s), fault.note,
    ],
  };
}
