// Calls of the control API, and its live feed.
import { learnTime } from "./parts/format.mjs";

/** An answer that is not a success: `status`, and the problem of the API. */
export class ApiError extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? (status ? `HTTP ${status}` : "the gateway does not answer"));
    this.status = status;
    this.code = problem?.code ?? "";
    this.problem = problem;
  }
}

const watchers = { unauthorized: () => {}, version: () => {} };
let version = null;

/** Says what is done when a log-in is over, and when the gateway has another version than the page. */
export function watch(events) {
  Object.assign(watchers, events);
}

/**
 * Calls the API.
 * @param {string} path
 * @param {{method?: string, body?: unknown, signal?: AbortSignal, quiet?: boolean}} [options]
 */
export async function call(path, { method = "GET", body, signal, quiet } = {}) {
  const headers = { accept: "application/json" };
  if (method !== "GET") Object.assign(headers, { "x-elida-page": "1", "content-type": "application/json" });
  let answer;
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    answer = await fetch(path, { method, headers, body: text, signal, credentials: "same-origin", cache: "no-store" });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new ApiError(0, null);
  }
  const date = answer.headers.get("date");
  if (date) learnTime(date);
  const theirs = answer.headers.get("x-elida-version");
  version ??= theirs;
  if (theirs && version !== theirs) watchers.version(theirs);
  const isJson = (answer.headers.get("content-type") ?? "").includes("json");
  const value = isJson ? await answer.json().catch(() => null) : await answer.text();
  if (answer.ok) return value;
  if (answer.status === 401 && !quiet) watchers.unauthorized();
  throw new ApiError(answer.status, isJson ? value : null);
}

export const get = (path, options) => call(path, options);
export const post = (path, body) => call(path, { method: "POST", body: body ?? {} });
export const remove = (path) => call(path, { method: "DELETE" });

/** A query of the parameters that have a value. */
export function query(parameters) {
  const pairs = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return pairs.length ? `?${new URLSearchParams(pairs)}` : "";
}

export const sessionPath = (name, rest = "") => `/control/sessions/${encodeURIComponent(name)}${rest}`;

const EVENTS = [
  "session.started", "session.ended", "session.killed", "session.resumed", "agent.killed", "agent.resumed", "policy.finding",
  "approval.requested", "approval.decided", "budget.soft_limit", "lagged", "store.lost", "store.back",
];
const LONGEST = 15000;

/**
 * Keeps the live feed open, with growing pauses between attempts.
 * @param {{event: (name: string, data: any) => void, open: () => void, lost: () => void}} on
 * @returns {() => void} ends it
 */
export function feed(on) {
  let source = null;
  let timer = 0;
  let pause = 500;
  let ended = false;
  const connect = () => {
    source = new EventSource("/control/events");
    source.onopen = () => {
      pause = 500;
      on.open();
    };
    for (const name of EVENTS) source.addEventListener(name, (event) => on.event(name, JSON.parse(event.data)));
    source.onerror = () => {
      source.close();
      if (ended) return;
      on.lost();
      timer = setTimeout(connect, pause * (0.75 + Math.random() / 2));
      pause = Math.min(pause * 2, LONGEST);
    };
  };
  connect();
  return () => {
    ended = true;
    clearTimeout(timer);
    source.close();
  };
}
