// Audit: who changed what, from where, and with which outcome.
import { html, useState } from "./parts/html.mjs";
import { setParameters, useReading } from "./state.mjs";
import { get, query } from "./api.mjs";
import { Choice, Pages } from "./history.mjs";
import { Fault } from "./parts/dialog.mjs";
import { Plain } from "./parts/table.mjs";
import { clock, exact, plain } from "./parts/format.mjs";

const columns = [
  { label: "When", cell: (line) => html`<span title=${line.at}>${clock(line.at)}</span>` },
  { label: "Who", className: "cut", cell: (line) => html`<b>${plain(line.operator.id, 60)}</b>` },
  { label: "From", cell: (line) => plain(line.operator.address ?? "–", 60) },
  { label: "What", cell: (line) => plain(line.action, 40) },
  { label: "On", className: "id", cell: (line) => html`<span title=${plain(line.target, 300)}>${plain(line.target.replace("/control/", ""), 100)}</span>` },
  { label: "Outcome", cell: (line) => html`<span class=${line.status >= 400 ? "bad" : ""}>${line.status}${line.code ? ` ${plain(line.code, 40)}` : " done"}</span>` },
  { label: "Reason", className: "wrap", cell: (line) => plain(line.reason ?? "", 400) },
  { label: "Number", numeric: true, cell: (line) => line.chain?.seq ?? "–" },
];

/** Has the gateway verify its log, when somebody asks. */
function Verify() {
  const [state, set] = useState({});
  const verify = async () => {
    set({ running: true });
    try {
      set({ found: await get("/control/audit/verify") });
    } catch (fault) {
      set({ fault });
    }
  };
  const { running, found, fault } = state;
  return html`<section><header class="title"><h2>Verify</h2><span class="grow"></span><button onClick=${verify} disabled=${running}>${running ? "Verifying…" : "Verify now"}</button></header>
    <div role="status">${found && (found.verified
      ? html`<p><b>In order:</b> ${exact(found.lines)} lines, none changed, missing or moved.</p>`
      : html`<p class="bad"><b>Not as it was written:</b> ${plain(found.fault, 300)}</p>`)}</div>
    <${Fault} fault=${fault} />
    <p>Each line has the digest of the one before and is sealed. Who has the keys of the gateway can deceive it: verify an export where it cannot write.</p>
    <pre>elida audit export --output audit.ndjson
elida audit verify audit.ndjson --key cdr-key.pub --head audit-head.json</pre></section>`;
}

export function AuditPage({ parameters }) {
  const [cursors, setCursors] = useState([]);
  const from = parameters.get("from") ?? "24h";
  const filter = { from, operator: parameters.get("operator"), action: parameters.get("action") };
  const { value, fault } = useReading(`/control/audit${query({ ...filter, limit: 200, cursor: cursors.at(-1) })}`, cursors.length ? 0 : 5000);
  const typed = (name) => (event) => {
    setCursors([]);
    setParameters({ [name]: event.target.value });
  };
  return html`<div class="bar-above">
      <${Choice} name="from" label="Time" values=${[["1h", "last hour"], ["24h", "last day"], ["30d", "last 30 days"], ["3650d", "ever"]]} value=${from} />
      <input aria-label="Operator" placeholder="Operator: key:ada" value=${filter.operator ?? ""} onChange=${typed("operator")} />
      <input aria-label="Action" placeholder="Action: killSession" value=${filter.action ?? ""} onChange=${typed("action")} /></div>
    <${Fault} fault=${fault} />
    <section><h2>What operators changed</h2><${Plain} rows=${value?.lines ?? []} columns=${columns} label="Audit log" rowKey=${(line) => line.chain?.seq}
      empty=${value ? "Nothing was changed in this time." : "Reading the log…"} /></section>
    <${Pages} cursors=${cursors} next=${value?.next_cursor} go=${setCursors} />
    <${Verify} />`;
}
