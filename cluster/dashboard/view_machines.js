// The map: a card for each machine, a button for each pod on it, as the watches tell it.

import { Details } from "./details.js";
import { announce, el, follow, setText } from "./dom.js";
import { Roving } from "./keys.js";
import { byName, bytes, name, nodeSummary, plural, podSummary, quantity, requested } from "./model.js";

export const title = "Machines";

const MARKS = { good: "●", waiting: "◌", bad: "✕", done: "✓" };
const NOWHERE = "";

export function open(root, context) {
  const summary = el("p", { id: "summary" });
  const filter = el("input", { id: "filter", type: "search", placeholder: "part of a name", autocomplete: "off" });
  const map = el("div", { class: "map" });
  const details = new Details();
  const roving = new Roving(map, ".pod");
  const keys = el("p", { class: "hint" }, "Arrow keys move among pods, Enter shows one, Escape closes it.");
  root.append(
    el("div", { class: "bar" }, summary, el("label", { for: "filter" }, "Show pods named"), filter), legend(), keys,
    el("div", { class: "split" }, map, details.node),
  );
  const draw = (by) => {
    const pods = by.pods.items.filter((pod) => name(pod).includes(filter.value.trim()));
    setText(summary, counted(by.nodes.items, pods));
    follow(map, machines(by.nodes.items, pods), { key: (m) => m.name || "?", make: card, update: (c, m) => fill(c, m, details) });
    roving.settle();
    details.refresh(by.pods.objects, by.nodes.objects);
  };
  const watches = context.watch(
    { nodes: "/api/v1/nodes", pods: context.scoped("/api/v1", "pods") },
    (by, what, changes) => {
      for (const text of changes.map((change) => said(what, change))) if (text) announce(text);
      draw(by);
    },
  );
  filter.addEventListener("input", () => draw(watches.by));
  return () => details.close();
}

function legend() {
  const words = { good: "running", waiting: "on its way", bad: "failing", done: "finished" };
  return el("ul", { class: "legend" }, Object.entries(words).map(([tone, word]) => el("li", { class: tone }, `${MARKS[tone]} ${word}`)));
}

function counted(nodes, pods) {
  const ready = nodes.filter((node) => nodeSummary(node).tone !== "bad").length;
  const running = pods.filter((pod) => podSummary(pod).tone === "good").length;
  return `${ready} of ${nodes.length} machines ready, ${running} of ${pods.length} pods running`;
}

/** What a change means to somebody who does not see the map; "" for nothing new. */
function said(what, { type, object, before }) {
  const [of, summary] = what === "pods" ? ["Pod", podSummary] : ["Machine", nodeSummary];
  if (type === "DELETED") return `${of} ${name(object)} is gone`;
  if (!before) return fresh(object) ? `${of} ${name(object)} is new` : "";
  const { word } = summary(object);
  return summary(before).word === word ? "" : `${of} ${name(object)} is ${word}`;
}

/** Made just now, not merely listed for the first time. */
function fresh({ metadata }) {
  return Date.now() - Date.parse(metadata.creationTimestamp) < 10_000;
}

/** Also machines that only the pods name: who may not list nodes still sees where pods are. */
function machines(nodes, pods) {
  const found = new Map(nodes.map((node) => [node.metadata.name, { name: node.metadata.name, node, pods: [] }]));
  for (const pod of pods) {
    const where = pod.spec.nodeName || NOWHERE;
    if (!found.has(where)) found.set(where, { name: where, node: null, pods: [] });
    found.get(where).pods.push(pod);
  }
  for (const machine of found.values()) machine.pods.sort(byName);
  return [...found.values()].sort((a, b) => (a.name || "~").localeCompare(b.name || "~", undefined, { numeric: true }));
}

function card({ name: called }) {
  const id = `machine-${called || "none"}`;
  const load = (what) => el("label", {}, `${what} `, el("meter", { min: 0, max: 1, high: 0.9 }), el("span"));
  return el(
    "article", { class: "machine", "aria-labelledby": id },
    el("h3", { id }, called ? el("button", { type: "button", class: "plain" }, called) : "Waiting for a machine"),
    el("p", { class: "state" }), el("div", { class: "loads" }, load("CPU requests"), load("Memory requests")), el("ul", { class: "pods" }),
  );
}

function fill(node, machine, details) {
  const [heading, state, loads, pods] = node.children;
  const summary = machine.node ? nodeSummary(machine.node) : null;
  node.classList.toggle("bad", summary?.tone === "bad");
  setText(state, [summary && `${summary.word}, ${summary.roles}`, plural(machine.pods.length, "pod")].filter(Boolean).join(", "));
  loads.hidden = !machine.node;
  if (machine.node) {
    measure(loads, machine);
    heading.firstElementChild.onclick = (event) => details.machine(machine.node, event.currentTarget);
  }
  follow(pods, machine.pods, { key: (pod) => pod.metadata.uid, make: podItem, update: (item, pod) => podButton(item, pod, details) });
}

function measure(loads, { node, pods }) {
  const asked = requested(pods);
  const has = node.status?.allocatable || node.status?.capacity || {};
  const shown = { cpu: (n) => n.toFixed(1), memory: bytes };
  Object.entries(shown).forEach(([what, words], at) => {
    const [, meter, text] = loads.children[at].childNodes;
    const size = quantity(has[what]);
    meter.value = size ? asked[what] / size : 0;
    setText(text, ` ${words(asked[what])} of ${words(size)}`);
  });
}

function podItem() {
  return el("li", {}, el("button", { type: "button", class: "pod", tabindex: -1 }));
}

function podButton(item, pod, details) {
  const button = item.firstElementChild;
  const { word, tone, ready, of } = podSummary(pod);
  button.className = `pod ${tone}`;
  setText(button, MARKS[tone]);
  const text = `${name(pod)}: ${word}, ${ready} of ${of} ready`;
  if (button.title !== text) {
    button.title = text;
    button.setAttribute("aria-label", text);
  }
  button.onclick = () => details.pod(pod, button);
}
