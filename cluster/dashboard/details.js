// One pod or machine beside the map: what it is, its conditions, and its events as they come.

import { description, el, followRows, table } from "./dom.js";
import { bytes, clock, eventTime, name, nodeSummary, podSummary, quantity } from "./model.js";
import { Watch } from "./watch.js";

export class Details {
  #shown = null; // { uid, kind, events, back, draw, drawn }

  constructor() {
    this.node = el("aside", { "aria-label": "Details", tabindex: -1, hidden: true });
    this.node.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  /** `back`: where the focus returns to. */
  pod(pod, back) {
    this.#open(pod, "pods", back, podParts);
  }

  machine(node, back) {
    this.#open(node, "nodes", back, machineParts);
  }

  #open(object, kind, back, parts) {
    this.close();
    const { uid, namespace } = object.metadata;
    const { node, rows } = table("Events", ["Last seen", "Reason", "Message"]);
    const about = el("div");
    // Events about machines carry the machine's name for a uid.
    const selector = kind === "pods" ? `involvedObject.uid=${uid}` : `involvedObject.kind=Node,involvedObject.name=${object.metadata.name}`;
    const path = namespace ? `/api/v1/namespaces/${namespace}/events` : "/api/v1/events";
    const events = new Watch(path, { fieldSelector: selector });
    events.subscribe(() => followRows(rows, eventRows(events.items)));
    const leave = el("button", { type: "button", class: "close", onclick: () => this.close() }, "Close");
    this.node.replaceChildren(leave, el("h3", {}, name(object)), about, el("h4", {}, "Events"), node);
    this.node.hidden = false;
    this.#shown = { uid, kind, events, back, draw: (now) => about.replaceChildren(...parts(now)), drawn: null };
    this.#draw(object);
    this.node.focus({ preventScroll: true });
  }

  #draw(object) {
    if (this.#shown.drawn === object) return;
    this.#shown.drawn = object;
    const held = document.activeElement !== this.node && this.node.contains(document.activeElement);
    this.#shown.draw(object);
    if (held && !this.node.contains(document.activeElement)) this.node.focus();
  }

  /** The objects as they are now. */
  refresh(pods, nodes) {
    if (!this.#shown) return;
    const now = (this.#shown.kind === "pods" ? pods : nodes).get(this.#shown.uid);
    if (now) this.#draw(now);
    else this.node.classList.add("gone");
  }

  close() {
    if (!this.#shown) return;
    const { events, back } = this.#shown;
    this.#shown = null;
    events.stop();
    const held = this.node.contains(document.activeElement);
    this.node.hidden = true;
    this.node.classList.remove("gone");
    if (held && back?.isConnected) back.focus();
  }
}

function podParts(pod) {
  const { word, restarts } = podSummary(pod);
  const status = pod.status || {};
  const { node, rows } = table("Containers", ["Name", "State", "Restarts", "Image"]);
  followRows(rows, containerRows(pod));
  const logs = pod.spec.containers.map((c) => {
    const { namespace, name: called } = pod.metadata;
    const target = ["logs", namespace, called, c.name].map(encodeURIComponent).join("/");
    return el("li", {}, el("a", { href: `#${target}` }, `Logs of ${c.name}`));
  });
  const pairs = [
    ["Status", word], ["Machine", pod.spec.nodeName || "none yet"], ["Address", status.podIP || "none yet"],
    ["Started", status.startTime ? `${clock(status.startTime)}` : "not yet"], ["Restarts", String(restarts)],
    ["Quality of service", status.qosClass || ""],
  ];
  if (status.message) pairs.push(["Message", status.message]);
  return [description(pairs), el("ul", { class: "links" }, logs), el("h4", {}, "Containers"), node, ...conditions(pod)];
}

function containerRows(pod) {
  const statuses = new Map((pod.status?.containerStatuses || []).map((c) => [c.name, c]));
  return pod.spec.containers.map((c) => {
    const { state = {}, restartCount = 0, ready } = statuses.get(c.name) || {};
    const word = state.running ? (ready ? "Running, ready" : "Running") : state.waiting?.reason || state.terminated?.reason || "Waiting";
    return { key: c.name, cells: [c.name, word, restartCount, c.image] };
  });
}

function machineParts(node) {
  const { word, roles } = nodeSummary(node);
  const { nodeInfo = {}, addresses = [], allocatable = {} } = node.status || {};
  const pairs = [
    ["Status", word], ["Roles", roles], ["Addresses", addresses.map((a) => a.address).join(", ")],
    ["CPU", `${quantity(allocatable.cpu)} cores`], ["Memory", bytes(quantity(allocatable.memory))],
    ["Pods", `at most ${allocatable.pods || "?"}`], ["Kernel", nodeInfo.kernelVersion || ""],
    ["Runtime", nodeInfo.containerRuntimeVersion || ""],
    ["Taints", (node.spec.taints || []).map((t) => `${t.key}:${t.effect}`).join(", ") || "none"],
  ];
  return [description(pairs), ...conditions(node)];
}

function conditions(object) {
  const { node, rows } = table("Conditions", ["Type", "Status", "Since", "Reason"]);
  const found = object.status?.conditions || [];
  followRows(rows, found.map((c) => ({ key: c.type, cells: [c.type, c.status, clock(c.lastTransitionTime), c.reason || ""] })));
  return [el("h4", {}, "Conditions"), node];
}

function eventRows(events) {
  const newest = events.sort((a, b) => (eventTime(a) < eventTime(b) ? 1 : -1)).slice(0, 50);
  return newest.map((event) => ({
    key: event.metadata.uid,
    tone: event.type === "Warning" ? "bad" : "",
    cells: [clock(eventTime(event)), event.reason, event.message || event.note || ""],
  }));
}
