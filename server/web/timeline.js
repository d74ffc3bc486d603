// The expressions of each face over time: a ribbon of moments to jump to, a chart below it, and both as a table.

import { AXIS_WIDTH, chart, legend } from "./charts.js";
import { el, table } from "./dom.js";
import { labelName, length as lengthOf, number, percent, span, t } from "./i18n.js";
import { actionUnits } from "./units.js";

const ROWS = 4;  // faces beyond these are folded away
const STEP_SECONDS = 0.1;
const TONES = { neutral: 0, happiness: 1, surprise: 2, sadness: 3, anger: 4, disgust: 5, fear: 6, contempt: 7 };

/** The tint of a label; one of the caller's own gets one by its letters. */
export function tone(label) {
  const hash = [...label].reduce((sum, letter) => sum + letter.codePointAt(0), 0);
  return `tone-${TONES[label] ?? hash % 8}`;
}

/** Returns {node, at(time), close()}. */
export function timeline(analysis, { mode, seek }) {
  const length = Math.max(analysis.seconds, ...analysis.timeline.map((each) => each.end), 0.1);
  const faces = [...analysis.faces].sort((a, b) => Number(b.is_main) - Number(a.is_main) || b.share - a.share);
  const rows = faces
    .map((face) => ({ face, segments: analysis.timeline.filter((each) => each.track === face.track) }))
    .filter((row) => row.segments.length)
    .map(({ face, segments }) => row(face, segments, length, mode, seek));
  const cursor = cursorOver(length, rows, seek);
  const more = rows.slice(ROWS);
  return {
    node: el("div", { class: "faces" }, analysis.seconds > 0 ? cursor.node : null, rows.slice(0, ROWS).map((each) => each.node),
      more.length ? el("details", {}, el("summary", {}, t("timeline.more_faces", { number: more.length })), el("div", { class: "faces" }, more.map((each) => each.node))) : null),
    at: (time) => {
      cursor.at(time);
      rows.forEach((each) => each.at(time));
    },
    close: () => rows.forEach((each) => each.close()),
  };
}

/** The cursor by keyboard or finger: arrow keys go on or back, Home and End to the ends. */
function cursorOver(length, rows, seek) {
  const input = el("input", { type: "range", id: "cursor", min: 0, max: length, step: STEP_SECONDS, value: 0, "aria-label": t("timeline.cursor"), oninput: () => seek(Number(input.value)) });
  const said = el("output", { class: "quiet small", for: "cursor" });
  const node = el("div", { class: "cursor" }, input, said);
  return {
    node,
    at(time) {
      input.value = time;
      const now = rows.map((each) => each.said(time)).filter(Boolean).join("; ");
      said.textContent = now ? `${lengthOf(time)} · ${now}` : lengthOf(time);
      input.setAttribute("aria-valuetext", said.textContent);
    },
  };
}

/** Arrow keys go from one expression to the next; Tab goes past all of them. */
function walk(event, buttons, seek, segments) {
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (to === undefined || at === -1) return;
  event.preventDefault();
  if (!buttons[to]) return;
  buttons.forEach((each, index) => { each.tabIndex = index === to ? 0 : -1; });
  buttons[to].focus();
  seek(segments[to].start);
}

function row(face, segments, length, mode, seek) {
  const buttons = segments.map((segment) => {
    const name = labelName(segment.label);
    const button = el("button", {
      type: "button", class: `segment ${tone(segment.label)}`, title: `${name}, ${span(segment.start, segment.end)}`,
      "aria-label": t("timeline.jump", { label: name, span: span(segment.start, segment.end) }),
      data: { label: segment.label, start: segment.start }, onclick: () => seek(segment.start),
    }, el("span", {}, name));
    button.style.left = `${(100 * segment.start) / length}%`;
    button.style.width = `${(100 * (segment.end - segment.start)) / length}%`;
    return button;
  });
  buttons.slice(1).forEach((each) => { each.tabIndex = -1; });
  const ribbon = el("div", {
    class: "ribbon", role: "toolbar", "aria-label": t("timeline.ribbon", { face: t("face.name", { number: face.track + 1 }) }),
    onkeydown: (event) => walk(event, buttons, seek, segments),
  }, buttons);
  ribbon.style.marginLeft = `${AXIS_WIDTH}px`;
  const series = mode === "scores" ? scores(segments) : affect();
  const x = [];
  const values = series.map(() => []);
  for (const [index, segment] of segments.entries()) {
    const previous = segments[index - 1];
    if (previous && segment.start - previous.end > 0.01) {
      x.push(previous.end);  // the face was lost here: the line ends
      values.forEach((list) => list.push(null));
    }
    x.push(segment.start);
    series.forEach((each, at) => values[at].push(each.of(segment)));
  }
  x.push(segments.at(-1).end);
  series.forEach((each, at) => values[at].push(each.of(segments.at(-1))));
  const name = t("face.name", { number: face.track + 1 });
  const drawn = chart({
    x, series: series.map((each, at) => ({ ...each, values: values[at], stepped: true })), seek, isTime: true,
    xRange: [0, length], yRange: mode === "scores" ? [0, 1] : [-1, 1], digits: 1,
    label: t(mode === "scores" ? "timeline.chart_scores" : "timeline.chart_affect", { face: name }),
  });
  const units = actionUnits(segments, name);
  const columns = [t("timeline.time"), t("timeline.expression"), t("timeline.score"), t("timeline.valence"), t("timeline.arousal")];
  const cells = segments.map((each) => [
    span(each.start, each.end), labelName(each.label), percent(each.scores[each.label] ?? 0), number(each.valence), number(each.arousal),
  ]);
  const node = el("section", { class: "face", "aria-label": name },
    el("h3", {}, name, face.is_main ? el("span", { class: "tag" }, t("face.main")) : null,
      el("span", { class: "quiet small" }, t("face.share", { share: percent(face.share) }))),
    ribbon, drawn.node, legend(series), units?.node ?? null,
    el("details", {}, el("summary", {}, t("timeline.as_table")), table(t("timeline.table", { face: name }), columns, cells)));
  return {
    node,
    said(time) {
      const now = segments.find((each) => each.start <= time && time < each.end);
      return now ? `${name}: ${labelName(now.label)}` : "";
    },
    at(time) {
      drawn.at(time);
      units?.at(time);
      segments.forEach((each, index) => buttons[index].classList.toggle("now", each.start <= time && time < each.end));
    },
    close: drawn.close,
  };
}

const affect = () => [
  { name: t("timeline.valence"), colour: "--accent", of: (segment) => segment.valence },
  { name: t("timeline.arousal"), colour: "--second", dash: [5, 4], of: (segment) => segment.arousal },
];

/** The four expressions that were strongest anywhere. */
function scores(segments) {
  const best = {};
  for (const { scores: each } of segments) {
    for (const [label, value] of Object.entries(each)) best[label] = Math.max(best[label] ?? 0, value);
  }
  const lines = [["--accent"], ["--second", [5, 4]], ["--third", [2, 3]], ["--fourth", [9, 3, 2, 3]]];
  return Object.keys(best).sort((a, b) => best[b] - best[a]).slice(0, 4).map((label, index) => ({
    name: labelName(label), colour: lines[index][0], dash: lines[index][1], of: (segment) => segment.scores[label] ?? 0,
  }));
}
