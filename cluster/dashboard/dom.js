// Elements, lists that follow data, and words for screen readers. Text always becomes text nodes, never markup.

/** `attributes`: false and undefined leave one out, true sets it bare, `on...` adds a listener. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  setAttributes(node, attributes);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  setAttributes(node, attributes);
  node.append(...children.flat());
  return node;
}

function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) node.setAttribute(name, value);
  }
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Make the children of `parent` those of `items`, in their order. An element stays the same as long as its key does, so
 * focus and selection survive; `update(element, item)` is called for each.
 */
export function follow(parent, items, { key, make, update }) {
  const have = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = new Set(items.map(key));
  for (const [name, child] of have) if (!wanted.has(name)) child.remove();
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = have.get(name);
    if (!child) {
      child = make(item);
      child.dataset.key = name;
    }
    update(child, item);
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
}

/** A table with a caption for screen readers; `rows` is its body, to be given to `followRows`. */
export function table(caption, columns) {
  const rows = el("tbody");
  const head = el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name)));
  const node = el("table", {}, el("caption", { class: "unseen" }, caption), el("thead", {}, head), rows);
  return { node: el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, node), rows };
}

/** `items`: [{key, cells: [text...], tone}]. The first cell names the row. */
export function followRows(rows, items) {
  follow(rows, items, {
    key: (item) => item.key,
    make: (item) => el("tr", {}, item.cells.map((_, at) => el(at ? "td" : "th", at ? {} : { scope: "row" }))),
    update: (row, item) => {
      row.className = item.tone || "";
      item.cells.forEach((text, at) => setText(row.children[at], String(text)));
    },
  });
}

/** [term, description] pairs; a description may be an element. */
export function description(pairs) {
  return el("dl", {}, pairs.flatMap(([term, text]) => [el("dt", {}, term), el("dd", {}, text)]));
}

const QUIET_MS = 1500;
let waiting = [];

/** Said by screen readers, at most every second or two: of many things at once only how many. */
export function announce(text) {
  waiting.push(text);
  if (waiting.length > 1) return;
  setTimeout(() => {
    const said = waiting.length > 3 ? `${waiting.length} changes; the last: ${waiting.at(-1)}` : waiting.join(". ");
    waiting = [];
    document.getElementById("announcer").textContent = said;
  }, QUIET_MS);
}
