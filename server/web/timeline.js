// The expressions of each face over time: a ribbon of moments to jump to, a chart below it, and both as a table.

import { AXIS_WIDTH, chart, legend } from "./charts.js";
import { el, table } from "./dom.js";
import { labelName, number, percent, span, t } from "./i18n.js";

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
  return {
    node: el("div", { class: "faces" }, rows.map((each) => each.node)),
    at: (time) => rows.forEach((each) => each.at(time)),
    close: () => rows.forEach((each) => each.close()),
  };
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
  const ribbon = el("div", { class: "ribbon" }, buttons);
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
    x, series: series.map((each, at) => ({ ...each, values: values[at], stepped: true })), seek,
    xRange: [0, length], yRange: mode === "scores" ? [0, 1] : [-1, 1], digits: 1,
    label: t(mode === "scores" ? "timeline.chart_scores" : "timeline.chart_affect", { face: name }),
  });
  const columns = [t("timeline.time"), t("timeline.expression"), t("timeline.score"), t("timeline.valence"), t("timeline.arousal")];
  const cells = segments.map((each) => [
    span(each.start, each.end), labelName(each.label), percent(each.scores[each.label] ?? 0), number(each.valence), number(each.arousal),
  ]);
  const node = el("section", { class: "face", "aria-label": name },
    el("h3", {}, name, face.is_main ? el("span", { class: "tag" }, t("face.main")) : null,
      el("span", { class: "quiet small" }, t("face.share", { share: percent(face.share) }))),
    ribbon, drawn.node, legend(series),
    el("details", {}, el("summary", {}, t("timeline.as_table")), table(t("timeline.table", { face: name }), columns, cells)));
  return {
    node,
    at(time) {
      drawn.at(time);
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
