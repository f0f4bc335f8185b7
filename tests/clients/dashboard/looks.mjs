// Scenarios of how the page looks and how it is used without a mouse.
import fs from "node:fs";
import process from "node:process";
import { api, ask, axe, base, browser, check, context, dashboard, page as open, row, until } from "./scene.mjs";

const PAGES = ["live", "history", "usage", "approvals", "findings", "backends", "audit", "settings"];

/** 9: keyboard only; nothing serious is found by axe on any page, dark and light; 375 and 2,560 pixels wide. */
export async function keyboard() {
  const { page } = await dashboard();
  const streams = ["one", "two", "three"].map((id) => ask(id, "[[stall]]"));
  for (const id of ["one", "two", "three"]) await row(page, id).getByText("working").waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type("two");
  await until("the filter", async () => (await page.locator(".rows tbody tr").count()) === 1);
  check(page.url().includes("q=two"), "the filter is in the URL");
  await page.keyboard.press("Escape");
  await page.keyboard.press("j");
  await page.keyboard.press("x");
  await page.getByRole("dialog").getByText("Kill two?").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  check(!(await streams[1].text).includes("killed"), "Escape kills nothing");
  await page.keyboard.press("x");
  await page.keyboard.press("Enter");
  check((await streams[1].done).text.includes("killed by operator"), "Enter kills");
  await page.getByText("Killed two").waitFor();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "two" }).waitFor();
  await page.goBack();
  await row(page, "two").waitFor();
  for (const stream of streams) stream.drop();
}

async function serious(page) {
  await page.evaluate(axe.source);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return found.violations.filter((one) => ["serious", "critical"].includes(one.impact))
    .map((one) => `${one.id}: ${one.nodes.slice(0, 3).map((node) => `${node.html} ${node.failureSummary}`).join(" | ")}`);
}

export async function accessible() {
  await ask("shown", "[[words 30]] hello", { headers: { "user-agent": "aider/1.0" } }).done;
  const stream = ask("open", "[[stall]]");
  const launched = await browser();
  for (const colorScheme of ["dark", "light"]) {
    const own = await context(launched, { colorScheme, reducedMotion: "reduce" });
    const page = await open(own);
    for (const name of PAGES) {
      await page.goto(`${base}/#/${name === "live" ? "" : name}`);
      await page.locator("main").waitFor();
      await until(`${name} is there`, async () => !/Loading|Reading/.test(await page.locator("main").innerText()));
      const found = await serious(page);
      check(found.length === 0, `axe on ${name}, ${colorScheme}:\n${found.join("\n")}`);
    }
    await page.goto(`${base}/#/`);
    await row(page, "open").getByRole("button", { name: "Kill open" }).click();
    check((await serious(page)).length === 0, "axe on the dialog of a kill");
    await page.keyboard.press("Escape");
    await row(page, "open").getByRole("link").click();
    await page.getByRole("heading", { name: "Time line" }).waitFor();
    const found = await serious(page);
    check(found.length === 0, `axe on a session: ${found.join("\n")}`);
    await own.close();
  }
  for (const width of [375, 2560]) {
    const page = await open(await context(launched, { viewport: { width, height: 800 } }));
    for (const name of PAGES) {
      await page.goto(`${base}/#/${name === "live" ? "" : name}`);
      await page.locator("main").waitFor();
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      check(wide <= 0, `${name} is ${wide} px wider than ${width}`);
    }
  }
  stream.drop();
}

/** 10: each page once as a picture, dark and light, into the folder PICTURES, for a person to look at. */
export async function pictures() {
  const folder = process.env.PICTURES;
  const streams = [ask("fix-login-tests", "[[words 4000]] [[pace 20ms]]"), ask("nightly-report", "[[stall]]")];
  for (const [id, model] of [["done", "gpt-demo"], ["review-pr", "gpt-4o"], ["triage", "gpt-4o-mini"]]) {
    await ask(id, "[[words 90]] hello", { model }).done;
    await api(`/control/sessions/${id}/kill`, { method: "POST", body: { reason: "runaway" } });
  }
  await until("the records", async () => (await api("/control/usage")).json.usage.length > 0);
  const launched = await browser();
  for (const colorScheme of ["dark", "light"]) {
    const page = await open(await context(launched, { colorScheme }));
    for (const name of [...PAGES, "session"]) {
      await page.goto(`${base}/#/${name === "live" ? "" : name === "session" ? "session/fix-login-tests" : name}`);
      await page.locator("main").waitFor();
      await until(`${name} is there`, async () => !/Loading|Reading/.test(await page.locator("main").innerText()));
      const picture = await page.screenshot(folder ? { path: `${folder}/${name}-${colorScheme}.png` } : {});
      check(picture.length > 10_000, `${name} is not empty`);
    }
  }
  if (folder) check(fs.readdirSync(folder).length === 18, "a picture of each page");
  for (const stream of streams) stream.drop();
}
