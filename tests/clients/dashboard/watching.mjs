// Scenarios of somebody who watches agents and stops them.
import { api, ask, cell, check, dashboard, row, until } from "./scene.mjs";

const TOKENS = 4;
const number = (text) => Number.parseFloat(text) * (text.includes("k") ? 1000 : 1);

/** 1: a session appears, its tokens grow, Kill ends its stream with the message, the row turns and the record opens. */
export async function live() {
  const { page } = await dashboard();
  await page.getByText("No agent is running.").waitFor();
  await ask("alpha", "[[words 40]]").done;
  await row(page, "alpha").waitFor();
  const first = await until("tokens", async () => number(await cell(page, "alpha", TOKENS)));
  await ask("alpha", "[[words 300]]").done;
  await until("more tokens", async () => number(await cell(page, "alpha", TOKENS)) > first);
  const stream = ask("alpha", "[[words 5000]] [[pace 20ms]]");
  await row(page, "alpha").getByText("working").waitFor();

  await row(page, "alpha").getByRole("button", { name: "Kill alpha" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("1 open request").waitFor();
  check((await dialog.innerText()).includes("anon:127.0.0.1"), "the dialog names the principal");
  check(stream.text.includes("word") && !stream.text.includes("killed"), "the stream goes on until then");
  await page.keyboard.press("Enter");
  const notice = page.getByText("Killed alpha");
  await notice.waitFor();
  check((await notice.innerText()).includes("1 open request cut, 1 instance"), await notice.innerText());
  const end = await stream.done;
  check(end.text.includes("Session killed by operator"), `the client is told why: ${end.text.slice(-300)}`);
  await row(page, "alpha").getByText("killed", { exact: true }).waitFor();
  await page.getByRole("link", { name: "Open", exact: true }).click();
  await page.getByRole("heading", { name: "alpha" }).waitFor();
  await page.getByText("Killed by control:127.0.0.1").waitFor();
  check(page.url().includes("#/session/s_"), page.url());
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByText("Resumed alpha").waitFor();
  check((await ask("alpha", "again").done).status === 200, "it is resumed");
  await page.goBack();
  await row(page, "alpha").first().waitFor();
}

/** 2: a kill by selection shows the dry run's list and kills exactly that. */
export async function selection() {
  const { page } = await dashboard("/", { allow: /status of 400/ });
  const streams = ["sel-a", "sel-b"].map((id) => ask(id, "[[stall]]", { headers: { "user-agent": "aider/1.0" } }));
  const other = ask("other", "[[stall]]", { headers: { "user-agent": "goose/1.0" } });
  for (const id of ["sel-a", "sel-b", "other"]) await row(page, id).getByText("working").waitFor();
  await page.getByRole("button", { name: "Kill by selection" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Client").fill("aider");
  await dialog.getByRole("button", { name: "Show what fits" }).click();
  await dialog.getByRole("heading", { name: "Kill 2 sessions?" }).waitFor();
  const list = await dialog.innerText();
  check(list.includes("sel-a") && list.includes("sel-b") && !list.includes("other"), list);
  check((await api("/control/kills")).json.kills.length === 0, "the list kills nothing");
  await dialog.getByRole("button", { name: "Kill 2" }).click();
  await page.getByText("Killed 2 of 2 sessions: 2 open requests cut.").waitFor();
  for (const stream of streams) check((await stream.done).text.includes("killed by operator"), "each stream ends");
  for (const id of ["sel-a", "sel-b"]) await row(page, id).getByText("killed", { exact: true }).waitFor();
  const left = (await api("/control/sessions?state=active")).json.sessions;
  check(left.length === 1 && left[0].id === "other", JSON.stringify(left.map((one) => one.id)));
  other.drop();

  // A selector that the API refuses is shown with its reason.
  await page.getByRole("button", { name: "Kill by selection" }).click();
  await dialog.getByLabel("Expression").fill("session.requests >");
  const refused = page.waitForResponse((answer) => answer.url().endsWith("/control/kill"));
  await dialog.getByRole("button", { name: "Show what fits" }).click();
  check((await refused).status() === 400, "a wrong expression");
  await dialog.getByRole("alert").getByText("Refused (400, bad_request)").waitFor();
}

/** 3: an approval is answered and the held call goes on; a denial tells the client why. */
export async function approvals() {
  const { page } = await dashboard("/#/approvals");
  await page.getByText("No call waits.").waitFor();
  const tools = [{ type: "function", function: { name: "Pay", parameters: {} } }];
  const held = ask("payer", '[[tool Pay {"amount": 5, "to": "<b>bank</b>"}]]', { tools });
  const waiting = page.getByRole("region", { name: "Call of payer" });
  await waiting.waitFor();
  const shown = await waiting.innerText();
  check(shown.includes('"amount": 5') && shown.includes("<b>bank</b>"), `the exact arguments: ${shown}`);
  check(shown.includes("anon:127.0.0.1") && shown.includes("left"), `who asks, and the time left: ${shown}`);
  await page.getByRole("navigation").getByText("1", { exact: true }).waitFor();
  check(!held.text.includes("[DONE]"), "the call waits");
  await waiting.getByRole("button", { name: "Allow" }).click();
  await page.getByRole("dialog").getByText("Allow this call, once?").waitFor();
  await page.keyboard.press("Enter");
  const end = await held.done;
  check(end.text.includes("[DONE]") && end.text.includes("amount"), end.text);
  await page.getByText("No call waits.").waitFor();

  const denied = ask("payer", '[[tool Pay {"amount": 6}]]', { tools });
  await waiting.getByRole("button", { name: "Deny" }).click();
  await page.getByRole("dialog").getByLabel("Reason").fill("not on a Friday");
  await page.getByRole("dialog").getByRole("button", { name: "Deny" }).click();
  check((await denied.done).text.includes("not on a Friday"), denied.text);
  await page.getByRole("combobox", { name: "State" }).selectOption("denied");
  await page.getByText("deny by").waitFor();

  // What the rule found is on the page of findings, and leads to the session.
  await page.getByRole("link", { name: "Findings" }).click();
  await page.getByRole("region", { name: "Findings" }).getByRole("link", { name: "payer" }).first().click();
  await page.getByRole("heading", { name: "payer" }).waitFor();
  await page.getByText(/⚑ pay \(hold\)/).waitFor();
}

const bar = (page, text) => page.getByText(`Not live since`).filter({ hasText: text });
const active = (page) => page.locator(".rows tbody tr:not(.over):not(.gap)");

/** 5: the feed is cut, the server restarts, the tab sleeps: the bar says so, and the table is right again. */
export async function interruptions() {
  const { page } = await dashboard("/", { allow: /ERR_(CONNECTION|EMPTY|INCOMPLETE)/ });
  await ask("before", "hello").done;
  await row(page, "before").waitFor();
  // The tab sleeps.
  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  await bar(page, "hidden").waitFor();
  await ask("meanwhile", "hello").done;
  check((await api("/control/sessions/before/kill", { method: "POST" })).status === 200, "killed meanwhile");
  check((await row(page, "meanwhile").count()) === 0, "a hidden page reads nothing");
  await hide(false);
  await row(page, "meanwhile").waitFor();
  await until("the table is right", async () => (await active(page).count()) === 1);
  await page.getByText("Not live since").waitFor({ state: "detached" });
  // The gateway crashes, and another one starts on the same ports.
  console.log("restart");
  await bar(page, /lost|not answer/).waitFor();
  await page.getByText("Not live since").waitFor({ state: "detached" });
  await until("what the crash ended is gone", async () => (await active(page).count()) === 0);
  await ask("after", "hello").done;
  await row(page, "after").waitFor();
}
