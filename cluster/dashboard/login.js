// Where nobody is signed in: a bearer token, as kubectl would send it. A client certificate needs no form.

import { el } from "./dom.js";

const HOW = "kubectl create token NAME -n NAMESPACE";

export function askForToken(root, complaint, signIn) {
  const input = el("input", {
    id: "token", type: "password", required: true, autocomplete: "off", spellcheck: "false", "aria-describedby": "how",
  });
  const submit = (event) => {
    event.preventDefault();
    signIn(input.value.trim());
  };
  const form = el(
    "form", { class: "login", onsubmit: submit },
    el("h2", {}, "Sign in"),
    complaint ? el("p", { role: "alert" }, complaint) : null,
    el("label", { for: "token" }, "Bearer token"),
    input,
    el("p", { id: "how" }, "Of a ServiceAccount: ", el("code", {}, HOW), ". It stays in this tab until it is closed."),
    el("button", { type: "submit" }, "Sign in"),
  );
  root.replaceChildren(form);
  input.focus();
}
