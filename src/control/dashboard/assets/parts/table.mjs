// A table of which only the rows that are seen are drawn, so that 10,000 rows scroll like ten.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.mjs";

const ROW = 34;
const AROUND = 8;

/** Compares what columns are sorted by; what is absent comes last. */
function compare(a, b) {
  if (a === b) return 0;
  if (a == null) return 1;
  if (b == null) return -1;
  return a < b ? -1 : 1;
}

/** Sorts rows by a column (`-name` for the largest first); rows that are equal keep an order of their own. */
export function sorted(rows, columns, sort, key) {
  const down = sort.startsWith("-");
  const column = columns.find((one) => one.name === sort.replace(/^-/, ""));
  if (!column) return rows;
  const value = column.sort ?? ((row) => row[column.name]);
  const keyed = rows.map((row) => [value(row), row]);
  keyed.sort((a, b) => (down ? compare(b[0] ?? -Infinity, a[0] ?? -Infinity) : compare(a[0], b[0])) || compare(key(a[1]), key(b[1])));
  return keyed.map(([, row]) => row);
}

function Head({ columns, sort, setSort }) {
  const cell = ({ name, label, numeric, hint, fixed, className }) => {
    const isSorted = Boolean(sort) && sort.replace(/^-/, "") === name;
    const down = isSorted && sort.startsWith("-");
    const turn = () => setSort(isSorted ? (down ? name : `-${name}`) : numeric ? `-${name}` : name);
    const order = isSorted ? (down ? "descending" : "ascending") : "none";
    if (!setSort || fixed) return html`<th scope="col" class=${numeric ? "n" : className === "act" ? "act" : ""} title=${hint}>${label}</th>`;
    return html`<th scope="col" class=${numeric ? "n" : ""} aria-sort=${order} title=${hint}>
      <button class="sort" onClick=${turn}>${label}<i aria-hidden="true">${isSorted ? (down ? "▾" : "▴") : ""}</i></button></th>`;
  };
  return html`<thead><tr>${columns.map(cell)}</tr></thead>`;
}

/**
 * @param {{rows: any[], columns: any[], rowKey: (row: any) => string, label: string, empty: any, sort?: string,
 *   setSort?: (sort: string) => void, selected?: string, rowClass?: (row: any) => string}} props
 */
export function Table({ rows, columns, rowKey, label, empty, sort, setSort, selected, rowClass }) {
  const box = useRef(null);
  const [view, setView] = useState({ top: 0, height: 900 });
  useLayoutEffect(() => {
    const element = box.current;
    const look = () => setView((old) => {
      const top = Math.floor(element.scrollTop / ROW / AROUND) * AROUND;
      return old.top === top && old.height === element.clientHeight ? old : { top, height: element.clientHeight };
    });
    look();
    element.addEventListener("scroll", look, { passive: true });
    const size = new ResizeObserver(look);
    size.observe(element);
    return () => {
      element.removeEventListener("scroll", look);
      size.disconnect();
    };
  }, []);
  const at = selected ? rows.findIndex((row) => rowKey(row) === selected) : -1;
  useEffect(() => {
    if (at < 0) return;
    const element = box.current;
    const [top, foot] = [at * ROW, (at + 2) * ROW];
    if (top < element.scrollTop) element.scrollTop = top;
    else if (foot > element.scrollTop + element.clientHeight - ROW) element.scrollTop = foot - element.clientHeight + ROW;
  }, [selected]);
  const first = Math.max(0, Math.min(view.top - AROUND, rows.length - 1));
  const last = Math.min(rows.length, view.top + Math.ceil(view.height / ROW) + 2 * AROUND);
  const gap = (count) => count > 0 && html`<tr class="gap" aria-hidden="true"><td colspan=${columns.length} style=${{ height: `${count * ROW}px` }}></td></tr>`;
  const draw = (row, index) => {
    const key = rowKey(row);
    const classes = `${rowClass?.(row) ?? ""} ${key === selected ? "selected" : ""}`;
    return html`<tr key=${key} class=${classes} aria-rowindex=${first + index + 2} aria-selected=${selected === undefined ? undefined : key === selected}>
      ${columns.map((column) => html`<td class=${column.numeric ? "n" : column.className ?? ""}>${column.cell(row)}</td>`)}
    </tr>`;
  };
  return html`<div class="rows" ref=${box} tabindex="0" role="region" aria-label=${label}>
    <table aria-rowcount=${rows.length + 1}>
      <${Head} columns=${columns} sort=${sort} setSort=${setSort} />
      <tbody>${gap(first)}${rows.slice(first, last).map(draw)}${gap(rows.length - last)}</tbody>
    </table>
    ${rows.length === 0 && html`<div class="empty">${empty}</div>`}
  </div>`;
}

/** A small table: every row is drawn. */
export function Plain({ rows, columns, rowKey, empty, label }) {
  if (rows.length === 0) return html`<div class="empty">${empty}</div>`;
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${label}><table>
    <${Head} columns=${columns} />
    <tbody>${rows.map((row, at) => html`<tr key=${rowKey?.(row) ?? at}>${
      columns.map((column) => html`<td class=${column.numeric ? "n" : column.className ?? ""}>${column.cell(row)}</td>`)
    }</tr>`)}</tbody>
  </table></div>`;
}
