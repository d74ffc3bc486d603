// The first view: a clip is chosen, sent and shown, stage by stage.

import { ServiceError, ask, askJson, events } from "./api.js";
import { announce, byId, el } from "./dom.js";
import { labelName, percent, seconds, t } from "./i18n.js";
import { setUpRecorder } from "./record.js";
import { ResultView } from "./result.js";

const STEPS = ["sent", "decoded", "faces", "label", "rationale", "done"];
let file = null;
let url = null;
let view = null;
let analysis = null;
let running = null;
let steps = {};
let extras = [];

/** `parts` are made for each analysis: `make({analysis, file, view, clear})` returns {node, close?}. */
export function setUpAnalyse(parts) {
  const input = byId("file");
  input.addEventListener("change", () => choose(input.files[0]));
  const drop = byId("drop");
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    choose(event.dataTransfer.files[0]);
  });
  setUpRecorder(choose);
  byId("intake").addEventListener("submit", (event) => {
    event.preventDefault();
    analyse(parts);
  });
  byId("stop").addEventListener("click", () => running?.abort());
  document.addEventListener("languagechanged", () => {
    showChosen();
    drawSteps();
    if (analysis) {
      view.update({});
      addParts(parts);
    }
  });
}

/** Fill the choice of models; a name in `chosen` is selected. */
export async function loadModels(chosen = null) {
  const select = byId("model");
  const wanted = chosen ?? select.value;
  let names = [];
  try {
    names = (await askJson("v1/models")).data.map((each) => each.id);
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;  // without the scope, the service's own model answers
  }
  select.replaceChildren(el("option", { value: "" }, t("intake.model_own")), ...names.map((name) => el("option", { value: name }, name)));
  select.value = names.includes(wanted) ? wanted : "";
}

export function showProblem(error, place = byId("problem")) {
  const isKey = ["missing_api_key", "invalid_api_key"].includes(error.code);
  place.replaceChildren(...[
    el("strong", {}, t("problem.title")), el("p", { lang: "en" }, error.message),
    isKey ? el("button", { type: "button", onclick: () => byId("open-key").click() }, t("key.open")) : null,
    error.problems?.length ? el("ul", { lang: "en" }, error.problems.map((each) =>
      el("li", {}, [each.file, each.line && `line ${each.line}`, each.field].filter(Boolean).join(", "), ": ", each.message,
        each.remedy ? ` ${each.remedy}` : ""))) : null,
  ].filter(Boolean));
  place.hidden = false;
}

function choose(given) {
  if (!given) return;
  file = given;
  showChosen();
  byId("problem").hidden = true;
  byId("analyse").focus();
}

function showChosen() {
  const place = byId("chosen");
  place.hidden = file === null;
  if (file) place.textContent = t("intake.chosen", { name: file.name, size: (file.size / 2 ** 20).toFixed(1) });
}

async function analyse(parts) {
  if (file === null) {
    showProblem({ message: t("intake.missing") });
    return;
  }
  clearResult();
  byId("problem").hidden = true;
  running = new AbortController();
  byId("stop").hidden = false;
  byId("analyse").disabled = true;
  byId("progress").hidden = false;
  steps = {};
  step("sent", "active");
  url = URL.createObjectURL(file);
  view = new ResultView(byId("result"), file, url);
  try {
    const response = await ask("analyze?stream=true", { method: "POST", body: form(), signal: running.signal });
    step("sent", "done");
    step("decoded", "active");
    for await (const { name, data } of events(response)) take(name, data);
    if (analysis === null) throw new ServiceError({ message: t("problem.broken") });
    byId("progress").hidden = true;
    addParts(parts);
    announce(t("progress.announce_done", { label: analysis.emotion.label === null ? t("result.nothing") : labelName(analysis.emotion.label) }));
  } catch (error) {
    byId("progress").hidden = true;
    if (analysis === null) clearResult();
    if (error.name === "AbortError") announce(t("progress.stopped"));
    else if (error instanceof ServiceError) showProblem(error);
    else if (error instanceof TypeError) showProblem({ message: t("problem.unreachable", { reason: error.message }) });
    else throw error;
  } finally {
    running = null;
    byId("stop").hidden = true;
    byId("analyse").disabled = false;
  }
}

function form() {
  const body = new FormData();
  body.append("file", file, file.name);
  for (const [name, id] of [["transcript", "transcript"], ["labels", "labels"], ["language", "spoken"], ["model", "model"]]) {
    const value = byId(id).value.trim();
    if (value) body.append(name, value);
  }
  return body;
}

function take(name, data) {
  if (name === "decoded") {
    view.update({ seconds: data.seconds, warnings: data.warnings });
    step("decoded", "done", t("progress.decoded", { seconds: seconds(data.seconds), frames: data.num_frames }));
    step("faces", "active");
  } else if (name === "faces") {
    view.update({ faces: data.faces });
    step("faces", "done", t("progress.faces", { number: data.faces.length }));
    step("label", "active");
  } else if (name === "label") {
    view.update(data);
    const { label, confidence } = data.emotion;
    step("label", "done", label === null ? t("result.nothing") : `${labelName(label)}, ${percent(confidence)}`);
    step("rationale", "active");
  } else if (name === "rationale") {
    view.addRationale(data.text);
  } else if (name === "done") {
    analysis = data;
    view.update(data);
    for (const each of STEPS) step(each, "done");
  }
}

function step(name, state, said = null) {
  steps[name] = { state, said: said ?? steps[name]?.said ?? "" };
  if (state === "active") announce(t(`step.${name}`));
  drawSteps();
}

function drawSteps() {
  byId("steps").replaceChildren(...STEPS.map((name) => {
    const { state = "", said = "" } = steps[name] ?? {};
    return el("li", { class: state, "aria-current": state === "active" ? "step" : undefined },
      el("span", { class: "mark", "aria-hidden": "true" }, state === "done" ? "✓" : ""), el("span", {}, t(`step.${name}`)),
      said ? el("span", { class: "quiet small" }, said) : null,
      el("span", { class: "visually-hidden" }, state ? t(`state.${state}`) : t("state.waiting")));
  }));
}

function addParts(parts) {
  closeExtras();
  extras = parts.map((make) => make({ analysis, file, view, clear: forget }));
  view.more.replaceChildren(...extras.map((each) => each.node));
}

function closeExtras() {
  for (const each of extras) each.close?.();
  extras = [];
}

function clearResult() {
  closeExtras();
  view?.close();
  if (url) URL.revokeObjectURL(url);
  view = url = analysis = null;
}

/** Forget the clip and what was read of it, here in the browser. */
function forget() {
  clearResult();
  file = null;
  byId("intake").reset();
  showChosen();
  byId("file").focus();
}
