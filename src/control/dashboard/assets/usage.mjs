// Usage: what was spent, by whom and for what; budgets and how far they are.
import { html, useContext } from "./parts/html.mjs";
import { Caller, may, useReading } from "./state.mjs";
import { query } from "./api.mjs";
import { Choice } from "./history.mjs";
import { Fault } from "./parts/dialog.mjs";
import { Plain } from "./parts/table.mjs";
import { Chart } from "./parts/chart.mjs";
import { clock, count, exact, plain, usd } from "./parts/format.mjs";

const SPANS = [["24h", "last day"], ["7d", "last week"], ["30d", "last 30 days"]];
const BY = ["principal", "tenant", "group", "model", "client", "backend", "session"].map((name) => [name, `by ${name}`]);
const all = (line) => line.input_tokens + line.output_tokens + line.cache_read_tokens + line.cache_write_tokens;

/** A share as a bar, with its number beside it. */
function Share({ of, tone }) {
  const percent = Math.round(100 * of);
  return html`<span class="hbar" role="img" aria-label=${`${percent} %`}><i class=${tone ?? ""} style=${{ width: `${Math.min(percent, 100)}%` }}></i></span>`;
}

const left = (budget) => 1 - budget.left / Math.max(budget.limit, 1e-12);
const amount = (budget, value) => (budget.unit === "usd" ? usd(value) : `${count(value)} tokens`);
const budgetColumns = [
  { label: "Budget", cell: (one) => plain(one.budget, 60) },
  { label: "Account", className: "id", cell: (one) => plain(one.name, 80) },
  { label: "Period", cell: (one) => html`${one.period} <span class="quiet">since ${clock(one.starts_at)}</span>` },
  { label: "Spent", numeric: true, cell: (one) => amount(one, one.spent) },
  { label: "Held", numeric: true, cell: (one) => amount(one, one.held) },
  { label: "Limit", numeric: true, cell: (one) => amount(one, one.limit) },
  { label: "Used", numeric: true, cell: (one) => `${Math.round(100 * left(one))} %` },
  { label: html`<span class="unseen">Share</span>`, cell: (one) => html`<${Share} of=${left(one)} tone=${left(one) >= 1 ? "bad" : left(one) >= 0.8 ? "warn" : ""} />` },
];

function Budgets() {
  const { value, fault } = useReading("/control/budgets", 5000);
  if (fault) return html`<${Fault} fault=${fault} />`;
  return html`<${Plain} rows=${value?.budgets ?? []} columns=${budgetColumns} label="Budgets"
    empty=${html`<p>No budget has an account yet. A budget is a few lines of configuration:</p><pre>budgets:
  - { name: team, by: principal.tenant, period: month, limit: 500 USD }</pre>`} />`;
}

export function UsagePage({ parameters }) {
  const who = useContext(Caller);
  const [by, from] = [parameters.get("by") ?? "principal", parameters.get("from") ?? "24h"];
  const { value, fault } = useReading(`/control/usage${query({ by, from })}`, 10000);
  const step = from === "24h" ? "hour" : "day";
  const { value: series } = useReading(`/control/history/series${query({ from, step })}`, 30000);
  const lines = value?.usage ?? [];
  const most = Math.max(...lines.map((line) => line.cost_usd ?? 0), 0);
  const mostTokens = Math.max(...lines.map(all), 1);
  const total = lines.reduce((sum, line) => sum + (line.cost_usd ?? 0), 0);
  const points = series?.points ?? [];
  const columns = [
    { label: by[0].toUpperCase() + by.slice(1), className: "id", cell: (line) => plain(line.name ?? "none", 120) },
    { label: "Requests", numeric: true, cell: (line) => exact(line.requests) },
    { label: "Input", numeric: true, cell: (line) => count(line.input_tokens) },
    { label: "Output", numeric: true, cell: (line) => count(line.output_tokens) },
    { label: "From cache", numeric: true, cell: (line) => count(line.cache_read_tokens) },
    { label: "Cost", numeric: true, cell: (line) => html`<span title=${line.unpriced_answers ? `${line.unpriced_answers} answers have no price and are missing` : ""}>${usd(line.cost_usd)}${line.unpriced_answers ? " +" : ""}</span>` },
    { label: html`<span class="unseen">Share</span>`, cell: (line) => html`<${Share} of=${most > 0 ? (line.cost_usd ?? 0) / most : all(line) / mostTokens} />` },
  ];
  return html`<div class="bar-above"><${Choice} name="by" label="Group" values=${BY} value=${by} /><${Choice} name="from" label="Time" values=${SPANS} value=${from} />
      <span class="quiet">${usd(total)} in ended sessions; those that run are on <a href="#/">Live</a></span></div>
    <${Fault} fault=${fault} />
    ${points.length > 1 && html`<${Chart} label=${`Cost by ${step}`} at=${points.map((point) => Date.parse(point.at) / 1000)} lines=${[
      { label: `US dollars a ${step}`, colour: "--accent", values: points.map((point) => point.cost_usd ?? 0) }]} />`}
    <section><h2>What was used</h2><${Plain} rows=${lines} columns=${columns} label="Usage" rowKey=${(line) => line.name ?? ""}
      empty=${value ? "No session has ended in this time." : "Reading the sums…"} /></section>
    ${may(who, "usage", false) && html`<section><h2>Budgets</h2><${Budgets} /></section>`}
    <p class="quiet keys">On the command line: <code>elida usage --by ${by} --from ${from}</code></p>`;
}
