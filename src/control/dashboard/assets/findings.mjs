// Findings: which rules held, in which sessions; and a box to try the rules.
import { html, useContext, useState } from "./parts/html.mjs";
import { Caller, may, setParameters, useReading } from "./state.mjs";
import { post, query } from "./api.mjs";
import { Choice } from "./history.mjs";
import { Fault } from "./parts/dialog.mjs";
import { Plain } from "./parts/table.mjs";
import { clock, exact, plain, words } from "./parts/format.mjs";

const severity = (one) => html`<span class=${["high", "critical"].includes(one.severity) ? "bad" : one.severity === "medium" ? "warn" : ""}>${one.severity}</span>`;
const findingColumns = [
  { label: "When", cell: (one) => html`<span title=${one.at}>${clock(one.at)}</span>` },
  { label: "Severity", cell: severity },
  { label: "Rule", cell: (one) => html`<a href=${`#/findings?rule=${encodeURIComponent(one.rule)}`}>${plain(one.rule, 60)}</a>` },
  { label: "Action", cell: (one) => `${words(one.action)}${one.mode === "enforce" ? "" : ` (${one.mode})`}` },
  { label: "Phase", cell: (one) => words(one.phase) },
  { label: "Session", className: "id", cell: (one) => (one.uid ? html`<a href=${`#/session/${one.uid}`}>${plain(one.session_id, 80)}</a>` : "–") },
  { label: "Principal", className: "cut", cell: (one) => plain(one.principal, 60) },
  { label: "Tool", className: "cut", cell: (one) => plain(one.tool ?? "–", 40) },
  { label: "OWASP", cell: (one) => plain(one.owasp ?? "–", 40) },
  { label: "Times", numeric: true, cell: (one) => exact(one.count) },
];
const ruleColumns = [
  { label: "Rule", cell: (rule) => html`<b>${plain(rule.id, 60)}</b>` },
  { label: "Phase", cell: (rule) => words(rule.on) }, { label: "Origin", cell: (rule) => plain(rule.origin, 40) },
  { label: "Condition", className: "wrap", cell: (rule) => html`<code>${plain(rule.when ?? (rule.matches_text ? "patterns in the text" : "–"), 600)}</code>` },
  { label: "Action", cell: (rule) => words(rule.action) }, { label: "Mode", cell: (rule) => words(rule.mode) },
  { label: "Severity", cell: severity }, { label: "Held", numeric: true, cell: (rule) => exact(rule.findings) },
];
const PHASES = ["request", "response", "tool_call", "tool_result"];

function TestBox() {
  const [answer, setAnswer] = useState(null);
  const [fault, setFault] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    const { on, text, facts } = Object.fromEntries(new FormData(event.target));
    setFault(null);
    try {
      const given = facts.trim() ? JSON.parse(facts) : {};
      setAnswer(await post("/control/policy/test", { on, facts: given, ...(text ? { text } : {}) }));
    } catch (wrong) {
      setAnswer(null);
      setFault(wrong instanceof SyntaxError ? { status: 400, code: "", message: "the facts are not a JSON object" } : wrong);
    }
  };
  const columns = [
    { label: "Rule", cell: (rule) => plain(rule.rule, 60) }, { label: "Holds", cell: (rule) => (rule.holds ? html`<b class="warn">${rule.result}</b>` : rule.result) },
    { label: "Action", cell: (rule) => words(rule.action) }, { label: "Mode", cell: (rule) => words(rule.mode) },
    { label: "Facts", className: "wrap", cell: (rule) => html`<code>${plain(JSON.stringify(rule.facts ?? {}), 400)}</code>` },
  ];
  return html`<form onSubmit=${submit}><div class="fields">
      <label>Phase <select name="on">${PHASES.map((name) => html`<option value=${name}>${words(name)}</option>`)}</select></label>
      <label>Facts, as JSON <input name="facts" placeholder='{"request.model": "claude-opus-5"}' autocomplete="off" /></label></div>
    <label>Text <textarea name="text" rows="3"></textarea></label>
    <div class="buttons"><button class="primary">Try the rules</button></div></form>
    <${Fault} fault=${fault} />
    ${answer && html`<p>The answer would be <b>${words(answer.action ?? "nothing")}</b>${answer.rule ? html` by <b>${plain(answer.rule, 60)}</b>` : ""}.</p>
      <${Plain} rows=${answer.rules} columns=${columns} label="What each rule says" empty="No rule has this phase." />`}`;
}

export function FindingsPage({ parameters }) {
  const who = useContext(Caller);
  const filter = { rule: parameters.get("rule"), severity: parameters.get("severity") };
  const { value, fault } = useReading(`/control/flags${query({ ...filter, limit: 200 })}`, 3000);
  const { value: policy } = useReading(may(who, "read", false) ? "/control/policy" : null, 10000);
  const found = value?.flags ?? [];
  return html`<div class="bar-above">
      <${Choice} name="severity" label="Severity" value=${filter.severity ?? ""} values=${[["", "any severity"], ["low", "low and above"], ["medium", "medium and above"], ["high", "high and above"], ["critical", "critical"]]} />
      ${filter.rule && html`<button onClick=${() => setParameters({ rule: "" })}>Rule ${plain(filter.rule, 60)} ✕</button>`}
      <span class="quiet">${exact(found.length)} of the last findings</span></div>
    <${Fault} fault=${fault} />
    <section><h2>Findings</h2><${Plain} rows=${found} columns=${findingColumns} label="Findings"
      empty=${value ? "No rule has held." : "Reading the findings…"} /></section>
    ${policy && html`<section><h2>Rules in force</h2><p class="quiet">Mode ${policy.mode}${policy.presets.length ? `, presets ${policy.presets.join(", ")}` : ""}.</p>
      <${Plain} rows=${policy.rules} columns=${ruleColumns} label="Rules" rowKey=${(rule) => `${rule.on} ${rule.id}`}
        empty=${html`<p>There are no rules. Start with a preset:</p><pre>policy:
  presets: [standard]</pre>`} /></section>`}
    ${may(who, "operate", false) && policy?.rules.length > 0 && html`<section><h2>Try the rules</h2><${TestBox} /></section>`}`;
}
