// Usage: what was spent, by whom and for what; budgets and how far they are.
import { html, useContext, useState } from "./parts/html.mjs";
import { Caller, may, useReading } from "./state.mjs";
import { post, query, remove } from "./api.mjs";
import { Choice } from "./history.mjs";
import { Ask, Fault, tell } from "./parts/dialog.mjs";
import { Plain } from "./parts/table.mjs";
import { Chart } from "./parts/chart.mjs";
import { clock, count, exact, plain, serverNow, usd } from "./parts/format.mjs";

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

/** What is added to the limit of a budget for a time; it can be taken back. */
function Overrides({ budget, ask }) {
  const { value } = useReading(`/control/budgets/${encodeURIComponent(budget)}/override`, 10000);
  const list = value?.overrides ?? [];
  return list.length > 0 && html`<ul class="overrides">${list.map((one) => html`<li key=${one.id}><b>${plain(budget, 60)}</b>${one.account ? ` of ${plain(one.account, 60)}` : ""}:
    ${plain(one.add, 30)} more until ${clock(one.until)}, by ${plain(one.by, 60)} ${ask && html`<button onClick=${() => ask({ verb: "restore", budget, one })}>Take back</button>`}</li>`)}</ul>`;
}

function Budgets() {
  const who = useContext(Caller);
  const { value, fault, again } = useReading("/control/budgets", 5000);
  const [asked, ask] = useState(null);
  const [turn, next] = useState(0);
  if (fault) return html`<${Fault} fault=${fault} />`;
  const mayRaise = may(who, "budgets", false);
  const path = asked && `/control/budgets/${encodeURIComponent(asked.budget)}/override`;
  const act = ({ add, until, everybody }) => (asked.verb === "raise"
    ? post(path, { add, until, ...(everybody ? {} : { account: asked.account }) }) : remove(`${path}/${encodeURIComponent(asked.one.id)}`));
  const done = (answer) => {
    tell(asked.verb === "raise" ? `${answer.add} more for ${plain(answer.budget, 60)} until ${clock(answer.until)}.` : `${answer.add} of ${plain(answer.budget, 60)} are taken back.`);
    next(turn + 1);
    again();
  };
  const change = { label: html`<span class="unseen">Change</span>`, className: "act", cell: (one) => html`<button onClick=${() => ask({ verb: "raise", budget: one.budget, account: one.name, unit: one.unit })}>Raise…</button>` };
  const names = [...new Set((value?.budgets ?? []).map((one) => one.budget))];
  return html`${asked && html`<${Ask} title=${asked.verb === "raise" ? `Raise the budget ${plain(asked.budget, 60)}` : `Take ${plain(asked.one.add, 30)} of ${plain(asked.budget, 60)} back?`}
      verb=${asked.verb === "raise" ? "Raise" : "Take back"} danger=${asked.verb === "restore"} act=${act} done=${done} close=${() => ask(null)}>
      ${asked.verb === "raise" && html`<div class="fields"><label>Add <input name="add" required autocomplete="off" placeholder=${asked.unit === "usd" ? "100 USD" : "2M tokens"} /></label>
        <label>For how long, or until when <input name="until" required autocomplete="off" placeholder="24h, or 2027-01-31" /></label></div>
        <label class="check"><input type="checkbox" name="everybody" /> for all accounts, not only ${plain(asked.account, 60)}</label>`}
      ${asked.verb === "restore" && html`<p>The limit is lower at once; who has spent more is refused.</p>`}</${Ask}>`}
    ${names.map((name) => html`<${Overrides} key=${`${turn} ${name}`} budget=${name} ask=${mayRaise && ask} />`)}
    <${Plain} rows=${value?.budgets ?? []} columns=${mayRaise ? [...budgetColumns, change] : budgetColumns} label="Budgets"
    empty=${html`<p>No budget has an account yet. A budget is a few lines of configuration:</p><pre>budgets:
  - { name: team, by: principal.tenant, period: month, limit: 500 USD }</pre>`} />${value?.truncated && html`<p class="quiet">There are more.</p>`}`;
}

const SECONDS = { hour: 3600, day: 86400, "24h": 86400, "7d": 7 * 86400, "30d": 30 * 86400 };

/** The beginnings of all steps since `from`, in seconds since 1970. */
function steps(from, step) {
  const [length, now] = [SECONDS[step], serverNow() / 1000];
  const first = Math.floor((now - SECONDS[from]) / length) * length;
  return Array.from({ length: Math.floor((now - first) / length) + 1 }, (_, index) => first + index * length);
}

const COLOURS = ["--accent", "--link", "--killed", "--warn", "--bad"];

/** The largest names of the report as lines of a stacked chart, and the others as one; in tokens where nothing has a price. `times` has all steps. */
function stacked(points, report, times) {
  const priced = points.some((point) => point.cost_usd > 0);
  const worth = (point) => (priced ? point.cost_usd ?? 0 : all(point));
  const at = [...new Set([...times, ...points.map((point) => Date.parse(point.at) / 1000)])].sort((one, other) => one - other);
  const where = new Map(at.map((time, index) => [time, index]));
  const largest = report.slice(0, COLOURS.length).map((line) => line.name);
  const rest = "others";
  const sums = new Map();
  for (const point of points) {
    const name = largest.includes(point.name) ? point.name ?? "none" : rest;
    if (!sums.has(name)) sums.set(name, new Array(at.length).fill(0));
    sums.get(name)[where.get(Date.parse(point.at) / 1000)] += worth(point);
  }
  const names = [...largest.map((name) => name ?? "none").filter((name) => sums.has(name)), ...(sums.has(rest) ? [rest] : [])];
  const lines = names.map((name, index) => ({ label: plain(name, 40), colour: name === rest ? "--quiet" : COLOURS[index], values: sums.get(name) }));
  return { at, lines, unit: priced ? "US dollars" : "Tokens" };
}

export function UsagePage({ parameters }) {
  const who = useContext(Caller);
  const [by, from] = [parameters.get("by") ?? "principal", parameters.get("from") ?? "24h"];
  const { value, fault } = useReading(`/control/usage${query({ by, from })}`, 10000);
  const step = from === "24h" ? "hour" : "day";
  const { value: series } = useReading(`/control/usage/series${query({ by, from, step })}`, 30000);
  const lines = value?.usage ?? [];
  const most = Math.max(...lines.map((line) => line.cost_usd ?? 0), 0);
  const mostTokens = Math.max(...lines.map(all), 1);
  const total = lines.reduce((sum, line) => sum + (line.cost_usd ?? 0), 0);
  const { at, lines: stack, unit } = stacked(series?.points ?? [], lines, steps(from, step));
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
    ${stack.length > 0 && html`<p class="quiet">${unit} in each ${step}, ${by === "group" ? "by group; who is in several counts in each" : `by ${by}`}</p>
      <${Chart} label=${`${unit} by ${by} and ${step}`} at=${at} lines=${stack} height=${150} stack />`}
    <section><h2>What was used</h2><${Plain} rows=${lines} columns=${columns} label="Usage" rowKey=${(line) => line.name ?? ""}
      empty=${value ? "No session has ended in this time." : "Reading the sums…"} /></section>
    ${may(who, "usage", false) && html`<section><h2>Budgets</h2><${Budgets} /></section>`}
    <p class="quiet keys">On the command line: <code>elida usage --by ${by} --from ${from}</code></p>`;
}
