// What the parts of the cluster say about objects, the newest first.

import { el, followRows, setText, table } from "./dom.js";
import { clock, eventTime } from "./model.js";

export const title = "Events";

const MOST = 500;

export function open(root, context) {
  const summary = el("p", { id: "summary" });
  const warnings = el("input", { id: "warnings", type: "checkbox" });
  const { node, rows } = table("Events", ["Last seen", "Type", "Reason", "Object", "Message", "Count"]);
  root.append(el("div", { class: "bar" }, summary, el("label", {}, warnings, " Warnings only")), node);
  const draw = ({ events }) => {
    const wanted = events.items.filter((event) => !warnings.checked || event.type === "Warning");
    wanted.sort((a, b) => Date.parse(eventTime(b)) - Date.parse(eventTime(a)));
    followRows(rows, wanted.slice(0, MOST).map(row));
    setText(summary, wanted.length > MOST ? `the newest ${MOST} of ${wanted.length} events` : `${wanted.length} events`);
  };
  const watches = context.watch({ events: context.scoped("/api/v1", "events") }, draw);
  warnings.addEventListener("change", () => draw(watches.by));
}

function row(event) {
  const { kind = "", name = "", namespace } = event.involvedObject || {};
  const object = `${kind.toLowerCase()}/${name}${namespace ? ` (${namespace})` : ""}`;
  const count = event.series?.count || event.count || 1;
  return {
    key: event.metadata.uid,
    tone: event.type === "Warning" ? "bad" : "",
    cells: [clock(eventTime(event)), event.type || "", event.reason || "", object, event.message || "", count],
  };
}
