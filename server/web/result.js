// What an analysis says, beside the clip: label and scores, timeline, evidence, rationale, words, warnings.

import { el, table } from "./dom.js";
import { appears, labelName, number, percent, span, t } from "./i18n.js";
import { longSections } from "./long.js";
import { NoPlayer, Player } from "./player.js";
import { timeline } from "./timeline.js";

const MODALITIES = ["visual", "audio", "text"];

/** Shows parts as they become known; `update` takes the fields of the answer, in whatever stage it is. */
export class ResultView {
  /** Without a file there is no clip to be seen; `again(file)` is told when it is chosen once more. */
  constructor(place, file, url, { name, again }) {
    this.place = place;
    this.name = name;
    this.mode = "affect";
    this.known = { timeline: [], faces: [], warnings: [] };
    this.lines = null;
    const moved = (time) => this.lines?.at(time);
    this.player = file ? new Player(file, url, moved) : new NoPlayer(moved, again);
    const part = (name) => el("div", { class: name, data: { part: name } });
    this.parts = Object.fromEntries(["verdict", "why", "course", "long", "evidence", "words", "notes"].map((name) => [name, part(name)]));
    this.more = el("div", { class: "more" });
    const { verdict, why, course, long, evidence, words, notes } = this.parts;
    place.replaceChildren(
      el("div", { class: "beside" }, el("div", { class: "card seen" }, this.player.node), el("div", { class: "card judged" }, verdict),
        el("div", { class: "card told" }, why, words)),
      notes, long, course, evidence, this.more);
    place.hidden = false;
  }

  update(fields) {
    Object.assign(this.known, fields);
    this.player.faces = this.known.faces;
    this.player.timeline = this.known.timeline;
    this.render();
    this.player.show();
  }

  addRationale(text) {
    this.known.rationale = (this.known.rationale ?? "") + text;
    this.rationale ??= this.parts.why.appendChild(el("p", { class: "rationale" }));
    this.rationale.textContent = this.known.rationale;
  }

  /** Bring the reading into view, also for who reads with the keyboard. */
  focus() {
    const title = this.parts.verdict.querySelector("h2");
    title.tabIndex = -1;
    title.focus({ preventScroll: true });
    this.place.scrollIntoView({ block: "start" });
  }

  seek(time) {
    this.player.seek(time);
    this.player.show();
  }

  close() {
    this.lines?.close();
    this.player.close();
    this.place.replaceChildren();
    this.place.hidden = true;
  }

  render() {
    const known = this.known;
    this.parts.verdict.replaceChildren(...(known.emotion ? verdict(known) : []));
    this.rationale = known.rationale ? el("p", { class: "rationale" }, known.rationale) : null;
    this.parts.why.replaceChildren(...(known.emotion ? [el("h3", {}, t("result.why")), this.rationale].filter(Boolean) : []));
    this.parts.notes.replaceChildren(...notes(known.warnings));
    this.parts.words.replaceChildren(...words(known, (time) => this.seek(time)));
    this.parts.long.replaceChildren(...longSections(known, (time) => this.seek(time)));
    this.parts.evidence.replaceChildren(...(known.evidence ? evidence(known.evidence, (time) => this.seek(time)) : []));
    this.renderTimeline();
  }

  renderTimeline() {
    this.lines?.close();
    this.lines = null;
    if (!this.known.timeline.length) {
      const isOver = Boolean(this.known.modalities);
      this.parts.course.replaceChildren(...(isOver ? [el("p", { class: "card quiet" }, t("timeline.none"))] : []));
      return;
    }
    this.lines = timeline(this.known, { mode: this.mode, seek: (time) => this.seek(time) });
    const choice = (mode) => el("label", {}, el("input", {
      type: "radio", name: "mode", value: mode, checked: mode === this.mode,
      onchange: () => {
        this.mode = mode;
        this.renderTimeline();
        this.parts.course.querySelector("input:checked").focus();
      },
    }), t(`timeline.mode_${mode}`));
    this.parts.course.replaceChildren(el("section", { class: "card", "aria-labelledby": "course-title" },
      el("div", { class: "row between" }, el("h2", { id: "course-title" }, t("timeline.title")),
        el("fieldset", { class: "choice" }, el("legend", { class: "visually-hidden" }, t("timeline.mode")), choice("affect"), choice("scores"))),
      el("p", { class: "quiet" }, t("timeline.about")), this.lines.node));
    this.lines.at(this.player.time);
  }
}

function verdict({ emotion, open_vocabulary: words = [], valence, arousal, model }) {
  if (emotion.label === null) return [el("h2", {}, t("result.nothing")), el("p", {}, t("result.nothing_about"))];
  const others = words.filter((each) => each !== emotion.label);  // of a long clip, the label may be among them
  const rows = Object.entries(emotion.scores).sort((a, b) => b[1] - a[1]).map(([label, score]) => {
    const bar = el("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--part", score.toFixed(4));
    return [labelName(label), el("span", { class: "scored" }, bar, el("span", { class: "percent" }, percent(score)))];
  });
  return [
    el("p", { class: "eyebrow" }, t("result.title")),
    el("h2", { class: "label", id: "label", data: { label: emotion.label } },
      emotion.abstained ? t("result.abstained") : t("result.appears", { how: appears(emotion.label) })),
    emotion.abstained ? el("p", { class: "abstained" }, t("result.abstained_about", { label: labelName(emotion.label) })) : null,
    el("p", { class: "facts" }, el("strong", {}, t("result.confidence", { value: percent(emotion.confidence) })),
      others.length ? ` · ${t("result.others", { labels: others.map(labelName).join(", ") })}` : ""),
    el("p", { class: "quiet small" }, t("result.confidence_short", { number: Math.round(100 * emotion.confidence) })),
    valence === null || valence === undefined ? null
      : el("p", { class: "facts" }, t("result.affect", { valence: number(valence), arousal: number(arousal) })),
    table(t("result.scores"), [t("result.expression"), t("result.probability")], rows),
    el("details", {}, el("summary", {}, t("result.confidence_means")), el("p", {}, t("disclosure.confidence"))),
    model ? el("p", { class: "quiet small" }, t("result.model", { model })) : null,
  ].filter(Boolean);
}

function notes(warnings = []) {
  if (!warnings.length) return [];
  return [el("section", { class: "card warnings", "aria-label": t("result.warnings") },
    el("h2", {}, t("result.warnings")), el("ul", {}, warnings.map((each) => el("li", { lang: "en" }, each))))];
}

function words({ transcript, modalities }, seek) {
  if (!transcript) return modalities ? [el("p", { class: "quiet small" }, t("words.none"))] : [];
  const pieces = transcript.segments.length
    ? transcript.segments.map((each) => el("button", { type: "button", class: "word", title: span(each.start, each.end), onclick: () => seek(each.start) }, each.text))
    : [el("p", {}, transcript.text)];
  return [el("h3", {}, t("words.title")), el("div", { lang: transcript.language ?? "" }, pieces),
    el("p", { class: "quiet small" }, t(`words.${transcript.source}`))];
}

function evidence(all, seek) {
  const list = (modality) => el("div", {}, el("h3", {}, t(`evidence.${modality}`)),
    all[modality].length
      ? el("ul", { class: "cues" }, all[modality].map((each) => el("li", {},
        el("button", { type: "button", class: "cue", data: { start: each.start }, onclick: () => seek(each.start) },
          el("span", { class: "visually-hidden" }, t("evidence.jump")),
          el("span", { class: "at" }, span(each.start, each.end)),
          each.supports ? el("span", { class: "tag" }, labelName(each.supports)) : null,
          el("span", { class: "said", lang: "en" }, each.cue)))))
      : el("p", { class: "quiet" }, t("evidence.none")));
  return [el("section", { class: "card", "aria-labelledby": "evidence-title" },
    el("h2", { id: "evidence-title" }, t("evidence.title")), el("p", { class: "quiet" }, t("evidence.about")),
    el("div", { class: "columns" }, MODALITIES.map(list)))];
}

