// The log of one container, followed as it is written.

import { ApiError, lines } from "./api.js";
import { announce, el, setText } from "./dom.js";
import { byName, name } from "./model.js";

export const title = "Logs";

const KEPT = 5000; // lines
const FIRST = 500;

export function open(root, context) {
  const [namespace, pod, container] = context.rest;
  const pods = el("select", { id: "pod" }, el("option", { value: "" }, "choose a pod"));
  const containers = el("select", { id: "container" });
  const previous = el("input", { id: "previous", type: "checkbox" });
  const state = el("p", { role: "status", id: "log-state" });
  const log = el("pre", { id: "log", role: "log", "aria-label": "Log", "aria-live": "off", tabindex: 0 });
  root.append(
    el("div", { class: "bar" }, el("label", { for: "pod" }, "Pod"), pods, el("label", { for: "container" }, "Container"), containers,
      el("label", {}, previous, " of the instance before")),
    state, log,
  );
  const tail = new Tail(log, state);
  const begin = () => pod && tail.follow(namespace, pod, container || containers.value, previous.checked);
  context.watch({ pods: context.scoped("/api/v1", "pods") }, ({ pods: watch }) => {
    offer(pods, watch.items.sort(byName).map(name), pod ? `${namespace}/${pod}` : "");
    const chosen = watch.items.find((item) => name(item) === `${namespace}/${pod}`);
    if (!chosen) return;
    const names = [...(chosen.spec.initContainers || []), ...chosen.spec.containers].map((c) => c.name);
    offer(containers, names, container || chosen.spec.containers[0].name);
    if (!tail.started) begin();
  });
  pods.addEventListener("change", () => pods.value && context.go("logs", ...pods.value.split("/")));
  containers.addEventListener("change", () => context.go("logs", namespace, pod, containers.value));
  previous.addEventListener("change", begin);
  return () => tail.stop();
}

/** Choices that stay open while they change. */
function offer(select, names, chosen) {
  const have = [...select.options].map((option) => option.value).filter(Boolean);
  if (have.join() === names.join()) return;
  const first = [...select.options].filter((option) => !option.value);
  select.replaceChildren(...first, ...names.map((text) => el("option", { value: text }, text)));
  select.value = names.includes(chosen) ? chosen : first.length ? "" : names[0];
}

class Tail {
  #log;
  #state;
  #abort = null;

  constructor(log, state) {
    this.#log = log;
    this.#state = state;
  }

  get started() {
    return this.#abort !== null;
  }

  stop() {
    this.#abort?.abort();
  }

  async follow(namespace, pod, container, previous) {
    this.stop();
    const { signal } = (this.#abort = new AbortController());
    const path = `/api/v1/namespaces/${namespace}/pods/${pod}/log`;
    const parameters = { container, tailLines: FIRST, ...(previous ? { previous: "true" } : { follow: "true" }) };
    this.#log.replaceChildren();
    setText(this.#state, `Following ${namespace}/${pod}, ${container}`);
    try {
      for await (const found of lines(path, parameters, signal)) this.#add(found);
      setText(this.#state, `The log of ${container} has ended`);
      announce("The log has ended");
    } catch (error) {
      if (error.name === "AbortError") return;
      const text = error instanceof ApiError ? error.message : "the connection broke";
      setText(this.#state, `The log of ${container} broke off: ${text}`);
    }
  }

  #add(found) {
    const log = this.#log;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 20;
    log.append(...found.map((line) => `${line}\n`));
    while (log.childNodes.length > KEPT) log.firstChild.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}
