// A list that keeps itself up to date: LIST once, WATCH from there, again from the last version after a break, and
// LIST anew when the server no longer has that version (410). No polling.

import { ApiError, get, socket } from "./api.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
const GATHER_MS = 40;
const OBJECTS_PER_MS = 20; // the more there is to draw, the seldomer

/** state: loading > live <> broken; or refused (RBAC, or no such kind), which `error` explains. */
export class Watch {
  #path;
  #parameters;
  #version = "";
  #socket = null;
  #stopped = false;
  #timer = 0;
  #listeners = new Set();
  #changes = [];

  constructor(path, parameters = {}) {
    this.#path = path;
    this.#parameters = parameters;
    this.objects = new Map();
    this.state = "loading";
    this.error = null;
    this.#run();
  }

  /** `listener(watch, changes)` soon after changes, several at once: [{type, object, before}]. Gives a function that ends it. */
  subscribe(listener) {
    this.#listeners.add(listener);
    listener(this, []);
    return () => this.#listeners.delete(listener);
  }

  get items() {
    return [...this.objects.values()];
  }

  stop() {
    this.#stopped = true;
    this.#listeners.clear();
    this.#socket?.close();
    clearTimeout(this.#timer);
  }

  async #run() {
    let pause = FIRST_PAUSE_MS;
    while (!this.#stopped) {
      try {
        if (!this.#version) await this.#list();
        const began = Date.now();
        await this.#follow();
        if (Date.now() - began > LONGEST_PAUSE_MS) pause = FIRST_PAUSE_MS;
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        this.error = error;
        if (error.code >= 400 && error.code < 500 && error.code !== 410 && error.code !== 429) {
          this.#become("refused");
          return;
        }
      }
      if (this.#stopped) return;
      this.#become("broken");
      await new Promise((done) => setTimeout(done, pause * (0.5 + Math.random() / 2)));
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
  }

  async #list() {
    const list = await get(this.#path, this.#parameters);
    const gone = new Set(this.objects.keys());
    for (const object of list.items || []) {
      gone.delete(object.metadata.uid);
      this.#put("ADDED", object);
    }
    for (const uid of gone) this.#remove(this.objects.get(uid));
    this.#version = list.metadata.resourceVersion;
    this.error = null;
    this.#become("live");
  }

  /** Ends when the connection does. */
  #follow() {
    return new Promise((ended) => {
      const parameters = { ...this.#parameters, watch: "1", allowWatchBookmarks: "true", resourceVersion: this.#version };
      const connection = (this.#socket = socket(this.#path, parameters));
      connection.onopen = () => this.#become("live");
      connection.onmessage = (message) => this.#event(JSON.parse(message.data));
      connection.onclose = ended;
    });
  }

  #event({ type, object }) {
    if (type === "ERROR") {
      this.#version = "";
      this.#socket.close();
      return;
    }
    this.#version = object.metadata.resourceVersion;
    if (type === "DELETED") this.#remove(object);
    else if (type !== "BOOKMARK") this.#put(type, object);
  }

  #put(type, object) {
    const before = this.objects.get(object.metadata.uid);
    this.objects.set(object.metadata.uid, object);
    this.#changed({ type, object, before });
  }

  #remove(object) {
    if (this.objects.delete(object.metadata.uid)) this.#changed({ type: "DELETED", object });
  }

  #become(state) {
    if (this.state === state || this.#stopped) return;
    this.state = state;
    this.#changed(null);
  }

  #changed(change) {
    if (change) this.#changes.push(change);
    this.#timer ||= setTimeout(() => {
      const changes = this.#changes;
      this.#changes = [];
      this.#timer = 0;
      for (const listener of this.#listeners) listener(this, changes);
    }, GATHER_MS + this.objects.size / OBJECTS_PER_MS);
  }
}

/** The watches of one view: made together, ended together, each shown in the view's own `render`. */
export class Watches {
  constructor(paths, render) {
    this.by = Object.fromEntries(Object.entries(paths).map(([name, path]) => [name, new Watch(...[path].flat())]));
    for (const [name, watch] of Object.entries(this.by)) watch.subscribe((_, changes) => render(this.by, name, changes));
  }

  stop() {
    Object.values(this.by).forEach((watch) => watch.stop());
  }
}
