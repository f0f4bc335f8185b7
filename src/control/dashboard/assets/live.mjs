// Live: what runs now, the largest spender first, and one Kill per row.
import { html, useContext, useEffect, useMemo, useRef, useState } from "./parts/html.mjs";
import { Caller, may, setParameters, useLive, useReading } from "./state.mjs";
import { KillDialog, KillWhere, resume } from "./kill.mjs";
import { Table, sorted } from "./parts/table.mjs";
import { Chart } from "./parts/chart.mjs";
import { age, clock, count, exact, flagged, most, plain, serverNow, tokens, usd, words } from "./parts/format.mjs";

const href = (session) => `#/session/${encodeURIComponent(session.uid)}`;

/** What a session does, in a word: the state, and of an active one whether a request is open. */
export const doing = (session) => (session.state === "active" ? (session.open_legs > 0 ? "working" : "waiting") : words(session.state));

export function State({ session }) {
  const word = doing(session);
  return html`<span class=${`state ${word.replace(" ", "-")}`}><i aria-hidden="true"></i>${word}</span>`;
}

const until = (session) => (session.state === "active" ? serverNow() : session.gone || Date.parse(session.last_activity));
const spent = (session) => session.usage?.cost_usd;

function columns({ canKill, ask, largest }) {
  const share = (session) => `${Math.round((100 * tokens(session.usage)) / Math.max(largest, 1))}%`;
  return [
    { name: "state", label: "State", sort: doing, cell: (one) => html`<${State} session=${one} />` },
    { name: "id", label: "Session", className: "id", cell: (one) => html`<a href=${href(one)} title=${plain(one.id, 300)}>${plain(one.id, 120)}</a>` },
    { name: "client", label: "Client", sort: (one) => one.identity.client, cell: (one) => plain(one.identity.client ?? "–", 30) },
    { name: "model", label: "Model", sort: (one) => most(one.models), className: "cut", cell: (one) => html`<span title=${Object.keys(one.models).map((name) => plain(name)).join(", ")}>${plain(most(one.models), 40)}</span>` },
    { name: "tokens", label: "Tokens", numeric: true, sort: (one) => tokens(one.usage), cell: (one) => html`<span class="gauge" title=${`${exact(tokens(one.usage))} tokens`}><i style=${{ width: share(one) }}></i><b>${count(tokens(one.usage))}</b></span>` },
    { name: "cost", label: "Cost", numeric: true, sort: spent, cell: (one) => usd(spent(one)) },
    { name: "requests", label: "Requests", numeric: true, sort: (one) => one.request_count, cell: (one) => exact(one.request_count) },
    { name: "errors", label: "Errors", numeric: true, sort: (one) => one.error_count, cell: (one) => (one.error_count ? html`<span class="bad">${exact(one.error_count)}</span>` : "0") },
    { name: "open", label: "Open", numeric: true, hint: "open requests", sort: (one) => one.open_legs, cell: (one) => one.open_legs },
    { name: "out", label: "Bytes", numeric: true, hint: "bytes sent to the client; they grow while an answer streams", sort: (one) => one.bytes_out, cell: (one) => count(one.bytes_out) },
    { name: "age", label: "Age", numeric: true, sort: (one) => -Date.parse(one.started_at), cell: (one) => html`<span title=${one.started_at}>${age(until(one) - Date.parse(one.started_at))}</span>` },
    { name: "idle", label: "Idle", numeric: true, sort: (one) => -Date.parse(one.last_activity), cell: (one) => (one.state !== "active" || one.open_legs > 0 ? "–" : age(serverNow() - Date.parse(one.last_activity))) },
    { name: "flags", label: "Flags", sort: (one) => one.flags.length, cell: (one) => (one.flags.length ? html`<span class="flag" title=${one.flags.map(flagged).join(", ")}>⚑ ${one.flags.length}</span>` : "") },
    { name: "principal", label: "Principal", sort: (one) => one.principal.id, className: "cut", cell: (one) => html`<span title=${plain(one.principal.id)}>${plain(one.principal.id, 40)}</span>` },
    { name: "backend", label: "Backend", sort: (one) => most(one.backends), cell: (one) => plain(most(one.backends), 24) },
    ...(canKill ? [{ name: "act", label: html`<span class="unseen">Kill</span>`, fixed: true, className: "act", cell: (one) => (one.state === "active"
      ? html`<button class="kill" tabindex="-1" aria-label=${`Kill ${plain(one.id, 80)}`} onClick=${() => ask(one)}>Kill</button>`
      : one.state === "killed" && html`<button tabindex="-1" onClick=${() => resume(one)}>Resume</button>`) }] : []),
  ];
}

function matches(session, text) {
  return [session.id, session.uid, session.principal.id, session.identity.client ?? "", ...Object.keys(session.models), ...Object.keys(session.backends), doing(session)]
    .some((field) => field.toLowerCase().includes(text));
}

function Tile({ label, value, hint, tone }) {
  return html`<div class=${`tile ${tone ?? ""}`} title=${hint}><b>${value}</b><span>${label}</span></div>`;
}

function Tiles({ live, series }) {
  const all = [...live.sessions.values()];
  const active = all.filter((one) => one.state === "active");
  const points = series?.points ?? [];
  const last = points.slice(-2);
  const seconds = last.length ? (serverNow() - Date.parse(last[0].at)) / 1000 : 0;
  const rate = (name) => (seconds > 0 ? (60 * last.reduce((sum, point) => sum + point[name], 0)) / Math.max(seconds, 60) : 0);
  const hour = (name) => points.reduce((sum, point) => sum + point[name], 0);
  const share = hour("requests") ? (100 * hour("errors")) / hour("requests") : 0;
  const p95 = points.findLast((point) => point.overhead_p95_ms != null)?.overhead_p95_ms;
  return html`<div class="tiles">
    <${Tile} label="active sessions" value=${exact(active.length)} hint=${`${active.filter((one) => one.open_legs > 0).length} with open requests`} />
    <${Tile} label="open requests" value=${exact(active.reduce((sum, one) => sum + one.open_legs, 0))} />
    <${Tile} label="requests a minute" value=${count(rate("requests"))} />
    <${Tile} label="tokens a minute" value=${count(rate("tokens"))} />
    <${Tile} label="errors, last hour" value=${`${share.toFixed(share < 10 ? 1 : 0)} %`} tone=${share > 5 ? "bad" : ""} hint=${`${exact(hour("errors"))} of ${exact(hour("requests"))} requests`} />
    <${Tile} label="cost, last hour" value=${usd(hour("cost_usd"))} />
    <${Tile} label="kills, last hour" value=${exact(hour("kills"))} />
    <${Tile} label="added time, p95" value=${p95 == null ? "–" : `${p95.toFixed(2)} ms`} hint="time that a request spends in ELIDA before it is sent on" />
  </div>`;
}

function Hour({ series }) {
  const points = series?.points ?? [];
  if (points.length < 2) return null;
  // The last step has not ended: it is shown as if it went on like this.
  const begun = (serverNow() - Date.parse(points.at(-1).at)) / 1000;
  const part = Math.min(Math.max(begun, 5) / series.step_s, 1);
  const of = (name) => points.map((point, at) => (at === points.length - 1 ? Math.round(point[name] / part) : point[name]));
  return html`<${Chart} label="Requests and errors per minute in the last hour" span=${3600} at=${points.map((point) => Date.parse(point.at) / 1000)} lines=${[
    { label: "requests a minute", colour: "--accent", values: of("requests") },
    { label: "errors", colour: "--bad", values: of("errors") },
  ]} />`;
}

function Nothing({ live, filter }) {
  if (!live.loaded) return "Reading the sessions…";
  if (filter) return html`No session fits <b>${plain(filter, 80)}</b>. <button onClick=${() => setParameters({ q: "" })}>Show all</button>`;
  return html`<p><b>No agent is running.</b> Point one at this gateway, or let some play:</p>
    <pre>ANTHROPIC_BASE_URL=<wbr />http${":"}//localhost:8080 claude -p 'hello'
elida demo --play</pre>`;
}

export function LivePage({ live, parameters }) {
  useLive(live);
  const who = useContext(Caller);
  const canKill = may(who, "operate");
  const { value: series } = useReading(may(who, "read", false) ? "/control/series" : null, 5000);
  const [asked, ask] = useState(null);
  const [isSelecting, select] = useState(false);
  const [marked, mark] = useState(null);
  const search = useRef(null);
  const [sort, filter] = [parameters.get("sort") ?? "-tokens", parameters.get("q") ?? ""];
  const all = [...live.sessions.values()];
  const largest = all.reduce((most, one) => Math.max(most, tokens(one.usage)), 0);
  const shown = useMemo(() => columns({ canKill, ask, largest }), [canKill, largest]);
  const fitting = filter ? all.filter((one) => matches(one, filter.toLowerCase())) : all;
  const rows = sorted(fitting, shown, sort, (one) => one.uid);
  const keys = useRef({});
  keys.current = { rows, marked, isBusy: asked || isSelecting };
  useEffect(() => {
    const pressed = (event) => {
      const { rows, marked, isBusy } = keys.current;
      if (isBusy || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
      const at = rows.findIndex((one) => one.uid === marked);
      if (event.key === "/") search.current?.focus();
      else if (event.key === "j") mark(rows[Math.min(at + 1, rows.length - 1)]?.uid);
      else if (event.key === "k") mark(rows[Math.max(at - 1, 0)]?.uid);
      else if (event.key === "Enter" && at >= 0 && !/^(A|BUTTON)$/.test(event.target.tagName)) location.hash = href(rows[at]);
      else if (event.key === "x" && at >= 0 && canKill && rows[at].state === "active") ask(rows[at]);
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [canKill]);
  const typed = (event) => setParameters({ q: event.target.value });
  const left = (event) => event.key === "Escape" && event.target.blur();
  return html`<${Tiles} live=${live} series=${series} /><${Hour} series=${series} />
    <div class="bar-above">
      <input type="search" ref=${search} value=${filter} onInput=${typed} onKeyDown=${left} placeholder="Filter: session, principal, client, model, state   ( / )" aria-label="Filter the sessions" />
      <span class="quiet" data-count=${rows.length}>${exact(rows.length)} ${rows.length === 1 ? "session" : "sessions"}</span>
      ${canKill && html`<button class="outline" onClick=${() => select(true)}>Kill by selection…</button>`}
    </div>
    <${Table} rows=${rows} columns=${shown} rowKey=${(one) => one.uid} label="Live sessions" sort=${sort} setSort=${(sort) => setParameters({ sort })}
      selected=${marked ?? undefined} rowClass=${(one) => (one.state === "active" ? "" : "over")} empty=${html`<${Nothing} live=${live} filter=${filter} />`} />
    <p class="keys quiet"><kbd>/</kbd> filter <kbd>j</kbd><kbd>k</kbd> row <kbd>Enter</kbd> open ${canKill && html`<kbd>x</kbd> kill`}</p>
    ${asked && html`<${KillDialog} session=${asked} close=${() => ask(null)} done=${() => live.readAll()} />`}
    ${isSelecting && html`<${KillWhere} close=${() => select(false)} />`}`;
}

/** Says since when numbers are old. */
export function Behind({ live }) {
  useLive(live);
  if (!live.behind || live.behind === "starting") return null;
  return html`<div class="behind" role="status">Not live since ${clock(new Date(live.since))} (${live.behind}). The table shows what was known then.</div>`;
}
