// Log-in: a token, or the name and password of an account. Neither is kept by the page.
import { post } from "./api.mjs";
import { html, useState } from "./parts/html.mjs";
import { Fault } from "./parts/dialog.mjs";

export function LoginPage({ done, refused }) {
  const [isPerson, setPerson] = useState(false);
  const [fault, setFault] = useState(refused ?? null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    setBusy(true);
    setFault(null);
    try {
      await post("/control/login", Object.fromEntries(new FormData(form)));
      form.reset();
      done();
    } catch (wrong) {
      setFault(wrong);
      setBusy(false);
    }
  };
  const tab = (value, label) => html`<button type="button" class=${isPerson === value ? "tab on" : "tab"} aria-pressed=${isPerson === value} onClick=${() => setPerson(value)}>${label}</button>`;
  return html`<main class="login"><form onSubmit=${submit}>
    <h1><img src="/assets/icon.svg" alt="" width="28" height="28" /> ELIDA</h1>
    <div class="tabs">${tab(false, "Token or key")}${tab(true, "Account")}</div>
    ${isPerson
      ? html`<label>Name <input name="username" required autocomplete="username" autofocus /></label>
          <label>Password <input name="password" type="password" required autocomplete="current-password" /></label>`
      : html`<label>Control token, or a key with a role <input name="token" type="password" required autocomplete="off" autofocus /></label>`}
    <${Fault} fault=${fault} />
    <button class="primary" disabled=${busy}>${busy ? "Checking…" : "Log in"}</button>
  </form></main>`;
}
