// What keeps pods there: Deployments, StatefulSets, DaemonSets and Jobs, and how far each is.

import { el, followRows, setText, table } from "./dom.js";
import { byName, workloadSummary } from "./model.js";

export const title = "Workloads";

const KINDS = {
  Deployment: ["/apis/apps/v1", "deployments"],
  StatefulSet: ["/apis/apps/v1", "statefulsets"],
  DaemonSet: ["/apis/apps/v1", "daemonsets"],
  Job: ["/apis/batch/v1", "jobs"],
};
const WORDS = { good: "as wanted", waiting: "on its way", bad: "failed" };

export function open(root, context) {
  const summary = el("p", { id: "summary" });
  const { node, rows } = table("Workloads", ["Name", "Namespace", "Kind", "Ready", "Up to date", "State"]);
  root.append(summary, node);
  const paths = Object.fromEntries(Object.entries(KINDS).map(([kind, [prefix, plural]]) => [kind, context.scoped(prefix, plural)]));
  context.watch(paths, (by) => {
    const found = Object.entries(by).flatMap(([kind, watch]) => watch.items.map((object) => ({ kind, object })));
    found.sort((a, b) => byName(a.object, b.object) || a.kind.localeCompare(b.kind));
    const items = found.map(row);
    followRows(rows, items);
    setText(summary, `${items.filter((item) => item.tone === "good").length} of ${items.length} are as wanted`);
  });
}

function row({ kind, object }) {
  const { ready, wanted, updated, tone } = workloadSummary(kind, object);
  const { uid, name, namespace } = object.metadata;
  return { key: uid, tone, cells: [name, namespace, kind, `${ready}/${wanted}`, kind === "Job" ? "" : updated, WORDS[tone]] };
}
