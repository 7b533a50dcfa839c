// What objects mean, in kubectl's words. Pure: objects in, words and numbers out.

/** kubectl's STATUS of a pod, its READY and RESTARTS, and a tone: good, waiting, bad or done. */
export function podSummary(pod) {
  const { spec, status = {} } = pod;
  const containers = status.containerStatuses || [];
  const ready = containers.filter((c) => c.ready).length;
  const restarts = containers.reduce((sum, c) => sum + (c.restartCount || 0), 0);
  const word = podWord(pod, containers);
  return { word, tone: podTone(word, ready, spec.containers.length), ready, of: spec.containers.length, restarts };
}

function podWord({ metadata, spec, status = {} }, containers) {
  if (metadata.deletionTimestamp) return status.reason === "NodeLost" ? "Unknown" : "Terminating";
  const init = initWord(spec, status.initContainerStatuses || []);
  if (init) return init;
  for (const { state = {} } of [...containers].reverse()) {
    if (state.waiting?.reason) return state.waiting.reason;
    if (state.terminated?.reason) return state.terminated.reason;
  }
  return status.reason || status.phase || "Pending";
}

function initWord(spec, statuses) {
  const sidecars = new Set((spec.initContainers || []).filter((c) => c.restartPolicy === "Always").map((c) => c.name));
  for (const [at, { name, state = {}, started }] of statuses.entries()) {
    if (state.terminated?.exitCode === 0 || (sidecars.has(name) && started)) continue;
    if (state.terminated) return `Init:${state.terminated.reason || `ExitCode:${state.terminated.exitCode}`}`;
    if (state.waiting?.reason && state.waiting.reason !== "PodInitializing") return `Init:${state.waiting.reason}`;
    return `Init:${at}/${statuses.length}`;
  }
  return "";
}

function podTone(word, ready, of) {
  if (word === "Running") return ready === of ? "good" : "waiting";
  if (word === "Succeeded" || word === "Completed") return "done";
  if (["Pending", "ContainerCreating", "PodInitializing", "Terminating"].includes(word) || /^Init:\d/.test(word)) return "waiting";
  return "bad";
}

export function condition(object, type) {
  return (object.status?.conditions || []).find((c) => c.type === type);
}

export function nodeSummary(node) {
  const ready = condition(node, "Ready");
  const roles = Object.keys(node.metadata.labels || {})
    .filter((label) => label.startsWith("node-role.kubernetes.io/"))
    .map((label) => label.split("/")[1]);
  const pressures = (node.status?.conditions || []).filter((c) => c.type !== "Ready" && c.status === "True").map((c) => c.type);
  const words = [{ True: "Ready", False: "NotReady" }[ready?.status] || "Unknown", ...pressures];
  if (node.spec.unschedulable) words.push("SchedulingDisabled");
  const tone = ready?.status !== "True" || pressures.length ? "bad" : node.spec.unschedulable ? "waiting" : "good";
  return { word: words.join(", "), tone, roles: roles.join(", ") || "worker" };
}

const WORKLOADS = {
  Deployment: ({ spec, status }) => [status.readyReplicas || 0, spec.replicas, status.updatedReplicas || 0],
  StatefulSet: ({ spec, status }) => [status.readyReplicas || 0, spec.replicas, status.updatedReplicas || 0],
  DaemonSet: ({ status }) => [status.numberReady || 0, status.desiredNumberScheduled || 0, status.updatedNumberScheduled || 0],
  Job: ({ spec, status }) => [status.succeeded || 0, spec.completions ?? 1, status.active || 0],
};

/** `updated` of a Job is how many of its pods run. */
export function workloadSummary(kind, object) {
  const [ready, wanted, updated] = WORKLOADS[kind]({ spec: object.spec, status: object.status || {} });
  const current = (object.status?.observedGeneration ?? object.metadata.generation) >= object.metadata.generation;
  const failed = condition(object, "Failed")?.status === "True";
  const whole = ready >= wanted && (kind === "Job" || (updated >= wanted && current));
  return { ready, wanted, updated, tone: failed ? "bad" : whole ? "good" : "waiting" };
}

const UNITS = { m: 1e-3, k: 1e3, K: 1e3, M: 1e6, G: 1e9, T: 1e12, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40 };

/** A Kubernetes quantity as a number. */
export function quantity(text) {
  const [, number, unit] = /^([-+\d.eE]+?)([a-zA-Z]*)$/.exec(String(text ?? 0)) || [0, 0, ""];
  return Number(number) * (UNITS[unit] ?? 1);
}

/** What the pods of a node ask for of it, in cores and bytes. */
export function requested(pods) {
  const sum = (name) => (total, c) => total + quantity(c.resources?.requests?.[name]);
  const running = pods.filter((p) => !["Succeeded", "Failed"].includes(p.status?.phase));
  const containers = running.flatMap((p) => p.spec.containers);
  return { cpu: containers.reduce(sum("cpu"), 0), memory: containers.reduce(sum("memory"), 0) };
}

export function bytes(number) {
  const at = number > 0 ? Math.min(Math.floor(Math.log2(number) / 10), 4) : 0;
  return `${(number / 2 ** (10 * at)).toFixed(at ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][at]}`;
}

export function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

export function clock(time) {
  return time ? new Date(time).toLocaleTimeString([], { hour12: false }) : "";
}

export function name({ metadata }) {
  return metadata.namespace ? `${metadata.namespace}/${metadata.name}` : metadata.name;
}

export function byName(a, b) {
  return name(a).localeCompare(name(b), undefined, { numeric: true });
}

/** When an Event was last seen, whichever API wrote it. */
export function eventTime(event) {
  return event.series?.lastObservedTime || event.lastTimestamp || event.eventTime || event.metadata.creationTimestamp;
}
