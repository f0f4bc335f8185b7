// What all pages share: where one is (in the URL), who one is, and the sessions that are live.
import { ApiError, feed, get, query } from "./api.mjs";
import { createContext, useEffect, useReducer, useState } from "./parts/html.mjs";
import { serverNow } from "./parts/format.mjs";

export const Caller = createContext(null);

/** Whether the caller may do this: for everything, or with `anywhere` for a tenant. */
export const may = (who, permission, anywhere = true) => {
  const reach = who?.permissions?.[permission];
  return reach === "all" || (anywhere && reach === "tenant");
};

/** The page and its parameters, out of `#/session/ID?by=…`. */
export function parse(hash) {
  const [path, search = ""] = hash.replace(/^#?\/?/, "").split("?");
  const [page, ...rest] = path.split("/");
  return { page: page || "live", name: rest.length ? decodeURIComponent(rest.join("/")) : "", parameters: new URLSearchParams(search) };
}

export function useRoute() {
  const [route, set] = useState(() => parse(location.hash));
  useEffect(() => {
    const changed = () => set(parse(location.hash));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

/** Writes parameters of this page into the URL without a step in the history of the browser. */
export function setParameters(values) {
  const { parameters } = parse(location.hash);
  for (const [name, value] of Object.entries(values)) value ? parameters.set(name, value) : parameters.delete(name);
  const path = location.hash.split("?")[0] || "#/";
  const search = parameters.toString();
  history.replaceState(null, "", search ? `${path}?${search}` : path);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/**
 * Reads something now and then while the page is seen. Keeps the last value when a later reading fails.
 * @returns {{value: any, fault: Error|null, at: number, again: () => void}}
 */
export function useReading(path, every = 0) {
  const [state, set] = useState({ value: null, fault: null, at: 0, path: null });
  const [turn, again] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    if (!path) return undefined;
    const stop = new AbortController();
    let timer = 0;
    const read = async () => {
      clearTimeout(timer);
      if (document.hidden && every) return;
      try {
        const value = await get(path, { signal: stop.signal });
        set({ value, fault: null, at: serverNow(), path });
      } catch (fault) {
        if (fault.name === "AbortError") return;
        set((old) => ({ ...old, value: old.path === path ? old.value : null, fault, path }));
        if (fault.status === 403) return;
      }
      if (every) timer = setTimeout(read, every);
    };
    const seen = () => !document.hidden && every && read();
    document.addEventListener("visibilitychange", seen);
    read();
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [path, every, turn]);
  return { ...state, value: state.path === path ? state.value : null, again };
}

const PAGE = 1000;
const EVERY = 2000;
/** How long an ended session stays in the list, so that one sees what became of it. */
const KEPT = 30000;

/** The sessions that are live: a list that is read, a feed, and what has changed since. */
export class Live {
  sessions = new Map();
  behind = "starting";
  since = serverNow();
  loaded = false;
  #tell = new Set();
  #end = null;
  #timer = 0;
  #frame = 0;
  #reading = false;
  #again = false;
  #read = 0;
  #isUp = false;
  /** Sessions that began while the list was read. */
  #fresh = new Set();
  #hasFeed;

  constructor(hasFeed) {
    this.#hasFeed = hasFeed;
  }

  subscribe(tell) {
    this.#tell.add(tell);
    return () => this.#tell.delete(tell);
  }

  start() {
    document.addEventListener("visibilitychange", this.#seen);
    this.#open();
  }

  stop() {
    document.removeEventListener("visibilitychange", this.#seen);
    this.#close();
  }

  #seen = () => {
    if (!document.hidden) return this.#open();
    this.#close();
    return this.#fallBehind("hidden");
  };

  #open() {
    this.#close();
    if (!this.#hasFeed) return this.readAll();
    this.#end = feed({
      open: () => {
        this.#isUp = true;
        this.readAll();
      },
      lost: () => {
        this.#isUp = false;
        this.#fallBehind("the connection was lost");
      },
      event: (name, data) => this.#event(name, data),
    });
    return undefined;
  }

  #close() {
    this.#end?.();
    this.#end = null;
    this.#isUp = false;
    clearTimeout(this.#timer);
  }

  #fallBehind(why) {
    if (!this.behind) this.since = this.#read || serverNow();
    this.behind = why;
    clearTimeout(this.#timer);
    this.#changed();
  }

  // What changes within a frame is drawn once; a long list, which has to be sorted, some times a second.
  #changed() {
    this.#frame ||= setTimeout(() => requestAnimationFrame(() => {
      this.#frame = 0;
      for (const tell of this.#tell) tell();
    }), this.sessions.size > 1000 ? 250 : 0);
  }

  #put(session) {
    const old = this.sessions.get(session.uid);
    // A list that was read before an event must not undo it.
    if (old?.state !== undefined && old.state !== "active" && session.state === "active") return;
    this.sessions.set(session.uid, { ...session, gone: session.state === "active" ? 0 : (old?.gone || serverNow()) });
  }

  #event(name, data) {
    if (name === "session.started") {
      if (this.#reading) this.#fresh.add(data.uid);
      this.#put(data);
    } else if (name === "session.ended") {
      const old = this.sessions.get(data.uid);
      if (old) this.sessions.set(data.uid, { ...old, state: data.state, open_legs: 0, gone: old.gone || serverNow(), record: true });
    } else if (name === "session.killed") {
      const old = this.sessions.get(data.uid);
      if (old) this.sessions.set(data.uid, { ...old, state: "killed", open_legs: 0, gone: serverNow(), reason: data.reason });
    } else if (name === "lagged") this.readAll();
    dispatchEvent(new CustomEvent("elida", { detail: { name, data } }));
    this.#changed();
  }

  /** Reads the whole list anew; at most once a second. */
  async readAll() {
    if (this.#reading) {
      this.#again = true;
      return;
    }
    this.#reading = true;
    clearTimeout(this.#timer);
    try {
      const begun = serverNow();
      const seen = new Set();
      this.#fresh.clear();
      for await (const page of this.#pages({ state: "active" }, this.loaded ? PAGE : 200)) {
        for (const session of page) {
          seen.add(session.uid);
          this.#put(session);
        }
        this.loaded = true;
        this.#changed();
      }
      for (const [uid, session] of this.sessions) {
        if (session.gone || seen.has(uid) || this.#fresh.has(uid)) continue;
        this.sessions.delete(uid);
      }
      this.#caughtUp(begun);
    } catch (fault) {
      this.#failed(fault);
    }
    this.#reading = false;
    if (this.#again) {
      this.#again = false;
      this.#timer = setTimeout(() => this.readAll(), 1000);
    } else this.#later();
  }

  // Reads what has moved since the last reading.
  async #refresh() {
    if (this.#reading) return;
    this.#reading = true;
    const begun = serverNow();
    try {
      const since = `${Math.ceil((begun - this.#read) / 1000) + 2}s`;
      for await (const page of this.#pages({ state: "active", active_since: since }, PAGE)) page.forEach((one) => this.#put(one));
      this.#caughtUp(begun);
    } catch (fault) {
      this.#failed(fault);
    }
    this.#reading = false;
    this.#again ? this.readAll() : this.#later();
  }

  async *#pages(parameters, limit) {
    let cursor;
    do {
      const page = await get(`/control/sessions${query({ ...parameters, limit: cursor ? PAGE : limit, cursor })}`);
      yield page.sessions;
      cursor = page.next_cursor;
    } while (cursor);
  }

  #caughtUp(begun) {
    this.#read = begun;
    if (this.#isUp || !this.#hasFeed) this.behind = "";
    for (const [uid, session] of this.sessions) if (session.gone && begun - session.gone > KEPT) this.sessions.delete(uid);
    this.#changed();
  }

  #failed(fault) {
    this.#fallBehind(fault instanceof ApiError && fault.status ? fault.message : "the gateway does not answer");
  }

  #later() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    const next = this.#hasFeed && this.#read ? () => this.#refresh() : () => this.readAll();
    this.#timer = setTimeout(next, EVERY);
  }
}

/** Draws again when the live sessions have changed. */
export function useLive(live) {
  const [, draw] = useReducer((n) => n + 1, 0);
  useEffect(() => live.subscribe(draw), [live]);
  return live;
}
