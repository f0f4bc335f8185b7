// Scenarios of what operators change on the other pages: each button is a call of the API, asks once and says what came of it.
import process from "node:process";
import { api, ask, check, dashboard, until } from "./scene.mjs";

const TOKEN = process.env.TOKEN;
const bearer = { authorization: `Bearer ${TOKEN}` };

/** A backend is drained, a budget raised, an account disabled, the audit log verified; events and the places of keys are shown. */
export async function operating() {
  await ask("spender", "[[words 30]] hello").done;
  const { page } = await dashboard("/", { allow: /status of 40[01]/ });
  await page.getByLabel("Control token").fill(TOKEN);
  await page.getByRole("button", { name: "Log in" }).click();
  const open = (name) => page.getByRole("navigation").getByRole("link", { name }).click();
  const confirm = (verb) => page.getByRole("dialog").getByRole("button", { name: verb }).click();

  await open("Backends");
  await page.getByRole("button", { name: "Drain", exact: true }).click();
  await page.getByRole("dialog").getByText("It gets no new requests").waitFor();
  await confirm("Drain");
  await page.getByText("default gets no new requests; 0 are open.").waitFor();
  await page.getByText("drained", { exact: true }).waitFor();
  const refused = await ask("spender", "hello").done;
  check(refused.status === 502 && refused.text.includes("an operator has drained"), refused.text);
  await page.getByRole("button", { name: "Undrain" }).click();
  await confirm("Undrain");
  await page.getByText("default gets requests again.").waitFor();
  check((await ask("spender", "hello").done).status === 200, "it serves again");

  await open("Usage");
  await page.getByRole("button", { name: "Raise…" }).click();
  await page.getByLabel("Add").fill("5 USD");
  await page.getByLabel("For how long").fill("24h");
  await confirm("Raise");
  await page.getByRole("dialog").getByText("the budget 'all' is in tokens").waitFor();
  await page.getByLabel("Add").fill("2M tokens");
  await confirm("Raise");
  await page.getByText(/tokens more for all until/).waitFor();
  await page.getByRole("button", { name: "Take back" }).click();
  await confirm("Take back");
  await page.getByText(/tokens of all are taken back\./).waitFor();
  await page.getByRole("button", { name: "Take back" }).waitFor({ state: "detached" });

  // What was spent is in the history when the session has ended.
  check((await api("/control/sessions/spender/kill", { method: "POST", headers: bearer, body: { reason: "enough" } })).status === 200, "killed");
  await page.getByText(/(Tokens|US dollars) in each hour, by principal/).waitFor({ timeout: 30_000 });
  await page.getByRole("img", { name: /by principal and hour/ }).locator("canvas").waitFor();

  await open("History");
  await page.getByLabel("View").selectOption("events");
  await page.getByLabel("What happened").selectOption("session_killed");
  const events = page.getByRole("region", { name: "Events" });
  await events.getByText("enough").waitFor();
  check((await events.locator("tbody tr").count()) === 1, "one kill");
  check(page.url().includes("type=session_killed"), "the filter is in the URL");

  await open("Audit");
  await page.getByRole("button", { name: "Verify now" }).click();
  await page.getByText(/In order: \d+ lines, none changed, missing or moved\./).waitFor();

  check((await api("/control/users", { method: "POST", headers: bearer, body: { name: "vera", role: "viewer" } })).status === 201, "an account");
  await open("Settings");
  await page.locator("summary", { hasText: /^budgets/ }).getByText(/\.yaml:\d+/).waitFor();
  await page.getByRole("button", { name: "Disable", exact: true }).click();
  await confirm("Disable");
  await page.getByText("The account vera is disabled.").waitFor();
  await until("the account is disabled", async () => (await api("/control/users", { headers: bearer })).json.users[0].disabled);
  await page.getByRole("button", { name: "Enable", exact: true }).click();
  await confirm("Enable");
  await page.getByText("The account vera is enabled.").waitFor();
}
