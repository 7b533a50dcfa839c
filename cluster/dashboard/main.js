// The frame around the views: who is signed in, which view and namespace, and whether what it shows is live.

import { ApiError, get, session, whoami } from "./api.js";
import { el, follow, setText } from "./dom.js";
import { askForToken } from "./login.js";
import { Watches } from "./watch.js";
import * as chaos from "./view_chaos.js";
import * as events from "./view_events.js";
import * as health from "./view_health.js";
import * as logs from "./view_logs.js";
import * as machines from "./view_machines.js";
import * as workloads from "./view_workloads.js";

const VIEWS = { machines, workloads, events, logs, health, chaos };
const FIRST = "machines";

const page = Object.fromEntries(
  ["views", "scope", "namespace", "namespaces", "who", "signout", "connection", "content", "skip"].map((id) => [id, document.getElementById(id)]),
);
let shown = null; // { name, close, watches }
let namespace = new URLSearchParams(location.search).get("namespace") || "";

/** #logs/default/web -> ["logs", "default", "web"] */
function where() {
  const [name, ...rest] = location.hash.slice(1).split("/").map(decodeURIComponent);
  return VIEWS[name] ? [name, rest] : [FIRST, []];
}

function show() {
  close();
  const [name, rest] = where();
  const root = el("div");
  const notices = el("ul", { class: "notices" });
  const heading = el("h2", { id: "title", tabindex: -1 }, VIEWS[name].title);
  page.content.replaceChildren(heading, el("div", { role: "alert" }, notices), root);
  document.title = `${VIEWS[name].title} - sk8`;
  shown = { name, watches: [], close: () => {} };
  shown.close = VIEWS[name].open(root, context(shown, notices, rest)) || shown.close;
  for (const link of page.views.querySelectorAll("a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function close() {
  shown?.watches.forEach((watches) => watches.stop());
  shown?.close();
  shown = null;
}

/** What a view may use: where it is, and watches that end with it. */
function context(view, notices, rest) {
  return {
    namespace,
    rest,
    go: (...parts) => (location.hash = `#${parts.map(encodeURIComponent).join("/")}`),
    scoped: (prefix, plural) => (namespace ? `${prefix}/namespaces/${namespace}/${plural}` : `${prefix}/${plural}`),
    watch(paths, render) {
      const watches = new Watches(paths, (by, name, changes) => {
        render(by, name, changes);
        tell(view, notices);
      });
      view.watches.push(watches);
      return watches;
    },
  };
}

/** Whether the view is live, and what the user may not see of it. */
function tell(view, notices) {
  if (view !== shown) return;
  const all = view.watches.flatMap((watches) => Object.entries(watches.by));
  if (all.some(([, watch]) => watch.error?.code === 401)) {
    signOut("The token is not valid, or no longer.");
    return;
  }
  const refused = all.filter(([, watch]) => watch.state === "refused");
  follow(notices, refused, {
    key: ([name]) => name,
    make: () => el("li"),
    update: (item, [, watch]) => setText(item, watch.error.message),
  });
  const states = new Set(all.map(([, watch]) => watch.state));
  const word = states.has("broken") ? "Reconnecting" : states.has("loading") ? "Loading" : states.has("live") ? "Live" : "Not allowed";
  setText(page.connection, word);
  page.connection.dataset.state = word;
}

/** `sk8 dashboard` prints an address with a token for its own proxy behind the #; it is not kept there. */
function takeTokenOfAddress() {
  const [, token] = /^#token=(.+)$/.exec(location.hash) || [];
  if (!token) return;
  session.token = token;
  history.replaceState(null, "", location.pathname + location.search);
}

async function start(complaint = "") {
  try {
    const user = await whoami();
    setText(page.who, user.username);
    page.signout.hidden = !session.token;
    page.scope.hidden = false;
    offerNamespaces();
    show();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code === 401) askForToken(page.content, session.token ? "The server does not accept that token." : complaint, signIn);
    else page.content.replaceChildren(el("p", { role: "alert" }, `${error.message}. `, el("a", { href: "" }, "Try again")));
  }
}

function signIn(token) {
  session.token = token;
  start();
}

function signOut(complaint) {
  close();
  session.token = "";
  setText(page.who, "");
  setText(page.connection, "");
  page.signout.hidden = page.scope.hidden = true;
  start(complaint);
}

async function offerNamespaces() {
  try {
    const { items } = await get("/api/v1/namespaces");
    page.namespaces.replaceChildren(...items.map(({ metadata }) => el("option", { value: metadata.name })));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // who may not list them types a name
  }
}

page.views.append(
  ...Object.entries(VIEWS).map(([name, { title }]) => el("li", {}, el("a", { href: `#${name}` }, title))),
);
page.namespace.value = namespace;
page.scope.hidden = true;
page.scope.addEventListener("submit", (event) => event.preventDefault());
page.namespace.addEventListener("change", () => {
  namespace = page.namespace.value.trim();
  const address = new URL(location.href);
  if (namespace) address.searchParams.set("namespace", namespace);
  else address.searchParams.delete("namespace");
  history.replaceState(null, "", address);
  show();
});
page.signout.addEventListener("click", () => signOut(""));
page.skip.addEventListener("click", (event) => {
  event.preventDefault();
  page.content.focus();
});
addEventListener("hashchange", () => {
  if (!shown) {
    takeTokenOfAddress();
    if (session.token) start();
    return;
  }
  show();
  document.getElementById("title").focus();
});
takeTokenOfAddress();
start();
