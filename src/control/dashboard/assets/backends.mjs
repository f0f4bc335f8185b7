// Backends and instances: what answers, what rests, and what is open where.
import { html, useContext, useState } from "./parts/html.mjs";
import { Caller, may, useReading } from "./state.mjs";
import { post } from "./api.mjs";
import { Ask, Fault, tell } from "./parts/dialog.mjs";
import { Plain } from "./parts/table.mjs";
import { age, exact, plain } from "./parts/format.mjs";

const state = (ok, good, bad) => html`<span class=${`state ${ok ? "healthy" : "unhealthy"}`}><i aria-hidden="true"></i>${ok ? good : bad}</span>`;
const backendColumns = [
  { label: "Backend", cell: ([name]) => html`<b>${plain(name, 60)}</b>` },
  { label: "State", cell: ([, one]) => state(one.healthy && !one.drained, "healthy", one.drained ? "drained" : one.rests_for_ms != null ? `rests for ${age(one.rests_for_ms)}` : "not healthy") },
  { label: "Type", cell: ([, one]) => plain(one.type, 30) }, { label: "URL", className: "id", cell: ([, one]) => plain(one.url, 120) },
  { label: "Credential", cell: ([, one]) => plain(one.auth, 30) },
  { label: "Open", numeric: true, cell: ([, one]) => exact(one.open) },
  { label: "Requests", numeric: true, cell: ([, , requests]) => exact(requests ?? 0) },
  { label: "Callers kept away", numeric: true, cell: ([, one]) => exact(one.callers_kept_away) },
];
const instanceColumns = [
  { label: "Instance", className: "id", cell: (one) => html`${plain(one.name, 80)} ${one.here ? html`<span class="quiet">(this one)</span>` : ""}` },
  { label: "Version", cell: (one) => plain(one.version, 30) }, { label: "Running for", cell: (one) => age(1000 * one.uptime_s) },
  { label: "Sessions", numeric: true, cell: (one) => exact(one.sessions) }, { label: "Open requests", numeric: true, cell: (one) => exact(one.legs) },
  { label: "Session store", cell: (one) => html`${plain(one.store, 20)} ${state(one.store_up, "answers", "does not answer")}` },
];

export function BackendsPage() {
  const who = useContext(Caller);
  const [asked, ask] = useState(null);
  const { value, fault, again } = useReading("/control/backends", 2000);
  const { value: instances } = useReading("/control/instances", 2000);
  const { value: stats } = useReading("/control/stats", 5000);
  const { value: health } = useReading("/control/health", 5000);
  const rows = Object.entries(value?.backends ?? {}).map(([name, one]) => [name, one, stats?.by_backend?.[name]]);
  const verb = asked?.one.drained ? "undrain" : "drain";
  const done = (answer) => {
    tell(answer.drained ? `${plain(asked.name, 60)} gets no new requests; ${exact(answer.open)} are open.` : `${plain(asked.name, 60)} gets requests again.`);
    again();
  };
  const change = { label: html`<span class="unseen">Change</span>`, className: "act", cell: ([name, one]) => html`<button onClick=${() => ask({ name, one })}>${one.drained ? "Undrain" : "Drain"}</button>` };
  const columns = may(who, "operate", false) ? [...backendColumns, change] : backendColumns;
  return html`<${Fault} fault=${fault} />
    ${asked && html`<${Ask} title=${verb === "drain" ? `Drain ${plain(asked.name, 60)}?` : `Send requests to ${plain(asked.name, 60)} again?`} verb=${verb === "drain" ? "Drain" : "Undrain"} danger=${verb === "drain"}
      act=${() => post(`/control/backends/${encodeURIComponent(asked.name)}/${verb}`)} done=${done} close=${() => ask(null)}>
      ${verb === "drain" && html`<p>It gets no new requests, on this instance and until it restarts. The ${exact(asked.one.open)} that are open go on. What no other backend serves is refused.</p>`}</${Ask}>`}
    ${health?.reason && html`<p class="fault" role="status">This instance is not ready: ${plain(health.reason, 300)}</p>`}
    ${health?.warning && html`<p class="fault" role="status">${plain(health.warning, 600)}</p>`}
    <section><h2>Backends</h2><${Plain} rows=${rows} columns=${columns} label="Backends" rowKey=${([name]) => name} empty="Reading the backends…" /></section>
    <section><h2>Instances</h2><${Plain} rows=${instances?.instances ?? []} columns=${instanceColumns} label="Instances" rowKey=${(one) => one.name} empty="Reading the instances…" /></section>
    <p class="quiet keys">Which key to change: <code>backends</code> in the configuration, then <code>kill -HUP</code> or Reload in Settings.</p>`;
}
