// One time line with a lane per agent: what was asked when, and what is open now.
import { html } from "./html.mjs";
import { age, clock, plain, serverNow, took, words } from "./format.mjs";

const MAIN = "main";

/** The marks of a session by the agent that made them. */
function lanes(session) {
  const byAgent = new Map((session.agents ?? []).map((agent) => [agent.id, { agent, marks: [] }]));
  const lane = (id) => {
    const name = id ?? MAIN;
    if (!byAgent.has(name)) byAgent.set(name, { agent: { id: name, depth: name === MAIN ? 0 : 1, state: "" }, marks: [] });
    return byAgent.get(name);
  };
  for (const request of session.requests ?? []) {
    const from = Date.parse(request.started_at);
    const isBad = (request.status ?? 0) >= 400 || request.error;
    const isKilled = ["session_killed", "agent_killed"].includes(request.outcome);
    const state = isKilled ? "killed" : isBad ? "bad" : "ok";
    lane(request.agent).marks.push({ from, to: from + (request.duration_ms ?? 0), state, request });
  }
  for (const leg of session.legs ?? []) {
    const from = Date.parse(leg.started_at);
    lane(leg.agent).marks.push({ from, to: null, state: "open", request: leg });
  }
  return [...byAgent.values()];
}

const said = ({ request, state, from, to }) =>
  `${clock(new Date(from))} ${request.method} ${plain(request.path, 60)} ${plain(request.model ?? "", 40)}: ${
    state === "open" ? "open" : `${request.status ?? "no answer"} ${words(request.outcome)}`}, ${to == null ? age(serverNow() - from) : took(to - from)}`;

export function Timeline({ session, kill }) {
  const all = lanes(session);
  const now = session.state === "active" ? serverNow() : Date.parse(session.last_activity);
  const marks = all.flatMap((lane) => lane.marks);
  if (marks.length === 0) return html`<div class="empty">No request has ended yet.</div>`;
  const from = Math.min(...marks.map((mark) => mark.from));
  const to = Math.max(now, ...marks.map((mark) => mark.to ?? now));
  const place = (at) => (100 * (at - from)) / Math.max(to - from, 1);
  const bar = (mark) => {
    const left = place(mark.from);
    const width = Math.max(place(mark.to ?? to) - left, 0.4);
    return html`<i class=${`bar ${mark.state}`} title=${said(mark)} style=${{ left: `${Math.min(left, 99.6)}%`, width: `${width}%` }}></i>`;
  };
  return html`<div class="timeline" role="img" aria-label=${`${marks.length} requests of ${all.length} agents between ${clock(new Date(from))} and ${clock(new Date(to))}`}>
    ${all.map(({ agent, marks }) => html`<div class="lane" key=${agent.id}>
      <span class="who" style=${{ paddingLeft: `${Math.min(agent.depth ?? 0, 6) * 14}px` }} title=${plain(agent.id)}>${plain(agent.id, 40)}</span>
      <span class="bars">${marks.map(bar)}</span>
    </div>`)}
    <div class="lane scale"><span class="who"></span><span class="bars"><b>${clock(new Date(from))}</b><b>${clock(new Date(to))}</b></span></div>
  </div>
  <p class="key"><i class="bar ok"></i> answered <i class="bar open"></i> open <i class="bar bad"></i> failed <i class="bar killed"></i> cut by a kill</p>`;
}
