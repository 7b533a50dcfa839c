// Whether the control plane is well: who leads (watched), and what API server, store and scheduler say of themselves.
// Their pages of metrics are read when the view opens, when a leader or a machine changes, and when asked; not on a timer.

import { ApiError, text } from "./api.js";
import { el, followRows, setText, table } from "./dom.js";
import { bytes, clock, nodeSummary } from "./model.js";
import { parse, quantile, total } from "./prometheus.js";

export const title = "Health";

const CONTROL_PLANE = "node-role.kubernetes.io/control-plane";
const SCHEDULER = "kube-scheduler";

export function open(root, context) {
  const panel = (caption, columns) => {
    const { node, rows } = table(caption, columns);
    root.append(el("h3", {}, caption), node);
    return rows;
  };
  const read = el("p", { role: "status" });
  const refresh = el("button", { type: "button" }, "Read again");
  root.append(el("div", { class: "bar" }, refresh, read));
  const rows = {
    checks: panel("API server", ["Check", "Result"]),
    leaders: panel("Leaders", ["Component", "Leads", "Since", "Renewed"]),
    store: panel("Store", ["Member", "Role", "Revision", "Size", "Behind", "fsync p99", "Pending", "Leader changes"]),
    scheduler: panel("Scheduler", ["Figure", "Value"]),
  };
  let last = "";
  const measure = async (by) => {
    await Promise.all([checks(rows.checks), store(rows.store, planes(by.nodes)), scheduler(rows.scheduler, by)]);
    setText(read, `Read at ${clock(new Date())}`);
  };
  const watches = context.watch(
    { leases: "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", nodes: "/api/v1/nodes" },
    (by) => {
      followRows(rows.leaders, by.leases.items.map(leaderRow).sort((a, b) => a.key.localeCompare(b.key)));
      const now = fingerprint(by);
      if (now === last || [by.leases, by.nodes].some((watch) => watch.state === "loading")) return;
      last = now;
      measure(by);
    },
  );
  refresh.addEventListener("click", () => measure(watches.by));
}

/** What makes the figures worth reading again. */
function fingerprint({ leases, nodes }) {
  const leaders = leases.items.map(({ metadata, spec }) => `${metadata.name} ${spec.holderIdentity}`);
  return [...leaders, ...nodes.items.map((node) => `${node.metadata.name} ${nodeSummary(node).word}`)].sort().join();
}

function planes(nodes) {
  return nodes.items.filter(({ metadata }) => CONTROL_PLANE in (metadata.labels || {})).map(({ metadata }) => metadata.name).sort();
}

function leaderRow({ metadata, spec }) {
  const holder = spec.holderIdentity || "nobody";
  const cells = [metadata.name, holder, clock(spec.acquireTime), clock(spec.renewTime)];
  return { key: metadata.name, tone: spec.holderIdentity ? "" : "bad", cells };
}

async function checks(rows) {
  let page;
  try {
    page = await text("/readyz", { verbose: "1" });
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    page = error.message;
  }
  const found = [...page.matchAll(/^\[([+-])\]([^ \n]+) ?(.*)$/gm)];
  const said = found.map(([, sign, name, result]) => ({ key: name, tone: sign === "-" ? "bad" : "good", cells: [name, result] }));
  followRows(rows, said.length ? said : [{ key: "readyz", tone: "bad", cells: ["readyz", page] }]);
}

/** A part's page of metrics through its machine's kubelet; a refusal or silence as words. */
async function part(machine, name) {
  try {
    return { page: parse(await text(`/api/v1/nodes/${machine}/proxy/metrics/parts/${name}`)) };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { why: error.message };
  }
}

async function store(rows, machines) {
  const said = await Promise.all(machines.map(async (machine) => ({ machine, ...(await part(machine, "state")) })));
  const applied = (page) => total(page, "etcd_server_proposals_applied_total");
  const newest = Math.max(0, ...said.filter(({ page }) => page).map(({ page }) => applied(page)));
  followRows(rows, said.map(({ machine, page, why }) => {
    if (!page) return { key: machine, tone: "bad", cells: [machine, why, "", "", "", "", "", ""] };
    const leads = total(page, "etcd_server_is_leader");
    const led = total(page, "etcd_server_has_leader");
    const role = leads ? "leader" : total(page, "etcd_server_is_learner") ? "learner" : led ? "follower" : "no leader";
    const cells = [
      machine, role, total(page, "etcd_debugging_mvcc_current_revision"), bytes(total(page, "etcd_mvcc_db_total_size_in_bytes")),
      `${newest - applied(page)} entries`, milliseconds(quantile(page, "etcd_disk_wal_fsync_duration_seconds", 0.99)),
      total(page, "etcd_server_proposals_pending"), total(page, "etcd_server_leader_changes_seen_total"),
    ];
    return { key: machine, tone: led ? "good" : "bad", cells };
  }));
}

async function scheduler(rows, { leases }) {
  const leader = leases.items.find(({ metadata }) => metadata.name === SCHEDULER)?.spec.holderIdentity;
  const { page, why } = leader ? await part(leader, "scheduler") : { why: "no scheduler leads" };
  if (!page) {
    followRows(rows, [{ key: "why", tone: "bad", cells: ["not known", why] }]);
    return;
  }
  const waiting = (queue) => total(page, "scheduler_pending_pods", (labels) => labels.queue === queue);
  const tried = (result) => total(page, "scheduler_schedule_attempts_total", (labels) => labels.result === result);
  const figures = {
    "leads on": leader, "pods waiting to be tried": waiting("active") + waiting("backoff"),
    "pods that fit nowhere": waiting("unschedulable"), "placed": tried("scheduled"), "refused": tried("unschedulable"),
    "attempt, p99": milliseconds(quantile(page, "scheduler_scheduling_attempt_duration_seconds", 0.99)),
  };
  followRows(rows, Object.entries(figures).map(([name, value]) => ({ key: name, cells: [name, value] })));
}

function milliseconds(seconds) {
  return Number.isNaN(seconds) ? "none yet" : `${(seconds * 1000).toFixed(1)} ms`;
}
