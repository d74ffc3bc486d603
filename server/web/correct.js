// Corrections: what a person says against a reading. They stay in this tab and leave it as lines of a training manifest.

import { download, el } from "./dom.js";
import { labelName, t } from "./i18n.js";

const STORED = "emollama.corrections";

const read = () => JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
export const forgetCorrections = () => sessionStorage.removeItem(STORED);

/** A line of the manifest (docs/data.md): the clip's name, what a person says, and what the model had said. */
function sample(analysis, label, transcript) {
  const line = { id: analysis.id, clip: analysis.clip };
  if (transcript) line.transcript = transcript;
  if (transcript && analysis.transcript?.language) line.language = analysis.transcript.language;
  line.label = label;
  line.meta = { source: "correction", model: analysis.adapter ?? analysis.model, read_as: analysis.emotion.label };
  return line;
}

export function correctPart({ analysis }) {
  const old = read().find((each) => each.id === analysis.id);
  const names = Object.keys(analysis.emotion.scores);
  const label = el("input", {
    id: "correct-label", type: "text", required: true, maxLength: 40, autocomplete: "off", list: "correct-labels",
    value: old?.label ?? analysis.emotion.label ?? "",
  });
  const words = el("textarea", { id: "correct-words", rows: 2, maxLength: 20000, value: old?.transcript ?? analysis.transcript?.text ?? "" });
  const said = el("p", { class: "status", role: "status" });
  const out = el("button", { type: "button", id: "correct-export", onclick: save });

  function count() {
    out.textContent = t("correct.export", { number: read().length });
    out.disabled = !read().length;
  }
  function keep(event) {
    event.preventDefault();
    const given = label.value.trim();
    if (!given) return;
    const others = read().filter((each) => each.id !== analysis.id);
    sessionStorage.setItem(STORED, JSON.stringify([...others, sample(analysis, given, words.value.trim())]));
    said.textContent = t("correct.kept", { name: analysis.clip, label: labelName(given) });
    count();
  }
  function save() {
    const lines = read().map((each) => `${JSON.stringify(each)}\n`);
    download(new Blob(lines, { type: "application/jsonl" }), "manifest.jsonl");
  }
  count();
  const node = el("section", { class: "card", "aria-labelledby": "correct-title" },
    el("h2", { id: "correct-title" }, t("correct.title")), el("p", { class: "quiet" }, t("correct.about")),
    el("form", { class: "fields", onsubmit: keep },
      el("label", { class: "field whole" }, el("span", {}, t("correct.label")), label),
      el("datalist", { id: "correct-labels" }, names.map((name) => el("option", { value: name }, labelName(name)))),
      el("label", { class: "field whole" }, el("span", {}, t("correct.transcript")), words),
      el("div", { class: "row whole" }, el("button", { type: "submit" }, t("correct.keep")), out)),
    said, el("p", { class: "quiet small" }, t("correct.export_about")));
  return { node };
}
