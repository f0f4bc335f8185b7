// Kills and resumes: one question, one answer.
import { post, sessionPath } from "./api.mjs";
import { html, useState } from "./parts/html.mjs";
import { Ask, Dialog, Fault, tell } from "./parts/dialog.mjs";
import { age, clock, plain } from "./parts/format.mjs";

const legs = (count) => `${count} open ${count === 1 ? "request" : "requests"}`;

/** What the API says about a kill, in a sentence. */
export function killed(answer) {
  const until = answer.blocked_until ? `, refused until ${clock(answer.blocked_until)}` : ", refused until it is resumed";
  const reach = answer.instances_notified === 1 ? "1 instance" : `${answer.instances_notified} instances`;
  const late = (answer.not_reached ?? []).length ? ` Not everywhere yet: ${answer.not_reached.join("; ")}` : "";
  const what = answer.agent ? `Agent ${plain(answer.agent, 60)} of ${plain(answer.session_id, 60)}` : plain(answer.session_id, 80);
  return `Killed ${what} at ${clock(answer.killed_at)}: ${legs(answer.legs_cut)} cut, ${reach}${answer.agent ? "" : until}.${late}`;
}

/** Asks before a session or an agent in it is killed. */
export function KillDialog({ session, agent, close, done }) {
  const act = ({ reason }) => post(`${sessionPath(session.uid, "/kill")}?by=uid`, { ...(reason ? { reason } : {}), ...(agent ? { agent } : {}) });
  const after = (answer) => {
    tell(killed(answer), html`<a href=${`#/session/${encodeURIComponent(session.uid)}`}>Open</a>`);
    done?.(answer);
  };
  const title = agent ? `Kill agent ${plain(agent, 60)}?` : `Kill ${plain(session.id, 80)}?`;
  return html`<${Ask} title=${title} verb="Kill" act=${act} done=${after} close=${close}>
    <p>${agent ? html`The agent and all agents below it, in the session <b>${plain(session.id, 80)}</b>` : "The session"} of <b>${plain(session.principal.id, 80)}</b>${
      session.identity.client ? html`, <b>${plain(session.identity.client, 60)}</b>` : ""}, began ${age(session.duration_ms)} ago.</p>
    <p><b>${legs(session.open_legs)}</b> will be cut now. ${agent ? "The rest of the session goes on." : "Its next requests are refused; Resume lifts that."}</p>
    <label>Reason, which the client sees <input name="reason" maxlength="1000" autocomplete="off" placeholder="no reason given" /></label>
  </${Ask}>`;
}

/** Lifts the kill of a session or an agent. */
export async function resume(session, agent) {
  try {
    await post(`${sessionPath(session.id, "/resume")}`, agent ? { agent } : {});
    tell(`Resumed ${plain(agent ?? session.id, 80)}: its next request begins anew.`);
  } catch (fault) {
    tell(`Not resumed: ${fault.message}`);
  }
}

const FIELDS = [
  ["principal", "Principal", "key:ci"], ["group", "Group", "build"], ["client", "Client", "claude-code"], ["backend", "Backend", "anthropic"],
  ["model", "Model", "gpt-*"], ["agent", "Agent", "a1"], ["idle_over", "Idle for over", "10m"], ["running_over", "Running for over", "2h"],
  ["when", "Expression", "session.requests > 100"],
];

function Selected({ found }) {
  const rows = found.sessions.slice(0, 200);
  return html`<div class="scroll list" tabindex="0" role="region" aria-label="Sessions that fit"><table>
    <thead><tr><th scope="col">Session</th><th scope="col">Principal</th><th scope="col">Client</th><th scope="col" class="n">Open</th></tr></thead>
    <tbody>${rows.map((one) => html`<tr key=${one.uid}><td class="id">${plain(one.session_id, 80)}</td><td>${plain(one.principal, 60)}</td>
      <td>${plain(one.client ?? "–", 40)}</td><td class="n">${one.open_legs}</td></tr>`)}</tbody></table>
    ${found.matched > rows.length && html`<p class="quiet">and ${found.matched - rows.length} more</p>`}</div>`;
}

/** Kills all sessions that a selector fits: the list first, then the same selector without `dry_run`. */
export function KillWhere({ close, given = {} }) {
  const [found, setFound] = useState(null);
  const [selector, setSelector] = useState(null);
  const [fault, setFault] = useState(null);
  const [busy, setBusy] = useState(false);
  const send = async (body) => {
    setBusy(true);
    setFault(null);
    try {
      return await post("/control/kill", body);
    } catch (refused) {
      setFault(refused);
      return null;
    } finally {
      setBusy(false);
    }
  };
  const list = async (event) => {
    event.preventDefault();
    const values = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value.trim()));
    setSelector(values);
    setFound(await send({ ...values, dry_run: true }));
  };
  const kill = async (event) => {
    event.preventDefault();
    const answer = await send(selector);
    if (!answer) return;
    const failed = answer.sessions.filter((one) => one.result?.failed).length;
    tell(`Killed ${answer.killed} of ${answer.matched} sessions: ${legs(answer.legs_cut)} cut${failed ? `, ${failed} failed` : ""}.`);
    close();
  };
  if (found) {
    return html`<${Dialog} title=${found.matched === 0 ? "No session fits" : `Kill ${found.matched} ${found.matched === 1 ? "session" : "sessions"}?`} close=${close} wide>
      <form onSubmit=${kill}>
        <p class="quiet">${Object.entries(selector).map(([name, value]) => html`<code>${name}: ${plain(value, 80)}</code> `)}</p>
        ${found.matched > 0 && html`<${Selected} found=${found} />`}
        ${found.truncated && html`<p class="warn">Some may be missing from this list.</p>`}
        <${Fault} fault=${fault} />
        <div class="buttons"><button type="button" onClick=${() => setFound(null)}>Back</button>
          ${found.matched > 0 && html`<button type="submit" class="danger" data-first ref=${(button) => button?.focus()} disabled=${busy}>Kill ${found.matched}</button>`}</div>
      </form></${Dialog}>`;
  }
  return html`<${Dialog} title="Kill by selection" close=${close} wide>
    <form onSubmit=${list}>
      <p class="quiet">Every active session that fits all that is filled in. Nothing is killed before you have seen the list.</p>
      <div class="fields">${FIELDS.map(([name, label, example], at) => html`<label>${label}
        <input name=${name} placeholder=${example} autocomplete="off" defaultValue=${selector?.[name] ?? given[name] ?? ""} data-first=${at === 0 || undefined} /></label>`)}
        <label>Reason <input name="reason" placeholder="no reason given" autocomplete="off" defaultValue=${selector?.reason ?? ""} /></label></div>
      <${Fault} fault=${fault} />
      <div class="buttons"><button type="button" onClick=${close}>Cancel</button><button type="submit" class="primary" disabled=${busy}>Show what fits</button></div>
    </form></${Dialog}>`;
}
