// The first view: a clip is chosen, sent and shown, stage by stage; a long one in the background, with its progress.

import { ServiceError, ask, askJson, events } from "./api.js";
import { announce, byId, el } from "./dom.js";
import { labelName, length, number, percent, seconds, t } from "./i18n.js";
import { belongs } from "./keep.js";
import { showProblem } from "./problem.js";
import { setUpRecorder } from "./record.js";
import { ResultView } from "./result.js";
import { service } from "./service.js";
import { begin, cancel, follow, forgetTask, isLong, remembered, takesLong } from "./task.js";

const STEPS = ["sent", "decoded", "faces", "label", "rationale", "done"];
const LONG_STEPS = ["sent", "queued", "windows", "whole", "done"];
let file = null;
let url = null;
let view = null;
let analysis = null;
let running = null;  // {stop}: what the button does
let steps = {};
let order = STEPS;
let extras = [];
let parts = [];

/** Each of `made` is called for an analysis: `({analysis, file, name, view, clear})` returns {node, close?}. */
export function setUpAnalyse(made) {
  parts = made;
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
    analyse();
  });
  byId("stop").addEventListener("click", () => running?.stop());
  document.addEventListener("languagechanged", () => {
    showChosen();
    drawSteps();
    if (analysis) {
      view.update({});
      addParts();
    }
  });
  showChosen();
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
  if (chosen && select.value) byId("options").open = true;
}

function choose(given) {
  if (!given) return;
  file = given;
  showChosen();
  byId("problem").hidden = byId("done").hidden = true;
  byId("analyse").focus();
}

function showChosen() {
  const place = byId("chosen");
  place.hidden = file === null;
  if (file) place.textContent = t("intake.chosen", { name: file.name, size: number(file.size / 2 ** 20, 1) });
  const { max_seconds: short, long_max_seconds: long } = service();
  byId("limits").textContent = t("intake.limits", { short: length(short), long: length(long) });
}

async function analyse() {
  if (file === null) {
    showProblem({ message: t("intake.missing") });
    byId("file").focus();
    return;
  }
  if (!byId("consent").checkValidity()) {
    byId("trust-fields").open = true;
    byId("consent").reportValidity();
    return;
  }
  await work(read);
}

/** Read the chosen clip at once, or in the background where it is too long for that. */
async function read(signal) {
  if (await isLong(file)) return readLong(signal);
  try {
    return await readNow(signal);
  } catch (error) {
    // The browser could not tell how long the clip is (many .mkv and .avi); the service could.
    if (error.code !== "media_limit_exceeded" || !takesLong()) throw error;
    clearResult();
    steps = {};
    return readLong(signal);
  }
}

/** Go on with the long clip of this tab that the page, loaded anew, finds at the service. */
export async function resumeTask() {
  const task = remembered();
  if (task === null) return;
  await work(() => followLong(task.id, task.name), { isNew: false });
}

/** Do what gives an analysis, with its progress, its end and what may go wrong. */
async function work(read, { isNew = true } = {}) {
  clearResult();
  if (isNew) forgetTask();
  byId("problem").hidden = byId("done").hidden = true;
  const aborter = new AbortController();
  running = { stop: () => aborter.abort() };
  byId("stop").hidden = false;
  byId("analyse").disabled = true;
  byId("progress").hidden = false;
  steps = {};
  try {
    await read(aborter.signal);
    byId("progress").hidden = true;
    byId("intake").classList.add("compact");
    addParts();
    announce(t("progress.announce_done", { label: analysis.emotion.label === null ? t("result.nothing") : labelName(analysis.emotion.label) }));
    if (document.activeElement === document.body || document.activeElement.closest("#intake")) view.focus();
  } catch (error) {
    byId("progress").hidden = true;
    clearResult();
    if (error.name === "AbortError") {
      byId("done").replaceChildren(el("strong", {}, t("progress.stopped")));
      byId("done").hidden = false;
    } else if (error.code === "analysis_not_found") showProblem({ message: t("task.gone"), code: error.code });
    else if (error instanceof ServiceError) showProblem(error);
    else if (error instanceof TypeError) showProblem({ message: t("problem.unreachable", { reason: error.message }) });
    else throw error;
    forgetTask();
  } finally {
    running = null;
    byId("stop").hidden = true;
    byId("analyse").disabled = false;
    if (analysis === null && document.activeElement === document.body) byId("analyse").focus();
  }
}

async function readNow(signal) {
  order = STEPS;
  step("sent", "active");
  show(file);
  const response = await ask("analyze?stream=true", { method: "POST", body: form(), signal });
  step("sent", "done");
  step("decoded", "active");
  for await (const { name, data } of events(response)) take(name, data);
  if (analysis === null) throw new ServiceError({ message: t("problem.broken") });
}

async function readLong(signal) {
  order = LONG_STEPS;
  step("sent", "active");
  const task = await begin(file, form(), { signal, sent: (part) => step("sent", "active", percent(part)) });
  await followLong(task.id, file.name);
}

async function followLong(id, name) {
  order = LONG_STEPS;
  step("sent", "done");
  running.stop = () => {
    cancel(id).catch((error) => showProblem(error));  // the stream then says that it ended
  };
  const result = await follow(id, ({ status, stage, progress }) => {
    if (status === "queued") return step("queued", "active");
    step("queued", "done");
    if (stage !== "whole") return step("windows", "active", t("task.progress", { part: percent(progress) }));
    step("windows", "done", "");
    step("whole", "active");
  });
  belongs(result.id, id);
  show(file, name);
  finish(result);
}

function show(shown, name = shown.name) {
  url = shown ? URL.createObjectURL(shown) : null;
  view = new ResultView(byId("result"), shown, url, { name, again });
}

/** The clip of a result that was found again, chosen once more so that it can be seen beside it. */
function again(given) {
  const known = analysis;
  closeExtras();
  view.close();
  file = given;
  showChosen();
  show(given);
  analysis = known;
  view.update(known);
  addParts();
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

function finish(data) {
  analysis = data;
  view.update(data);
  for (const each of order) step(each, "done");
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
    finish(data);
  }
}

function step(name, state, said = null) {
  const isNews = steps[name]?.state !== state;
  steps[name] = { state, said: said ?? steps[name]?.said ?? "" };
  if (state === "active" && isNews) announce(t(`step.${name}`));
  drawSteps();
}

function drawSteps() {
  byId("steps").replaceChildren(...order.map((name) => {
    const { state = "", said = "" } = steps[name] ?? {};
    return el("li", { class: state, "aria-current": state === "active" ? "step" : undefined },
      el("span", { class: "mark", "aria-hidden": "true" }, state === "done" ? "✓" : ""), el("span", {}, t(`step.${name}`)),
      said ? el("span", { class: "quiet small" }, said) : null,
      el("span", { class: "visually-hidden" }, state ? t(`state.${state}`) : t("state.waiting")));
  }));
}

function addParts() {
  closeExtras();
  const name = view.name;
  extras = parts.map((make) => make({ analysis, file, name, view, clear: forget }));
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
  byId("intake").classList.remove("compact");
}

/** Forget the clip and what was read of it, here in the browser. */
function forget() {
  clearResult();
  file = null;
  byId("intake").reset();
  showChosen();
  byId("file").focus();
}
