// History: sessions that have ended, and what they were.
import { html, useContext, useState } from "./parts/html.mjs";
import { Caller, may, setParameters, useReading } from "./state.mjs";
import { query } from "./api.mjs";
import { State } from "./live.mjs";
import { Fault } from "./parts/dialog.mjs";
import { Plain, Table, sorted } from "./parts/table.mjs";
import { Chart } from "./parts/chart.mjs";
import { age, clock, count, exact, flagged, plain, tokens, usd, words } from "./parts/format.mjs";

const SPANS = [["1h", "last hour"], ["24h", "last day"], ["7d", "last week"], ["30d", "last 30 days"]];
const STEPS = { "1h": "minute", "24h": "hour", "7d": "hour", "30d": "day" };

const models = (record) => (record.usage?.models ?? []).map((one) => one.model);
const columns = [
  { name: "state", label: "State", sort: (one) => one.state, cell: (one) => html`<${State} session=${one} />` },
  { name: "session_id", label: "Session", className: "id", cell: (one) => html`<a href=${`#/session/${one.uid}`} title=${plain(one.session_id, 300)}>${plain(one.session_id, 120)}</a>` },
  { name: "client", label: "Client", cell: (one) => plain(one.client ?? "–", 40) },
  { name: "principal", label: "Principal", className: "cut", cell: (one) => html`<span title=${plain(one.principal)}>${plain(one.principal, 60)}</span>` },
  { name: "model", label: "Model", className: "cut", sort: (one) => models(one)[0], cell: (one) => html`<span title=${models(one).map((name) => plain(name)).join(", ")}>${plain(models(one)[0] ?? "–", 60)}</span>` },
  { name: "ended_at", label: "Ended", cell: (one) => html`<span title=${one.ended_at}>${clock(one.ended_at)}</span>` },
  { name: "by", label: "Ended by", className: "cut", sort: (one) => one.ended_by, cell: (one) => (one.ended_by ? html`<span title=${plain(one.kill?.reason ?? "")}>${plain(one.ended_by, 60)}</span>` : words(one.end_reason)) },
  { name: "duration_ms", label: "Lasted", numeric: true, cell: (one) => age(one.duration_ms) },
  { name: "request_count", label: "Requests", numeric: true, cell: (one) => exact(one.request_count) },
  { name: "error_count", label: "Errors", numeric: true, cell: (one) => (one.error_count ? html`<span class="bad">${exact(one.error_count)}</span>` : "0") },
  { name: "tokens", label: "Tokens", numeric: true, sort: (one) => tokens(one.usage), cell: (one) => html`<span title=${exact(tokens(one.usage))}>${count(tokens(one.usage))}</span>` },
  { name: "cost", label: "Cost", numeric: true, sort: (one) => one.usage?.cost_usd, cell: (one) => usd(one.usage?.cost_usd) },
  { name: "flags", label: "Flags", sort: (one) => one.flags.length, cell: (one) => (one.flags.length ? html`<span class="flag" title=${one.flags.map(flagged).join(", ")}>⚑ ${one.flags.length}</span>` : "") },
];

/** Choices of a filter, kept in the URL. */
export function Choice({ name, label, values, value }) {
  return html`<select aria-label=${label} value=${value} onChange=${(event) => setParameters({ [name]: event.target.value })}>
    ${values.map(([choice, text]) => html`<option value=${choice}>${text}</option>`)}</select>`;
}

const EVENTS = ["session_started", "session_ended", "session_killed", "session_resumed", "agent_killed", "agent_resumed", "approval_requested", "approval_decided"];
const eventColumns = [
  { label: "When", cell: (one) => html`<span title=${one.at}>${clock(one.at)}</span>` }, { label: "What", cell: (one) => words(one.type) },
  { label: "Session", className: "id", cell: (one) => html`<a href=${`#/session/${one.uid}`} title=${plain(one.session_id, 300)}>${plain(one.session_id, 120)}</a>` },
  { label: "By", className: "cut", cell: (one) => plain(one.detail.by ?? "–", 60) },
  { label: "Detail", className: "wrap", cell: (one) => plain(one.detail.reason ?? one.detail.end_reason ?? one.detail.agent ?? "", 300) },
];

/** What happened to sessions, newest first. */
function Events({ from, type }) {
  const [cursors, setCursors] = useState([]);
  const key = `${from} ${type}`;
  const [last, setLast] = useState(key);
  if (last !== key) {
    setLast(key);
    setCursors([]);
  }
  const { value, fault } = useReading(`/control/history/events${query({ from, type, limit: 200, cursor: cursors.at(-1) })}`, cursors.length ? 0 : 5000);
  return html`<${Fault} fault=${fault} />
    <section><h2>What happened</h2><${Plain} rows=${value?.events ?? []} columns=${eventColumns} label="Events" empty=${value ? "Nothing happened in this time that fits." : "Reading the history…"} /></section>
    <${Pages} cursors=${cursors} next=${value?.next_cursor} go=${setCursors} />`;
}

/** Leads to older and newer pages. */
export function Pages({ cursors, next, go }) {
  return html`<div class="bar-above"><span class="grow"></span>
    ${cursors.length > 0 && html`<button onClick=${() => go(cursors.slice(0, -1))}>Newer</button>`}
    ${next && html`<button onClick=${() => go([...cursors, next])}>Older</button>`}</div>`;
}

export function HistoryPage({ parameters }) {
  const who = useContext(Caller);
  const [from, view] = [parameters.get("from") ?? "24h", parameters.get("view") ?? ""];
  const isEvents = view === "events" && may(who, "history", false);
  const type = parameters.get("type") ?? "";
  if (!isEvents) return html`<${Records} parameters=${parameters} />`;
  return html`<div class="bar-above"><${View} value="events" /><${Choice} name="from" label="Time" values=${SPANS} value=${from} />
      <${Choice} name="type" label="What happened" values=${[["", "anything"], ...EVENTS.map((name) => [name, words(name)])]} value=${type} /></div>
    <${Events} from=${from} type=${type} />`;
}

const View = ({ value }) => html`<${Choice} name="view" label="View" values=${[["", "sessions"], ["events", "events"]]} value=${value} />`;

function Records({ parameters }) {
  const who = useContext(Caller);
  const [cursors, setCursors] = useState([]);
  const from = parameters.get("from") ?? "24h";
  const filter = { from, state: parameters.get("state"), q: parameters.get("q") };
  const key = query(filter);
  const [last, setLast] = useState(key);
  if (last !== key) {
    setLast(key);
    setCursors([]);
  }
  const { value, fault } = useReading(`/control/history${query({ ...filter, limit: 500, cursor: cursors.at(-1) })}`, cursors.length ? 0 : 5000);
  const { value: series } = useReading(may(who, "usage") ? `/control/history/series${query({ from, step: STEPS[from] ?? "hour" })}` : null, 30000);
  const sort = parameters.get("sort") ?? "-ended_at";
  const rows = sorted(value?.records ?? [], columns, sort, (one) => one.uid);
  const points = series?.points ?? [];
  const file = (format) => `/control/records/export${query({ format, from })}`;
  return html`${points.length > 1 && html`<${Chart} label=${`Sessions that ended, and those that were killed, by ${STEPS[from]}`} at=${points.map((point) => Date.parse(point.at) / 1000)} lines=${[
      { label: `sessions a ${STEPS[from]}`, colour: "--accent", values: points.map((point) => point.sessions) },
      { label: "killed", colour: "--killed", values: points.map((point) => point.killed) }]} />`}
    <div class="bar-above">
      ${may(who, "history", false) && html`<${View} value="" />`}<input type="search" value=${filter.q ?? ""} onChange=${(event) => setParameters({ q: event.target.value })} placeholder="Search: session, principal, client" aria-label="Search the history" />
      <${Choice} name="from" label="Time" values=${SPANS} value=${from} />
      <${Choice} name="state" label="State" values=${[["", "any state"], ["completed", "completed"], ["killed", "killed"], ["timed_out", "timed out"]]} value=${filter.state ?? ""} />
      <span class="quiet">${exact(rows.length)}${value?.next_cursor ? " of more" : ""}</span>
      ${may(who, "history", false) && html`<a class="button" href=${file("ndjson")} download>Export NDJSON</a><a class="button" href=${file("csv")} download>CSV</a>`}
    </div>
    <${Fault} fault=${fault} />
    <${Table} rows=${rows} columns=${columns} rowKey=${(one) => one.uid} label="Ended sessions" sort=${sort} setSort=${(sort) => setParameters({ sort })}
      empty=${value ? html`No session has ended that fits. A session ends when it is killed, or idle for <code>session.idle_timeout</code>.` : "Reading the history…"} />
    <${Pages} cursors=${cursors} next=${value?.next_cursor} go=${setCursors} />`;
}
