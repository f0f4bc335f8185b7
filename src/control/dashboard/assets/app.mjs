// The frame: who one is, the menu that follows from it, and the page that the URL names.
import { get, post, watch } from "./api.mjs";
import { html, render, useEffect, useState } from "./parts/html.mjs";
import { Caller, Live, may, useReading, useRoute } from "./state.mjs";
import { Notice } from "./parts/dialog.mjs";
import { plain } from "./parts/format.mjs";
import { Behind, LivePage } from "./live.mjs";
import { LoginPage } from "./login.mjs";

/** The pages: a name in the URL, a label, who may see it, and how it is loaded. */
const PAGES = [
  { name: "live", label: "Live", when: (who) => may(who, "read") },
  { name: "history", label: "History", when: (who) => who.features.history && may(who, "history") },
  { name: "usage", label: "Usage", when: (who) => who.features.history && may(who, "usage") },
  { name: "approvals", label: "Approvals", when: (who) => may(who, "operate") },
  { name: "findings", label: "Findings", when: (who) => may(who, "read") },
  { name: "backends", label: "Backends", when: (who) => may(who, "read", false) },
  { name: "audit", label: "Audit", when: (who) => may(who, "audit", false) },
  { name: "settings", label: "Settings", when: (who) => may(who, "config", false) || may(who, "keys") },
];

const lazy = {
  session: () => import("./session.mjs").then((module) => module.SessionPage),
  history: () => import("./history.mjs").then((module) => module.HistoryPage),
  usage: () => import("./usage.mjs").then((module) => module.UsagePage),
  approvals: () => import("./approvals.mjs").then((module) => module.ApprovalsPage),
  findings: () => import("./findings.mjs").then((module) => module.FindingsPage),
  backends: () => import("./backends.mjs").then((module) => module.BackendsPage),
  audit: () => import("./audit.mjs").then((module) => module.AuditPage),
  settings: () => import("./settings.mjs").then((module) => module.SettingsPage),
};

function Lazy({ load, ...rest }) {
  const [Page, set] = useState(null);
  useEffect(() => {
    let gone = false;
    load().then((Page) => !gone && set(() => Page));
    return () => {
      gone = true;
    };
  }, [load]);
  return Page ? html`<${Page} ...${rest} />` : html`<p class="quiet">Loading…</p>`;
}

function Theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches || !matchMedia("(prefers-color-scheme: light)").matches;
  const [theme, set] = useState(() => localStorage.getItem("elida-theme") ?? (dark ? "dark" : "light"));
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    dispatchEvent(new Event("elida-theme"));
  }, [theme]);
  const turn = () => {
    const next = theme === "dark" ? "light" : "dark";
    localStorage.setItem("elida-theme", next);
    set(next);
  };
  return html`<button class="plain" onClick=${turn} aria-label=${`Use ${theme === "dark" ? "light" : "dark"} colours`}>${theme === "dark" ? "☀" : "☾"}</button>`;
}

/** How many calls wait for an answer. */
function Waiting() {
  const { value, again } = useReading("/control/approvals", 10000);
  useEffect(() => {
    const changed = (event) => event.detail.name.startsWith("approval.") && again();
    addEventListener("elida", changed);
    return () => removeEventListener("elida", changed);
  }, []);
  const count = value?.approvals.length ?? 0;
  const text = value?.next_cursor ? `${count}+` : count;
  return count > 0 && html`<span class="badge" title=${`${text} held`}>${text}</span>`;
}

function Menu({ who, route, out }) {
  const current = route.page === "session" ? "live" : route.page;
  const link = ({ name, label }) => html`<a href=${name === "live" ? "#/" : `#/${name}`} aria-current=${current === name ? "page" : undefined}>${label}${name === "approvals" && html`<${Waiting} />`}</a>`;
  return html`<nav aria-label="Pages"><a class="brand" href="#/"><img src="/assets/icon.svg" alt="" width="20" height="20" /> ELIDA</a>
    <div class="links">${PAGES.filter((page) => page.when(who)).map(link)}</div><span class="grow"></span>
    <span class="who" title=${who.roles.map((one) => one.role + (one.tenant ? ` of ${one.tenant}` : "")).join(", ")}>${plain(who.id, 60)}</span>
    <${Theme} />${who.features.login && html`<button class="plain" onClick=${out}>Log out</button>`}</nav>`;
}

function Page({ who, live, route }) {
  if (route.page === "live") return html`<${LivePage} live=${live} parameters=${route.parameters} />`;
  const page = PAGES.find((one) => one.name === route.page);
  const load = route.page === "session" || page?.when(who) ? lazy[route.page] : null;
  if (!load) return html`<div class="empty"><p>There is no such page, or it is not for you.</p><a href="#/">Live</a></div>`;
  return html`<${Lazy} key=${route.page} load=${load} name=${route.name} parameters=${route.parameters} live=${live} />`;
}

function App() {
  const route = useRoute();
  const [who, setWho] = useState(null);
  const [fault, setFault] = useState(null);
  const [live, setLive] = useState(null);
  const [newer, setNewer] = useState(null);
  const ask = async () => {
    try {
      setWho(await get("/control/whoami", { quiet: true }));
      setFault(null);
    } catch (refused) {
      setWho(null);
      setFault(refused);
    }
  };
  useEffect(() => {
    watch({ unauthorized: () => ask(), version: setNewer });
    ask();
  }, []);
  useEffect(() => {
    if (!who) return undefined;
    const own = new Live(may(who, "read", false));
    own.start();
    setLive(own);
    return () => own.stop();
  }, [who?.id]);
  useEffect(() => {
    if (fault?.status !== 0) return undefined;
    const timer = setTimeout(ask, 1000);
    return () => clearTimeout(timer);
  }, [fault]);
  const out = async () => {
    await post("/control/logout").catch(() => {});
    setWho(null);
    ask();
  };
  if (!who && !fault) return html`<p class="quiet start">Loading…</p>`;
  if (!who && fault.status === 0) return html`<main class="login"><p role="status">The gateway does not answer. Trying again.</p></main>`;
  if (!who && fault.status === 403) {
    return html`<main class="login"><form onSubmit=${(event) => { event.preventDefault(); out(); }}><h1>ELIDA</h1><p>${fault.message}</p><button>Log out</button></form></main>`;
  }
  if (!who) return html`<${LoginPage} done=${ask} refused=${fault.status === 401 ? null : fault} /><${Theme} />`;
  if (!live) return null;
  return html`<${Caller.Provider} value=${who}><${Menu} who=${who} route=${route} out=${out} />
    ${newer && html`<div class="behind" role="status">The gateway has version ${plain(newer, 20)} now. <button onClick=${() => location.reload()}>Reload the page</button></div>`}
    <${Behind} live=${live} />
    <main class=${route.page}><${Page} who=${who} live=${live} route=${route} /></main><${Notice} /></${Caller.Provider}>`;
}

render(html`<${App} />`, document.getElementById("app"));
