// Approvals: calls that rules hold until somebody answers, with exactly what they would do.
import { html, useContext, useEffect, useState } from "./parts/html.mjs";
import { Caller, useReading } from "./state.mjs";
import { post } from "./api.mjs";
import { Choice } from "./history.mjs";
import { Ask, Fault, tell } from "./parts/dialog.mjs";
import { age, clock, plain, serverNow, words } from "./parts/format.mjs";

/** The arguments as they are, on several lines if they are JSON. */
function exactly(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text ?? "";
  }
}

function Held({ one, own, ask }) {
  const isPending = one.state === "pending";
  const left = Date.parse(one.expires) - serverNow();
  return html`<section class="held" aria-label=${`Call of ${plain(one.session_id ?? one.principal, 80)}`}>
    <header class="title"><h2>${one.tool ? html`Tool <code>${plain(one.tool, 80)}</code>${one.server ? ` of ${plain(one.server, 60)}` : ""}` : `${words(one.phase)}, ${plain(one.dialect, 40)}`}</h2>
      <span class=${`state ${isPending ? "held" : ""}`}><i aria-hidden="true"></i>${words(one.state)}</span><span class="grow"></span>
      ${isPending && html`<span class="quiet" title=${one.expires}>${left > 0 ? `${age(left)} left` : "over"}</span>
        <button onClick=${() => ask({ one, decision: "deny" })} disabled=${own}>Deny</button><button class="primary" onClick=${() => ask({ one, decision: "approve" })} disabled=${own}>Allow</button>`}</header>
    <p>${plain(one.message ?? "No message.", 600)} <span class="quiet">Rule ${plain(one.rule, 80)}.</span></p>
    <p class="quiet">Asked at ${clock(one.asked)} by <b>${plain(one.principal, 80)}</b>${one.agent ? `, agent ${plain(one.agent, 60)}` : ""} in ${
      one.uid ? html`<a href=${`#/session/${one.uid}`}>${plain(one.session_id, 80)}</a>` : "no session"}.${own ? " It is your own call: somebody else must answer." : ""}${one.need > 1 ? ` ${one.need} operators must allow it.` : ""}</p>
    ${one.arguments != null && html`<pre>${exactly(one.arguments)}</pre>`}
    <p class="quiet uid">SHA-256 of the arguments: <code>${one.args_sha256}</code></p>
    ${one.decisions.map((decision) => html`<p>${words(decision.decision)} by <b>${plain(decision.by, 80)}</b> at ${clock(decision.at)}${decision.reason ? `: ${plain(decision.reason, 300)}` : ""}</p>`)}
  </section>`;
}

export function ApprovalsPage({ parameters }) {
  const who = useContext(Caller);
  const state = parameters.get("state") ?? "pending";
  const { value, fault, again } = useReading(`/control/approvals?state=${encodeURIComponent(state)}&limit=500`, 3000);
  const [asked, ask] = useState(null);
  useEffect(() => {
    const changed = (event) => event.detail.name.startsWith("approval.") && again();
    addEventListener("elida", changed);
    return () => removeEventListener("elida", changed);
  }, []);
  const act = ({ reason }) => post(`/control/approvals/${encodeURIComponent(asked.one.id)}`, { decision: asked.decision, ...(reason ? { reason } : {}) });
  const done = (answer) => {
    tell(`The call is ${words(answer.state)}${answer.state === "pending" ? ": another operator must allow it, too" : ""}.`);
    again();
  };
  const held = value?.approvals ?? [];
  return html`<div class="bar-above"><${Choice} name="state" label="State" values=${["pending", "approved", "denied", "used", "expired", "all"].map((name) => [name, name])} value=${state} />
      <span class="quiet">${held.length}${value?.next_cursor ? " of more" : ""} ${held.length === 1 ? "call" : "calls"}</span></div>
    <${Fault} fault=${fault} />
    ${held.map((one) => html`<${Held} key=${one.id} one=${one} own=${one.principal === who.id} ask=${ask} />`)}
    ${value && held.length === 0 && html`<div class="empty"><p>No call waits. A rule with <code>action: hold</code> makes one wait:</p><pre>policy:
  rules:
    - { id: no-prod, on: tool_call, when: 'tool.name == "Bash"', action: hold }</pre></div>`}
    ${asked && html`<${Ask} title=${asked.decision === "approve" ? "Allow this call, once?" : "Deny this call?"} verb=${asked.decision === "approve" ? "Allow" : "Deny"}
      danger=${asked.decision === "deny"} act=${act} done=${done} close=${() => ask(null)}>
      <p><b>${plain(asked.one.tool ?? asked.one.rule, 80)}</b> of <b>${plain(asked.one.principal, 80)}</b> in <b>${plain(asked.one.session_id ?? "–", 80)}</b></p>
      <pre>${exactly(asked.one.arguments)}</pre>
      <label>Reason${asked.decision === "deny" ? ", which the client sees" : ""} <input name="reason" maxlength="1000" autocomplete="off" /></label></${Ask}>`}`;
}
