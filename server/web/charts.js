// Curves over time by uPlot, in the page's colours, with a line where the clip is and a click that goes there.

import uPlot from "./vendor/uPlot.esm.js";
import { el } from "./dom.js";
import { clock, number } from "./i18n.js";

export const AXIS_WIDTH = 44;
const WHOLE = [1, 2, 5].flatMap((each) => [each, each * 10, each * 100, each * 1000, each * 10_000]).sort((a, b) => a - b);
const TIMES = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400];
const NEAR_THE_END = 0.04;
const FONT = "12px system-ui, sans-serif";
const dark = window.matchMedia("(prefers-color-scheme: dark)");

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const axis = (more) => ({
  stroke: () => colour("--quiet"), font: FONT, ticks: { show: false },
  grid: { stroke: () => colour("--line"), width: 1 }, ...more,
});

/**
 * A chart that is as wide as its place. `series`: {name, colour, values, stepped, dash}; `x`: values of the axis.
 * With `isWhole` the axis counts in whole numbers, with `isTime` in seconds, from a minute on as a clock does; with
 * `seek`, a click calls it with the x it was made at. Returns {node, at(x), update(columns), close()}; `update` shows
 * other values: of the axis, then of each series.
 */
export function chart({ x, series, yRange, xRange, height = 150, digits = 2, isWhole = false, isTime = false, dots = null, seek = null, label }) {
  const place = el("div", { class: "chart", role: "img", "aria-label": label });
  const head = el("div", { class: "playhead", hidden: true });
  const end = Math.max(x.at(-1) ?? 0, xRange?.[1] ?? 0);
  const isClock = isTime && end >= 60;
  const atClock = (each) => (end - each < NEAR_THE_END * end ? "" : clock(each));  // there it would be cut off
  const plain = (each) => number(each, Number.isInteger(each) ? 0 : 1);
  const options = (width) => ({
    width, height, legend: { show: false }, padding: [8, 8, 0, 0],
    cursor: { drag: { x: false, y: false, setScale: false }, y: false, points: { show: false } },
    scales: { x: { time: false, range: xRange ? () => xRange : undefined }, y: yRange ? { range: () => yRange } : {} },
    axes: [
      axis({ size: 26, incrs: isTime ? TIMES : isWhole ? WHOLE : undefined, values: (_, splits) => splits.map(isClock ? atClock : plain) }),
      axis({ size: AXIS_WIDTH, values: (_, splits) => splits.map((each) => number(each, digits)) }),
    ],
    series: [{}, ...series.map((each) => ({
      label: each.name, stroke: () => colour(each.colour), width: 2, dash: each.dash, spanGaps: false,
      points: { show: dots ?? (x.length < 30 && !each.stepped), size: 6 }, paths: each.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
    }))],
  });
  const data = [x, ...series.map((each) => each.values)];
  let plot = null;
  let now = null;

  function at(value) {
    now = value;
    if (plot === null || value === null) return;
    const left = plot.valToPos(value, "x");
    head.hidden = !(left >= 0 && left <= plot.over.clientWidth);
    head.style.transform = `translateX(${left}px)`;
  }
  function draw() {
    plot?.destroy();
    plot = new uPlot(options(Math.max(200, place.clientWidth)), data, place);
    plot.over.append(head);
    if (seek) plot.over.addEventListener("click", (event) => seek(plot.posToVal(event.offsetX, "x")));
    plot.root.classList.toggle("seekable", Boolean(seek));
    at(now);
  }
  const observer = new ResizeObserver(() => {
    if (plot === null) draw();
    else if (place.clientWidth && place.clientWidth !== plot.width) {
      plot.setSize({ width: place.clientWidth, height });
      at(now);
    }
  });
  observer.observe(place);
  const redraw = () => plot?.redraw(false);
  dark.addEventListener("change", redraw);
  return {
    node: place,
    at,
    update(columns) {
      data.splice(0, data.length, ...columns);
      plot?.setData(data);
    },
    close() {
      observer.disconnect();
      dark.removeEventListener("change", redraw);
      plot?.destroy();
    },
  };
}

/** What the lines of a chart are: their colour and their name. */
export const legend = (series) =>
  el("ul", { class: "legend" }, series.map((each) =>
    el("li", {}, el("span", { class: `swatch ${each.colour.slice(2)}${each.dash ? " dashed" : ""}`, "aria-hidden": "true" }), each.name)));
