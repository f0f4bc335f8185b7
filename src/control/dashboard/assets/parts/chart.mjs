// A line chart over time. uPlot is loaded when the first chart is drawn, so it does not delay the page.
import { html, useEffect, useRef } from "./html.mjs";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const moment = (tick, step) => (step >= 86400 ? new Date(1000 * tick).toLocaleDateString("sv").slice(5) : new Date(1000 * tick).toLocaleTimeString("sv").slice(0, 5));

let loading = null;
function load() {
  loading ??= import("../vendor/uplot.mjs").then((module) => {
    const style = document.createElement("link");
    Object.assign(style, { rel: "stylesheet", href: "/assets/vendor/uplot.css" });
    document.head.append(style);
    return module.default;
  });
  return loading;
}

/**
 * @param {{at: number[], lines: {label: string, colour: string, values: (number|null)[]}[], label: string, height?: number, span?: number}} props
 *   `at` in seconds since 1970; `span` is how many seconds are shown, up to the last point, if not all; colours are names of properties of the style sheet
 */
export function Chart({ at, lines, label, height = 104, span }) {
  const box = useRef(null);
  const chart = useRef(null);
  const data = [at, ...lines.map((line) => line.values)];
  const latest = useRef(data);
  latest.current = data;
  useEffect(() => {
    let gone = false;
    const draw = (Plot) => {
      if (gone) return;
      chart.current?.destroy();
      const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      chart.current = new Plot({
        width: Math.max(box.current.clientWidth, 100), height, cursor: { y: false }, legend: { show: true, live: true },
        axes: [{ ...axis, space: 70, size: 26, values: (_, ticks, __, ___, step) => ticks.map((tick) => moment(tick, step)) }, { ...axis, size: 44, values: (_, ticks) => ticks.map((tick) => (tick >= 1000 ? `${tick / 1000}k` : tick)) }],
        scales: { ...(span && { x: { range: (_, __, last) => [last - span, last] } }), y: { range: (_, low, high) => [0, Math.max(high ?? 1, 1) * 1.1] } },
        series: [{}, ...lines.map((line) => ({
          label: line.label, stroke: colour(line.colour), width: 1.5, fill: `${colour(line.colour)}22`, points: { show: false },
          value: (_, value) => (value == null ? "–" : Math.round(value * 100) / 100),
        }))],
      }, latest.current, box.current);
    };
    load().then(draw);
    const size = new ResizeObserver(() => box.current && chart.current?.setSize({ width: Math.max(box.current.clientWidth, 100), height }));
    size.observe(box.current);
    const again = () => load().then(draw);
    addEventListener("elida-theme", again);
    return () => {
      gone = true;
      size.disconnect();
      removeEventListener("elida-theme", again);
      chart.current?.destroy();
      chart.current = null;
    };
  }, [lines.length, height]);
  useEffect(() => {
    chart.current?.setData(latest.current);
  });
  return html`<div class="chart" ref=${box} role="img" aria-label=${label}></div>`;
}
