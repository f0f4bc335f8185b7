// One session: its time line, its agents, its requests, and its record when it has ended.
import { html, useContext, useState } from "./parts/html.mjs";
import { Caller, may, useReading } from "./state.mjs";
import { sessionPath } from "./api.mjs";
import { KillDialog, resume } from "./kill.mjs";
import { State } from "./live.mjs";
import { Fault, tell } from "./parts/dialog.mjs";
import { Plain } from "./parts/table.mjs";
import { Timeline } from "./parts/timeline.mjs";
import { age, clock, count, exact, flagged, plain, serverNow, tokens, took, usd, words } from "./parts/format.mjs";

const MAIN = "main";
const listed = (counts) => Object.entries(counts ?? {}).sort((a, b) => b[1] - a[1]).map(([name, n]) => html`<span class="chip">${plain(name, 80)} <b>${exact(n)}</b></span>`);

function Facts({ session }) {
  const now = session.state === "active" ? serverNow() : Date.parse(session.last_activity);
  const facts = [
    ["Principal", html`${plain(session.principal.id)}${session.principal.tenant ? ` (${plain(session.principal.tenant, 60)})` : ""}`],
    ["Client", `${plain(session.identity.client ?? "–", 60)} ${plain(session.identity.client_version ?? "", 30)}`],
    ["Address", plain(session.client_addr, 60)], ["Began", html`<span title=${session.started_at}>${clock(session.started_at)}</span>`],
    ["Age", age(now - Date.parse(session.started_at))], ["Last byte", html`<span title=${session.last_activity}>${clock(session.last_activity)}</span>`],
    ["Requests", exact(session.request_count)], ["Errors", session.error_count ? html`<b class="bad">${exact(session.error_count)}</b>` : "0"],
    ["Open", exact(session.open_legs)], ["Tokens", html`<span title=${`${exact(tokens(session.usage))} tokens`}>${count(session.usage?.input_tokens)} in, ${count(session.usage?.output_tokens)} out</span>`],
    ["Cost", usd(session.usage?.cost_usd)], ["Incarnation", exact(session.incarnation)],
  ];
  return html`<dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <dl class="facts long">
      <div><dt>Models</dt><dd>${listed(session.models)}</dd></div><div><dt>Backends</dt><dd>${listed(session.backends)}</dd></div>
      ${Object.keys(session.tools ?? {}).length > 0 && html`<div><dt>Tools called</dt><dd>${listed(session.tools)}</dd></div>`}
      ${session.flags.length > 0 && html`<div><dt>Flags</dt><dd>${session.flags.map((flag) => html`<span class="chip flag">⚑ ${flagged(flag)}</span>`)}</dd></div>`}
    </dl>`;
}

function Agents({ session, canKill, ask }) {
  const act = (agent) => {
    if (agent.id === MAIN || session.state !== "active" || !canKill) return "";
    if (agent.state === "killed") return html`<button onClick=${() => resume(session, agent.id)}>Resume</button>`;
    return html`<button class="kill" aria-label=${`Kill agent ${plain(agent.id, 60)}`} onClick=${() => ask(agent.id)}>Kill</button>`;
  };
  const columns = [
    { name: "agent", label: "Agent", className: "id", cell: (agent) => html`<span style=${{ paddingLeft: `${Math.min(agent.depth, 8) * 18}px` }}>${agent.depth ? "└ " : ""}${plain(agent.id, 80)}</span>` },
    { name: "state", label: "State", cell: (agent) => html`<span class=${`state ${agent.state}`}><i aria-hidden="true"></i>${words(agent.state)}</span>` },
    { name: "requests", label: "Requests", numeric: true, cell: (agent) => exact(agent.requests) },
    { name: "open", label: "Open", numeric: true, cell: (agent) => agent.open_legs },
    { name: "tokens", label: "Tokens", numeric: true, cell: (agent) => count(tokens(agent.usage)) },
    { name: "cost", label: "Cost", numeric: true, cell: (agent) => usd(agent.usage?.cost_usd) },
    { name: "seen", label: "Last seen", cell: (agent) => clock(agent.last_seen) },
    { name: "act", label: html`<span class="unseen">Kill</span>`, className: "act", cell: act },
  ];
  return html`<${Plain} rows=${session.agents ?? []} columns=${columns} rowKey=${(agent) => agent.id} label="Agents" empty="No agents are named." />`;
}

const result = (request) => {
  const isBad = (request.status ?? 0) >= 400 || request.error;
  return html`<span class=${isBad ? "bad" : ""}>${request.status ?? "none"} ${request.outcome === "ok" ? "" : words(request.outcome)}</span>`;
};
const requestColumns = [
  { name: "at", label: "Began", cell: (one) => html`<span title=${one.started_at}>${clock(one.started_at)}</span>` },
  { name: "agent", label: "Agent", className: "cut", cell: (one) => plain(one.agent ?? MAIN, 40) },
  { name: "path", label: "Request", className: "cut", cell: (one) => html`<span title=${plain(one.path)}>${one.method} ${plain(one.path, 60)}</span>` },
  { name: "model", label: "Model", className: "cut", cell: (one) => plain(one.model ?? "–", 60) },
  { name: "status", label: "Status", cell: (one) => (one.open ? html`<span class="state working"><i aria-hidden="true"></i>open</span>` : result(one)) },
  { name: "stop", label: "Stop reason", cell: (one) => words(one.stop_reason) },
  { name: "tools", label: "Tools", className: "cut", cell: (one) => plain(Object.keys(one.tools ?? {}).join(", ") || "–", 60) },
  { name: "ttfb", label: "First byte", numeric: true, cell: (one) => took(one.ttfb_ms) },
  { name: "took", label: "Took", numeric: true, cell: (one) => took(one.open ? serverNow() - Date.parse(one.started_at) : one.duration_ms) },
];

function Record({ session }) {
  const [isRead, setRead] = useState(false);
  const { value: found, fault } = useReading(`/control/records/${encodeURIComponent(session.uid)}`, isRead ? 0 : 1000);
  const { value: kept } = useReading(`/control/history/${encodeURIComponent(session.uid)}/captures`, 0);
  if (fault) return fault.status === 404 ? html`<p class="quiet">The record is being written.</p>` : html`<${Fault} fault=${fault} />`;
  if (!found) return html`<p class="quiet">Reading the record…</p>`;
  if (!isRead) setRead(true);
  const { record } = found;
  const captures = kept?.captures ?? [];
  return html`<p>${words(record.state)} at ${clock(record.ended_at)}, by ${plain(record.ended_by ?? "itself", 80)} (${words(record.end_reason)}). Number ${exact(record.chain.seq)} in the signed chain.</p>
    ${found.kills.map(({ order, lifted_by, lifted_at }) => html`<p>Killed by <b>${plain(order.by, 80)}</b> at ${clock(order.at)}: ${plain(order.reason, 300)}${
      lifted_by ? html` (lifted by <b>${plain(lifted_by, 80)}</b> at ${clock(lifted_at)})` : ""}</p>`)}
    ${captures.map((one) => html`<details key=${one.request_id + one.at}><summary>${clock(one.at)} ${one.method} ${plain(one.path, 60)}: ${one.status}, ${words(one.outcome)}</summary>
      <pre>${one.request?.body ?? ""}</pre><pre>${one.response?.body ?? ""}</pre></details>`)}
    <details><summary>The whole record</summary><pre>${JSON.stringify(record, null, 2)}</pre></details>`;
}

export function SessionPage({ name }) {
  const who = useContext(Caller);
  const [isOver, setOver] = useState(false);
  const { value: session, fault, again } = useReading(`${sessionPath(name)}${name.startsWith("s_") ? "?by=uid" : ""}`, isOver ? 0 : 1000);
  const [asked, ask] = useState(null);
  if (!session && fault) return html`<${Fault} fault=${fault} />`;
  if (!session) return html`<p class="quiet">Reading the session…</p>`;
  if (session.state !== "active" !== isOver) setOver(session.state !== "active");
  const canKill = may(who, "operate");
  const open = (session.legs ?? []).map((leg) => ({ ...leg, open: true }));
  const copy = async () => {
    await navigator.clipboard.writeText(`curl -X POST ${location.origin}${sessionPath(session.uid, "/kill")}?by=uid`);
    tell("Copied the command that kills this session.");
  };
  return html`<header class="title"><a href="#/" class="quiet">← Live</a><h1>${plain(session.id, 300)}</h1><${State} session=${session} />
      <span class="grow"></span>
      ${canKill && html`<button class="outline" onClick=${copy}>Copy curl</button>`}
      ${canKill && session.state === "killed" && html`<button class="outline" onClick=${() => resume(session)}>Resume</button>`}
      ${canKill && session.state === "active" && html`<button class="danger" onClick=${() => ask(MAIN)}>Kill</button>`}</header>
    ${fault && html`<p class="warn" role="status">Not live: ${fault.message}</p>`}
    <p class="quiet uid">${session.uid}</p>
    <${Facts} session=${session} />
    <section><h2>Time line</h2><${Timeline} session=${session} /></section>
    <section><h2>Agents</h2><${Agents} session=${session} canKill=${canKill} ask=${ask} /></section>
    <section><h2>Requests</h2><p class="quiet">What is open, and the last 20 that ended.</p>
      <${Plain} rows=${[...open, ...(session.requests ?? [])]} columns=${requestColumns} rowKey=${(one) => one.request_id} label="Requests" empty="No request yet." /></section>
    ${session.state !== "active" && who.features.history && may(who, "history", false) && html`<section><h2>Record</h2><${Record} session=${session} /></section>`}
    ${asked && html`<${KillDialog} session=${session} agent=${asked === MAIN ? undefined : asked} close=${() => ask(null)} done=${again} />`}`;
}
