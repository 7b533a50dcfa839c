// One Tab stop for many buttons; the arrow keys move among them (ARIA's roving tabindex).

const STEPS = { ArrowRight: 1, ArrowLeft: -1 };
const ROWS = { ArrowDown: 1, ArrowUp: -1 };

export class Roving {
  #root;
  #selector;
  #current = null;

  constructor(root, selector) {
    this.#root = root;
    this.#selector = selector;
    root.addEventListener("keydown", (event) => this.#onKey(event));
    root.addEventListener("focusin", (event) => event.target.matches(selector) && this.#take(event.target));
  }

  get #all() {
    return [...this.#root.querySelectorAll(this.#selector)];
  }

  /** After the buttons changed: one of them, and one only, is in the Tab order. */
  settle() {
    const all = this.#all;
    for (const button of all) if (button !== this.#current) button.tabIndex = -1;
    if (this.#current?.isConnected) return;
    const held = this.#current !== null && document.activeElement === document.body;
    this.#take(all[0] || null);
    if (held) this.#current?.focus();
  }

  #take(button) {
    if (this.#current) this.#current.tabIndex = -1;
    this.#current = button;
    if (button) button.tabIndex = 0;
  }

  #onKey(event) {
    if (!event.target.matches(this.#selector)) return;
    const all = this.#all;
    const at = all.indexOf(event.target);
    let to;
    if (event.key in STEPS) to = all[at + STEPS[event.key]];
    else if (event.key in ROWS) to = nearest(all, event.target, ROWS[event.key]);
    else if (event.key === "Home") to = all[0];
    else if (event.key === "End") to = all.at(-1);
    else return;
    event.preventDefault();
    to?.focus();
  }
}

/** The closest one in the next row that way (down 1, up -1). */
function nearest(all, from, way) {
  const here = from.getBoundingClientRect();
  const far = (there) => Math.abs(there.top - here.top) * 4 + Math.abs(there.left - here.left);
  return all
    .map((button) => [button, button.getBoundingClientRect()])
    .filter(([, there]) => (there.top - here.top) * way > here.height / 2)
    .sort(([, a], [, b]) => far(a) - far(b))[0]?.[0];
}
