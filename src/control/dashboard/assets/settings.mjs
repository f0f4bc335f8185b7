// Settings: the configuration in force, keys and accounts. The file itself is never written here.
import { html, useContext, useState } from "./parts/html.mjs";
import { Caller, may, useReading } from "./state.mjs";
import { post, remove } from "./api.mjs";
import { Ask, Dialog, Fault, tell } from "./parts/dialog.mjs";
import { Plain } from "./parts/table.mjs";
import { clock, plain } from "./parts/format.mjs";

const listed = (names) => (names.length ? names.map((name) => plain(name, 60)).join(", ") : "all");

/** A secret that is shown once. */
function Once({ what, secret, close }) {
  return html`<${Dialog} title=${what} close=${close}><p>It is shown this once and kept nowhere.</p><pre>${secret}</pre>
    <div class="buttons"><button onClick=${() => navigator.clipboard.writeText(secret).then(() => tell("Copied."))}>Copy</button><button class="primary" data-first onClick=${close}>Done</button></div></${Dialog}>`;
}

const words = (text) => (text ?? "").split(/[\s,]+/).filter(Boolean);

function Keys() {
  const { value, fault, again } = useReading("/control/keys", 10000);
  const [asked, ask] = useState(null);
  const [made, show] = useState(null);
  const act = async (form) => {
    if (asked.verb === "make") {
      const lists = Object.fromEntries(["groups", "models"].map((name) => [name, words(form[name])]).filter(([, list]) => list.length));
      const texts = Object.fromEntries(["id", "tenant", "expires"].map((name) => [name, form[name]?.trim()]).filter(([, text]) => text));
      return post("/control/keys", { ...texts, ...lists });
    }
    const path = `/control/keys/${encodeURIComponent(asked.key.id)}`;
    return asked.verb === "rotate" ? post(`${path}/rotate`, form.grace ? { grace: form.grace } : {}) : remove(path);
  };
  const done = (answer) => {
    if (answer.key) show({ what: `Key ${plain(answer.id, 80)}`, secret: answer.key });
    else tell(`Revoked ${plain(answer.id, 80)}: ${answer.legs_cut} open requests cut.`);
    again();
  };
  const columns = [
    { label: "Key", className: "id", cell: (key) => plain(key.id, 80) }, { label: "Begins", className: "id", cell: (key) => `${plain(key.shown ?? "–", 20)}…` },
    { label: "From", cell: (key) => (key.managed_by === "api" ? "here" : "the configuration") }, { label: "Tenant", cell: (key) => plain(key.tenant ?? "–", 40) },
    { label: "Groups", className: "cut", cell: (key) => (key.groups.length ? listed(key.groups) : "–") }, { label: "Models", className: "cut", cell: (key) => listed(key.models) },
    { label: "Expires", cell: (key) => (key.expires ? clock(key.expires) : "never") }, { label: "Last used", cell: (key) => (key.last_used ? clock(key.last_used) : "–") },
    { label: html`<span class="unseen">Change</span>`, className: "act", cell: (key) => (key.managed_by === "api"
      ? html`<button onClick=${() => ask({ verb: "rotate", key })}>Rotate</button> <button class="kill" onClick=${() => ask({ verb: "revoke", key })}>Revoke</button>` : html`<span class="quiet">auth.principals</span>`) },
  ];
  const titles = { make: ["Make a key", "Make"], rotate: [`Rotate ${plain(asked?.key?.id, 60)}?`, "Rotate"], revoke: [`Revoke ${plain(asked?.key?.id, 60)}?`, "Revoke"] };
  return html`<section><header class="title"><h2>Keys of callers</h2><span class="grow"></span><button onClick=${() => ask({ verb: "make" })}>Make a key…</button></header>
    <${Fault} fault=${fault} />
    <${Plain} rows=${value?.keys ?? []} columns=${columns} label="Keys" rowKey=${(key) => key.id} empty=${html`<p>No caller has a key of this gateway.</p><pre>elida key create --id ci --models 'claude-haiku-*' --expires 90d</pre>`} />
    ${asked && html`<${Ask} title=${titles[asked.verb][0]} verb=${titles[asked.verb][1]} danger=${asked.verb === "revoke"} act=${act} done=${done} close=${() => ask(null)}>
      ${asked.verb === "make" && html`<div class="fields"><label>Id <input name="id" required autocomplete="off" placeholder="ci" /></label><label>Tenant <input name="tenant" autocomplete="off" /></label>
        <label>Groups <input name="groups" autocomplete="off" placeholder="build, test" /></label><label>Models <input name="models" autocomplete="off" placeholder="all" /></label>
        <label>Expires <input name="expires" autocomplete="off" placeholder="never, or 90d" /></label></div>`}
      ${asked.verb === "rotate" && html`<label>The old key stays valid for <input name="grace" autocomplete="off" placeholder="ends at once, or 24h" /></label>`}
      ${asked.verb === "revoke" && html`<p>Its open requests are cut, and what follows is refused. It cannot be undone.</p>`}</${Ask}>`}
    ${made && html`<${Once} ...${made} close=${() => show(null)} />`}</section>`;
}

function People() {
  const who = useContext(Caller);
  const { value, fault, again } = useReading("/control/users", 10000);
  const [asked, ask] = useState(null);
  const verb = asked?.disabled ? "enable" : "disable";
  const done = () => {
    tell(`The account ${plain(asked.name, 80)} is ${verb}d.`);
    again();
  };
  const columns = [
    { label: "Name", className: "id", cell: (user) => plain(user.name, 80) }, { label: "Role", cell: (user) => user.role ?? "none" }, { label: "Tenant", cell: (user) => plain(user.tenant ?? "–", 40) },
    { label: "Groups", cell: (user) => (user.groups.length ? listed(user.groups) : "–") }, { label: "Log-ins", numeric: true, cell: (user) => user.logins },
    { label: "State", cell: (user) => (user.disabled ? html`<span class="bad">disabled</span>` : user.invited_until ? "invited" : "in force") }, { label: "Made", cell: (user) => clock(user.created) },
    { label: html`<span class="unseen">Change</span>`, className: "act", cell: (user) => !who.id.startsWith(`user:${user.name}@`)
      && html`<button class=${user.disabled ? "" : "kill"} onClick=${() => ask(user)}>${user.disabled ? "Enable" : "Disable"}</button>` },
  ];
  return html`<section><h2>Accounts of people</h2><${Fault} fault=${fault} /><${Plain} rows=${value?.users ?? []} columns=${columns} label="Accounts" rowKey=${(user) => user.name}
    empty=${html`<pre>elida admin create ada</pre>`} />
    ${asked && html`<${Ask} title=${`${verb === "disable" ? "Disable" : "Enable"} ${plain(asked.name, 60)}?`} verb=${verb === "disable" ? "Disable" : "Enable"} danger=${verb === "disable"}
      act=${() => post(`/control/users/${encodeURIComponent(asked.name)}/${verb}`)} done=${done} close=${() => ask(null)}>
      ${verb === "disable" && html`<p>Nobody can log in with it; its tokens end, and what they have opened is cut.</p>`}</${Ask}>`}</section>`;
}

/** A section with its values, and where each of its keys is set; what is not named has its default. */
function Section({ name, part, sources }) {
  const set = Object.entries(sources).filter(([key]) => key === name || key.startsWith(`${name}.`));
  return html`<details><summary><code>${name}</code> <span class="quiet">${set.length ? plain(set[0][1], 200) : "default"}${set.length > 1 ? ", …" : ""}</span></summary>
    <pre>${JSON.stringify(part, null, 2)}</pre>
    ${set.length > 0 && html`<ul class="sources">${set.map(([key, source]) => html`<li key=${key}><code>${plain(key, 120)}</code> <span class="quiet">${plain(source, 200)}</span></li>`)}</ul>`}</details>`;
}

function Configuration() {
  const { value, fault, again } = useReading("/control/config", 0);
  const [isAsked, ask] = useState(false);
  const done = (answer) => {
    tell(`The configuration was read again.${answer.restart_required.length ? ` After a restart only: ${answer.restart_required.join(", ")}.` : ""}`);
    again();
  };
  const waiting = value?.restart_required ?? [];
  return html`<section><header class="title"><h2>Configuration in force</h2><span class="grow"></span><button onClick=${() => ask(true)}>Reload…</button></header>
    <p class="quiet">After file, environment and flags; secrets are masked. To change a key, change the file; <code>elida check</code> says whether it is right.</p>
    <${Fault} fault=${fault} />${waiting.length > 0 && html`<p class="warn">After a restart only: ${waiting.join(", ")}</p>`}
    ${Object.entries(value ?? {}).filter(([name]) => name !== "restart_required" && name !== "sources").map(([name, part]) => html`<${Section} key=${name} name=${name} part=${part} sources=${value.sources} />`)}
    ${isAsked && html`<${Ask} title="Read the configuration again?" verb="Reload" danger=${false} act=${() => post("/control/config/reload")} done=${done} close=${() => ask(false)}>
      <p>What is faulty changes nothing: the old configuration stays in force, and the faults are shown.</p></${Ask}>`}</section>`;
}

export function SettingsPage() {
  const who = useContext(Caller);
  return html`${may(who, "config", false) && html`<${Configuration} />`}${may(who, "keys") && html`<${Keys} />`}
    ${may(who, "users") && who.features.people && html`<${People} />`}`;
}
