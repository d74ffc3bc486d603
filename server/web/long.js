// What is said of a long clip beside its reading as a whole: chapters, where they turn, and each window.

import { el, table } from "./dom.js";
import { labelName, length, percent, span, t } from "./i18n.js";
import { tone } from "./timeline.js";

/** The sections of a long clip; none of a short one. */
export function longSections(analysis, seek) {
  if (!analysis.windows?.length) return [];
  const total = Math.max(analysis.seconds, analysis.windows.at(-1).end, 0.1);
  const chapters = analysis.chapters.map((each) => {
    const name = labelName(each.label);
    const button = el("button", {
      type: "button", class: `segment ${tone(each.label)}`, title: `${name}, ${span(each.start, each.end)}`,
      "aria-label": t("timeline.jump", { label: name, span: span(each.start, each.end) }), onclick: () => seek(each.start),
    }, el("span", {}, name));
    button.style.left = `${(100 * each.start) / total}%`;
    button.style.width = `${(100 * (each.end - each.start)) / total}%`;
    return button;
  });
  const turns = analysis.turning_points.map((each) => el("li", {}, el("button", { type: "button", class: "cue", onclick: () => seek(each.time) },
    el("span", { class: "visually-hidden" }, t("evidence.jump")), el("span", { class: "at" }, length(each.time)),
    el("span", { class: "said" }, t("long.turn", { before: labelName(each.before), after: labelName(each.after) })))));
  const rows = analysis.windows.map((each) => [
    el("button", { type: "button", class: "word", onclick: () => seek(each.start) }, span(each.start, each.end)),
    each.emotion.label === null ? t("result.nothing") : labelName(each.emotion.label),
    each.emotion.label === null ? "–" : percent(each.emotion.confidence),
    each.emotion.abstained ? t("result.abstained") : "",
  ]);
  return [el("section", { class: "card", "aria-labelledby": "long-title" },
    el("h2", { id: "long-title" }, t("long.title")), el("p", { lang: "en" }, analysis.course),
    chapters.length ? el("div", { class: "ribbon", role: "group", "aria-label": t("long.chapters") }, chapters) : null,
    turns.length ? el("div", {}, el("h3", {}, t("long.turns")), el("ul", { class: "cues" }, turns)) : null,
    el("details", {}, el("summary", {}, t("long.windows", { number: rows.length })),
      table(t("long.windows", { number: rows.length }), [t("timeline.time"), t("result.expression"), t("long.confidence"), t("long.note")], rows)))];
}
