// Numbers, times and texts as people read them. Ages are counted from the server's clock.

let skew = 0;

/** Learns the server's time from the `Date` of an answer. */
export function learnTime(date) {
  const at = Date.parse(date);
  // The header has whole seconds, so small differences say nothing.
  if (!Number.isNaN(at) && Math.abs(at + 500 - Date.now() - skew) > 1500) skew = at + 500 - Date.now();
}

/** Milliseconds since 1970, by the server's clock. */
export const serverNow = () => Date.now() + skew;

/** A length of time in milliseconds: `4 s`, `3 m 20 s`, `2 h 5 m`. */
export function age(ms) {
  if (ms == null || Number.isNaN(ms)) return "–";
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** A short length of time: `850 ms`, `2.4 s`, then as {@link age}. */
export function took(ms) {
  if (ms == null) return "–";
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 10000 ? `${(ms / 1000).toFixed(1)} s` : age(ms);
}

const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** A count in at most four characters: `12.3 k`. */
export function count(n) {
  if (n == null) return "–";
  for (const [size, unit] of units) if (n >= size) return `${(n / size).toFixed(n < 10 * size ? 1 : 0)} ${unit}`;
  return String(Math.round(n));
}

/** A count with all its digits. */
export const exact = (n) => (n == null ? "–" : Math.round(n).toLocaleString("en"));

/** US dollars, with as many digits as matter. */
export function usd(n) {
  if (n == null) return "–";
  if (n === 0) return "$0";
  if (n < 0.0001) return "< $0.0001";
  return `$${n < 1 ? n.toFixed(4) : n.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

/** A time of day in the viewer's zone, with the day if it is another one. */
export function clock(text) {
  if (!text) return "–";
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return String(text);
  const time = at.toLocaleTimeString([], { hour12: false });
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString("sv")} ${time}`;
}

/** All tokens of a session or record. */
export function tokens(usage) {
  if (!usage) return 0;
  return usage.input_tokens + usage.output_tokens + usage.cache_read_tokens + usage.cache_write_tokens;
}

/** The name with the highest count of an object, and how many others there are. */
export function most(counts) {
  const names = Object.entries(counts ?? {}).sort((a, b) => b[1] - a[1]);
  if (names.length === 0) return "–";
  return names.length === 1 ? names[0][0] : `${names[0][0]} +${names.length - 1}`;
}

// Marks that turn the direction of text, and other marks that are not seen, would let a name look like another one.
const unseen = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** Text of an agent on one line: unseen marks are shown, and it is cut. */
export function plain(text, most = 200) {
  const seen = String(text ?? "").replace(unseen, "\u00b7");
  return seen.length > most ? `${seen.slice(0, most)}…` : seen;
}

/** A name of the API in words: `timed_out` is `timed out`. */
export const words = (name) => String(name ?? "–").replaceAll("_", " ");

/** What a rule has found in a session: `no-rm (block), 3 times`. */
export const flagged = ({ rule, action, count: times }) => `${plain(rule, 80)} (${words(action)})${times > 1 ? `, ${exact(times)} times` : ""}`;
