// The Kubernetes API as the signed-in user. The page asks nothing else, so RBAC decides what it shows.

const ROOT = new URL("..", document.baseURI); // of the server, also below a proxy's prefix
const TOKEN = "sk8.token";
const BEARER = "base64url.bearer.authorization.k8s.io.";
const WATCH_PROTOCOL = "watch.sk8.io"; // beside the token there must be one that the server may choose

/** A refusal, with Kubernetes' reason and message; code 0 when nobody answered. */
export class ApiError extends Error {
  constructor(code, reason, message) {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

/** The token lives as long as the tab, and goes nowhere but to this server. */
export const session = {
  get token() {
    return sessionStorage.getItem(TOKEN) || "";
  },
  set token(value) {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
  },
};

export function url(path, parameters = {}) {
  const found = new URL(path.replace(/^\//, ""), ROOT);
  for (const [name, value] of Object.entries(parameters)) found.searchParams.set(name, value);
  return found;
}

async function ask(path, { parameters, ...options } = {}) {
  const headers = { ...options.headers };
  if (session.token) headers.Authorization = `Bearer ${session.token}`;
  let answer;
  try {
    answer = await fetch(url(path, parameters), { ...options, headers, redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "Unreachable", "the API server does not answer");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const text = await answer.text();
  try {
    const status = JSON.parse(text);
    return new ApiError(answer.status, status.reason || "", status.message || text);
  } catch {
    return new ApiError(answer.status, "", text.trim() || answer.statusText);
  }
}

export async function get(path, parameters) {
  return (await ask(path, { parameters, headers: { Accept: "application/json" } })).json();
}

export async function text(path, parameters) {
  return (await ask(path, { parameters })).text();
}

/** Who the server takes us for: {username, groups}. */
export async function whoami() {
  const path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
  const review = { apiVersion: "authentication.k8s.io/v1", kind: "SelfSubjectReview" };
  const headers = { "Content-Type": "application/json" };
  const answer = await ask(path, { method: "POST", headers, body: JSON.stringify(review) });
  return (await answer.json()).status.userInfo;
}

/** Pieces of text as they come, until the other side or `signal` ends it. */
export async function* lines(path, parameters, signal) {
  const answer = await ask(path, { parameters, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const found = (rest + (value || "")).split("\n");
    rest = found.pop();
    if (found.length) yield found;
    if (!done) continue;
    if (rest) yield [rest];
    return;
  }
}

/** A watch as a WebSocket: browsers open only six HTTP connections to one server, and a watch would keep one each. */
export function socket(path, parameters) {
  const address = url(path, parameters);
  address.protocol = address.protocol.replace("http", "ws");
  if (!session.token) return new WebSocket(address);
  const encoded = btoa(session.token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return new WebSocket(address, [BEARER + encoded, WATCH_PROTOCOL]);
}
