// Scenarios of people who should not get in, and of those who may do only some things.
import http from "node:http";
import process from "node:process";
import { api, ask, base, browser, check, context, control, dashboard, page as open, row, send, until } from "./scene.mjs";

/** 6: ids and texts with markup, marks that turn the direction, and 4,000 characters change nothing but text. */
export async function hostile() {
  const { page } = await dashboard();
  const id = "<img/src=x/onerror=alert(1)>";
  const client = "<script>alert(2)</script>/1.0";
  const model = `<b onmouseover=alert(3)>\u202egpt\u202c${"m".repeat(4000)}`;
  await ask(id, "<iframe src=javascript:alert(4)>", { headers: { "user-agent": client }, model }).done;
  const tool = { type: "function", function: { name: "svg_onload_alert", parameters: {} } };
  await ask(id, '[[tool svg_onload_alert {"x": "</pre><script>alert(5)</script>"}]]', { tools: [tool] }).done;
  const stream = ask(id, "[[stall]]");
  await row(page, id).getByText("working").waitFor();
  const wide = () => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  check(!(await wide()), "a long name does not widen the page");
  await row(page, id).getByRole("button", { name: "Kill" }).click();
  await page.getByRole("dialog").getByLabel("Reason").fill("<img src=x onerror=alert(6)>\u202e");
  await page.getByRole("dialog").getByRole("button", { name: "Kill" }).click();
  check((await stream.done).text.includes("<img src=x onerror=alert(6)>") || stream.text.includes("\\u003cimg"), stream.text);
  await page.getByRole("link", { name: "Open", exact: true }).click();
  await page.getByText("Killed by").waitFor();
  check((await page.getByRole("heading", { level: 1 }).innerText()) === id, "the id is text");
  const told = await page.locator("main").innerText();
  check(told.includes("<img src=x onerror=alert(6)>"), `the reason is text: ${told}`);
  check(!(await page.locator("main .chip").first().innerText()).includes("\u202e"), "what turns the direction is not shown");
  check(!(await wide()), "nor does it on the page of the session");
  await page.locator("details").last().locator("summary").click();
  const injected = await page.locator('img[src="x"], main script, main iframe, main b[onmouseover], main svg').count();
  check(injected === 0, `${injected} elements of an agent's making`);
}

const opened = async (handler) => {
  const server = http.createServer(handler).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.on("listening", resolve));
  return server.address().port;
};

/** 7: a page of another origin can neither read, nor kill, nor log in. */
export async function foreign() {
  const [, port] = control.split(":");
  const launched = await browser({ args: [`--host-resolver-rules=MAP evil.example 127.0.0.1`] });
  const own = await context(launched);
  const mine = await open(own);
  await mine.goto(base);
  const stream = ask("victim", "[[stall]]");
  await row(mine, "victim").getByText("working").waitFor();
  const evil = await opened((_, answer) => answer.setHeader("content-type", "text/html").end("<!doctype html><title>evil</title>"));
  for (const origin of [`http://127.0.0.1:${evil}`, `http://evil.example:${evil}`]) {
    const page = await open(own, { allow: /./ });
    await page.goto(origin);
    const tried = await page.evaluate(async (base) => {
      const attempt = (work) => work().then((value) => value, (fault) => `failed: ${fault.name ?? fault.type}`);
      const kill = `${base}/control/sessions/victim/kill`;
      const body = JSON.stringify({ reason: "evil" });
      const status = async (answer) => `${(await answer).type} ${(await answer).status}`;
      const form = document.createElement("form");
      Object.assign(form, { method: "POST", action: kill, target: "frame", enctype: "text/plain" });
      const frame = Object.assign(document.createElement("iframe"), { name: "frame" });
      document.body.append(frame, form);
      const sent = new Promise((resolve) => frame.addEventListener("load", () => resolve("sent")));
      form.submit();
      return {
        read: await attempt(() => status(fetch(`${base}/control/sessions`))),
        kill: await attempt(() => status(fetch(kill, { method: "POST", body }))),
        header: await attempt(() => status(fetch(kill, { method: "POST", body, headers: { "x-elida-page": "1" } }))),
        login: await attempt(() => status(fetch(`${base}/control/login`, { method: "POST", body: "{}" }))),
        blind: await attempt(() => status(fetch(kill, { method: "POST", body, mode: "no-cors", credentials: "include" }))),
        module: await attempt(() => import(`${base}/assets/api.mjs`).then(() => "read")),
        feed: await attempt(() => new Promise((resolve, reject) => {
          const source = new EventSource(`${base}/control/events`, { withCredentials: true });
          source.onopen = () => resolve("open");
          source.onerror = reject;
        })),
        socket: await attempt(() => new Promise((resolve, reject) => {
          const socket = new WebSocket(`${base.replace("http", "ws")}/control/events`);
          socket.onopen = () => resolve("open");
          socket.onerror = reject;
        })),
        form: await sent,
      };
    }, base);
    for (const name of ["read", "kill", "header", "login", "module", "feed", "socket"]) {
      check(tried[name].startsWith("failed"), `${name} from ${origin}: ${tried[name]}`);
    }
    check(tried.blind.startsWith("opaque") || tried.blind.startsWith("failed"), `blind: ${tried.blind}`);
    await page.close();
  }
  // A name of the attacker that leads here (DNS rebinding).
  const rebound = await open(own, { allow: /./ });
  check((await rebound.goto(`http://evil.example:${port}/`)).status() === 403, "a name that is not ours");
  const call = await rebound.evaluate(() => fetch("/control/sessions/victim/kill", { method: "POST" }).then((answer) => answer.status));
  check(call === 403, `a call of a rebound page: ${call}`);
  check((await api("/control/sessions/victim", { headers: { host: `evil.example:${port}` } })).status === 403, "nor by hand");
  // No page may show ours in a frame.
  const framing = await open(own, { allow: /./ });
  await framing.goto(`http://127.0.0.1:${evil}`);
  const framed = await framing.evaluate((base) => new Promise((resolve) => {
    const frame = Object.assign(document.createElement("iframe"), { src: base });
    frame.onload = () => {
      try {
        resolve(frame.contentDocument === null ? "not readable" : "own");
      } catch {
        resolve("not readable");
      }
    };
    document.body.append(frame);
  }), base);
  check(framed === "not readable", framed);
  check(!framing.frames().some((frame) => frame.url() === `${base}/`), "our page is not in the frame");
  check((await api("/control/sessions/victim")).json.state === "active", "the victim lives");
  check((await api("/control/kills")).json.kills.length === 0, "nothing was killed");
  stream.drop();
}

const TOKEN = process.env.TOKEN;
const bearer = { authorization: `Bearer ${TOKEN}` };

async function enter(page, token) {
  await page.getByLabel("Control token").fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
}

/** 8: log-in, a wrong token, log-out, the end of a cookie; a viewer sees no buttons and gets 403 by hand. */
export async function login() {
  const { own, page } = await dashboard("/", { allow: /status of 40[13]/ });
  await page.getByRole("button", { name: "Log in" }).waitFor();
  await enter(page, "not-the-token-0123456789");
  await page.getByRole("alert").getByText("Refused (401, login_failed)").waitFor();
  await enter(page, TOKEN);
  await page.getByText("No agent is running.").waitFor();
  const [cookie, ...more] = await own.cookies();
  check(more.length === 0 && cookie.httpOnly && cookie.sameSite === "Strict", JSON.stringify(cookie));
  check(cookie.name === `elida-${control.split(":")[1]}` && !cookie.value.includes(TOKEN), "the cookie is no token");
  const kept = await page.evaluate(() => JSON.stringify([document.cookie, { ...localStorage }, { ...sessionStorage }, location.href]));
  check(!kept.includes(TOKEN) && !kept.includes(cookie.value), `nothing is kept where scripts read: ${kept}`);
  await page.reload();
  await page.getByText("No agent is running.").waitFor();

  const jar = { cookie: `${cookie.name}=${cookie.value}` };
  check((await api("/control/sessions", { headers: jar })).status === 200, "the cookie reads");
  const bare = await api("/control/sessions/none/kill", { method: "POST", headers: jar });
  check(bare.status === 403 && bare.json.code === "origin_not_allowed", `a change needs the header: ${bare.text}`);
  const whole = await api("/control/sessions/none/kill", { method: "POST", headers: { ...jar, "x-elida-page": "1" } });
  check(whole.status === 404, `and passes with it: ${whole.text}`);
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByRole("button", { name: "Log in" }).waitFor();
  check((await api("/control/sessions", { headers: jar })).status === 401, "the old cookie is worth nothing");

  // The cookie ends: log-in, then back to where one was.
  await ask("kept", "hello").done;
  await enter(page, TOKEN);
  await row(page, "kept").getByRole("link", { name: "kept" }).click();
  await page.getByRole("heading", { name: "kept" }).waitFor();
  const place = page.url();
  await own.clearCookies();
  await page.getByRole("button", { name: "Log in" }).waitFor();
  await enter(page, TOKEN);
  await page.getByRole("heading", { name: "kept" }).waitFor();
  check(page.url() === place, `${page.url()} is not ${place}`);
  await page.getByRole("button", { name: "Log out" }).click();

  // A viewer, by an account.
  const made = await api("/control/users", { method: "POST", headers: bearer, body: { name: "vera", role: "viewer" } });
  check(made.status === 201, made.text);
  await page.getByRole("button", { name: "Account" }).click();
  await page.getByLabel("Name").fill("vera");
  await page.getByLabel("Password").fill(made.json.password);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("heading", { name: "kept" }).waitFor();
  check((await page.getByRole("button", { name: "Kill" }).count()) === 0, "no Kill on the page of a session");
  await page.getByRole("link", { name: "Live" }).first().click();
  const stream = ask("watched", "[[stall]]");
  await row(page, "watched").getByText("working").waitFor();
  check((await page.getByRole("button", { name: /Kill|Resume/ }).count()) === 0, "no Kill in the table");
  const menu = await page.getByRole("navigation").innerText();
  for (const none of ["Audit", "Settings", "History"]) check(!menu.includes(none), `a viewer has no ${none}: ${menu}`);
  const code = await page.evaluate(async () => {
    const answer = await fetch("/control/sessions/watched/kill", { method: "POST", headers: { "x-elida-page": "1" } });
    return `${answer.status} ${(await answer.json()).code}`;
  });
  check(code === "403 role_required", code);
  const audit = (await api("/control/audit?action=beginCookie", { headers: bearer })).json.lines;
  check(audit.some((line) => line.operator.id === "user:vera@elida" && line.status === 200), JSON.stringify(audit));
  check(!JSON.stringify(audit).includes(TOKEN), "no credential in the log");
  // The end of the account ends the page.
  check((await api("/control/users/vera/disable", { method: "POST", headers: bearer })).status === 200, "disabled");
  await page.getByRole("button", { name: "Log in" }).waitFor();
  stream.drop();
}

/** With `control.dashboard: false` there is no page, and the API is as before. */
export async function off() {
  for (const path of ["/", "/assets/app.mjs"]) check((await api(path)).status === 404, path);
  check((await send("/control/health", { host: control, method: "GET" }).done).status === 200, "the API is there");
  await until("the list", async () => (await api("/control/sessions")).status === 200);
}
