// A question before something that cannot be undone, and what became of it.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.mjs";

/** A modal dialog; Escape closes it. */
export function Dialog({ title, close, children, wide }) {
  const box = useRef(null);
  useLayoutEffect(() => {
    const dialog = box.current;
    const before = document.activeElement;
    dialog.showModal();
    dialog.querySelector("[data-first]")?.focus();
    return () => {
      dialog.close();
      before?.focus?.();
    };
  }, []);
  const cancel = (event) => {
    event.preventDefault();
    close();
  };
  return html`<dialog ref=${box} class=${wide ? "wide" : ""} aria-label=${title} onCancel=${cancel}>
    <h2>${title}</h2>
    ${children}
  </dialog>`;
}

/** Why something was refused, and what the API says about it. */
export function Fault({ fault }) {
  if (!fault) return null;
  return html`<p class="fault" role="alert"><b>${fault.status === 0 ? "Not sent" : `Refused (${fault.status}${fault.code ? `, ${fault.code}` : ""})`}</b> ${fault.message}</p>`;
}

/**
 * Asks once, sends, and shows a refusal; `done` gets the answer.
 * @param {{title: string, verb: string, act: (values: object) => Promise<any>, done: (answer: any) => void, close: () => void}} props
 */
export function Ask({ title, verb, act, done, close, children, danger = true }) {
  const [sent, setSent] = useState(false);
  const [fault, setFault] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    if (sent) return;
    setSent(true);
    setFault(null);
    try {
      const answer = await act(Object.fromEntries(new FormData(event.target)));
      close();
      done(answer);
    } catch (refused) {
      setFault(refused);
      setSent(false);
    }
  };
  return html`<${Dialog} title=${title} close=${close}>
    <form onSubmit=${submit}>
      ${children}
      <${Fault} fault=${fault} />
      <div class="buttons">
        <button type="button" onClick=${close}>Cancel</button>
        <button type="submit" data-first class=${danger ? "danger" : "primary"} disabled=${sent}>${sent ? "Sending…" : verb}</button>
      </div>
    </form>
  </${Dialog}>`;
}

let announce = () => {};

/** Shows a sentence at the foot of the page, with a link or a button if there is one. */
export const tell = (text, more = null) => announce({ text, more, at: Date.now() });

export function Notice() {
  const [notice, set] = useState(null);
  useEffect(() => {
    announce = set;
    return () => {
      announce = () => {};
    };
  }, []);
  useEffect(() => {
    if (!notice) return undefined;
    const timer = setTimeout(() => set(null), 20000);
    return () => clearTimeout(timer);
  }, [notice]);
  return html`<div class="notice" role="status">${
    notice && html`<div><span>${notice.text}</span> ${notice.more}<button class="plain" aria-label="Dismiss" onClick=${() => set(null)}>✕</button></div>`
  }</div>`;
}
