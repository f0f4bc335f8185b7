// Charts over time: lines, and stacked bars. uPlot is loaded when the first chart is drawn, so it does not delay the page.
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

/** Sums of each line and those below it, the highest first, so that lower bars are drawn over higher ones. */
function stacked(lines) {
  const sums = lines.map((line, at) => line.values.map((_, when) => lines.slice(0, at + 1).reduce((sum, below) => sum + (below.values[when] ?? 0), 0)));
  return lines.map((line, at) => ({ ...line, own: line.values, values: sums[at] })).reverse();
}

/**
 * @param {{at: number[], lines: {label: string, colour: string, values: (number|null)[]}[], label: string, height?: number, span?: number, stack?: boolean}} props
 *   `at` in seconds since 1970; `span` is how many seconds are shown, up to the last point, if not all; colours are names of properties of the style sheet;
 *   `stack` draws bars, each line on the one before
 */
export function Chart({ at, lines: given, label, height = 104, span, stack = false }) {
  const lines = stack ? stacked(given) : given;
  const names = lines.map((line) => line.label).join("\n");
  const box = useRef(null);
  const chart = useRef(null);
  const data = [at, ...lines.map((line) => line.values)];
  const latest = useRef({ data, lines });
  latest.current = { data, lines };
  useEffect(() => {
    let gone = false;
    const draw = (Plot) => {
      if (gone) return;
      chart.current?.destroy();
      const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      chart.current = new Plot({
        width: Math.max(box.current.clientWidth, 100), height, cursor: { y: false }, legend: { show: true, live: true },
        axes: [{ ...axis, space: 70, size: 26, values: (_, ticks, __, ___, step) => ticks.map((tick) => moment(tick, step)) }, { ...axis, size: 44, values: (_, ticks) => ticks.map((tick) => (tick >= 1000 ? `${tick / 1000}k` : tick)) }],
        scales: { ...(span && { x: { range: (_, __, last) => [last - span, last] } }), y: { range: (_, low, high) => [0, (stack ? high || 1 : Math.max(high ?? 1, 1)) * 1.1] } },
        series: [{}, ...latest.current.lines.map((line) => ({
          label: line.label, stroke: colour(line.colour), width: stack ? 0 : 1.5, fill: stack ? colour(line.colour) : `${colour(line.colour)}22`, points: { show: false },
          ...(stack && { paths: Plot.paths.bars({ size: [0.8, 48] }) }),
          value: (_, value, series, index) => {
            const own = stack ? latest.current.lines[series - 1].own[index] : value;
            return own == null ? "–" : Math.round(own * 10000) / 10000;
          },
        }))],
      }, latest.current.data, box.current);
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
  }, [names, height]);
  useEffect(() => {
    chart.current?.setData(latest.current.data);
  });
  return html`<div class="chart" ref=${box} role="img" aria-label=${label}></div>`;
}
