// What the scenarios of the dashboard share: a real Chromium, clients of the proxy, and a page on which no error is allowed.
import { createRequire } from "node:module";
import http from "node:http";
import process from "node:process";

const require = createRequire(new URL("../package.json", import.meta.url));
const { chromium } = require("playwright-core");
export const axe = require("axe-core");

export const control = process.env.CONTROL;
export const proxy = process.env.PROXY;
export const base = `http://${control}`;

const DEADLINE = 20_000;
const faults = [];
const ended = [];

export function check(holds, what) {
  if (!holds) throw new Error(`not so: ${what}`);
}

/** Starts Chromium. `resolve` maps names to this machine. */
export async function browser(options = {}) {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-precise-memory-info", ...(options.args ?? [])];
  const launched = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
  ended.push(() => launched.close());
  return launched;
}

/** Opens a page on which console errors, dialogs and violations of the policy are faults, but for those that `allow` fits. */
export async function page(context, { allow = /^$/ } = {}) {
  const opened = await context.newPage();
  opened.setDefaultTimeout(DEADLINE);
  const fault = (text) => allow.test(text) || faults.push(text);
  opened.on("console", (message) => message.type() === "error" && fault(`console: ${message.text()} ${message.location().url}`));
  opened.on("pageerror", (error) => fault(`error: ${error.stack}`));
  opened.on("dialog", (dialog) => {
    fault(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await opened.exposeFunction("violated", (text) => fault(`policy: ${text}`));
  await opened.addInitScript(() =>
    document.addEventListener("securitypolicyviolation", (event) => window.violated(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`)));
  return opened;
}

export async function context(launched, options = {}) {
  return launched.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "dark", ...options });
}

/** Opens the dashboard in a browser of its own. */
export async function dashboard(path = "/", options = {}) {
  const launched = await browser(options);
  const own = await context(launched, options.context);
  const opened = await page(own, options);
  await opened.goto(base + path);
  return { launched, own, page: opened };
}

/** One request on a connection of its own; `text` is what has come so far, `done` is settled at its end, broken or not. */
export function send(path, { host = proxy, method = "POST", headers = {}, body = "" } = {}) {
  const [hostname, port] = host.split(":");
  const state = { text: "", status: 0, headers: {} };
  state.done = new Promise((resolve) => {
    const finish = () => resolve(state);
    const request = http.request({ hostname, port, path, method, headers, agent: false }, (answer) => {
      state.status = answer.statusCode;
      state.headers = answer.headers;
      answer.setEncoding("utf8");
      answer.on("data", (piece) => (state.text += piece));
      answer.on("close", finish);
      answer.on("error", finish);
    });
    request.on("error", finish);
    request.end(body);
    state.drop = () => request.destroy();
  });
  return state;
}

/** A request of an agent to a model. */
export function ask(session, says, { headers = {}, model = "gpt-demo", stream = true, ...rest } = {}) {
  const body = JSON.stringify({ model, stream, messages: [{ role: "user", content: says }], ...(stream && { stream_options: { include_usage: true } }), ...rest });
  return send("/v1/chat/completions", { headers: { "content-type": "application/json", "x-session-id": session, ...headers }, body });
}

/** Calls the control API without a browser. */
export async function api(path, { method = "GET", body, headers = {} } = {}) {
  const answer = await send(path, { host: control, method, headers, body: body === undefined ? "" : JSON.stringify(body) }).done;
  let json = null;
  try {
    json = JSON.parse(answer.text);
  } catch {
    // Not every answer is JSON.
  }
  return { ...answer, json };
}

/** Waits until something holds; looks often, and fails after the deadline. */
export async function until(what, holds, deadline = DEADLINE) {
  const end = Date.now() + deadline;
  for (;;) {
    const value = await holds();
    if (value) return value;
    if (Date.now() > end) throw new Error(`in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export const row = (page, id) => page.locator(".rows tbody tr", { has: page.getByText(id, { exact: true }) });
export const cell = (page, id, at) => row(page, id).locator("td").nth(at).innerText();

/** Runs a scenario; the process fails if it does, or if the page had an error. */
export async function run(scenario) {
  let failed = null;
  try {
    await scenario();
    if (faults.length) failed = new Error(`the page had errors:\n${faults.join("\n")}`);
  } catch (error) {
    failed = error;
    if (faults.length) error.message += `\nand the page had errors:\n${faults.join("\n")}`;
  }
  for (const end of ended.reverse()) await Promise.resolve(end()).catch(() => {});
  if (failed) {
    console.error(failed.stack);
    process.exit(1);
  }
  console.log("done");
  process.exit(0);
}
