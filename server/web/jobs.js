// Fine-tuning: a data set goes in, is checked, and a job is followed until its adapter can be tried.

import { ask, askJson, events, post } from "./api.js";
import { chart, legend } from "./charts.js";
import { announce, byId, el, table } from "./dom.js";
import { number, t, when } from "./i18n.js";
import { tryModel } from "./models.js";
import { problemPlace, showProblem } from "./problem.js";

const ACTIONS = {
  validating_files: ["cancel"], queued: ["pause", "cancel"], running: ["pause", "cancel"], paused: ["resume", "cancel"],
  succeeded: [], failed: [], cancelled: [],
};
const ENDED = ["succeeded", "failed", "cancelled"];
const LOOK_MS = 2000;
let open = null;  // the job that is shown: its curve's points by step and whether some are new, the events that were seen, ...

export async function showJobs() {
  leave();
  const problem = problemPlace();
  const list = el("section", { class: "card", "aria-labelledby": "jobs-list" });
  const detail = el("div", { id: "job" });
  const places = { problem, list, detail };
  byId("jobs").replaceChildren(form(places), problem, list, detail);
  await drawList(places);
}

function form({ problem, ...places }) {
  const file = el("input", { type: "file", id: "job-file", required: true, accept: ".jsonl,.zip,.tar,.gz,.tgz" });
  const suffix = el("input", { type: "text", id: "job-suffix", maxLength: 64, pattern: "[A-Za-z0-9._\\-]*", autocomplete: "off" });
  const epochs = el("input", { type: "number", id: "job-epochs", min: 1, max: 50, placeholder: t("jobs.auto") });
  const button = el("button", { type: "submit", class: "primary" }, t("jobs.start"));
  const said = el("p", { class: "status", role: "status" });

  async function start(event) {
    event.preventDefault();
    problem.hidden = true;
    button.disabled = true;
    try {
      said.textContent = t("jobs.uploading");
      const body = new FormData();
      body.append("file", file.files[0], file.files[0].name);
      body.append("purpose", "fine-tune");
      const uploaded = await askJson("v1/files", { method: "POST", body });
      said.textContent = t("jobs.checking");
      // A job starts from a model, never from an adapter.
      const base = (await askJson("v1/models")).data.find((each) => each.parent === null);
      const request = { model: base.id, training_file: uploaded.id };
      if (suffix.value.trim()) request.suffix = suffix.value.trim();
      if (epochs.value) request.method = { type: "supervised", supervised: { hyperparameters: { n_epochs: Number(epochs.value) } } };
      const job = await (await post("v1/fine_tuning/jobs", request)).json();
      said.textContent = t("jobs.started");
      await drawList({ problem, ...places });
      show(job, { problem, ...places });
    } catch (error) {
      said.textContent = "";
      showProblem(error, problem);
    } finally {
      button.disabled = false;
    }
  }
  return el("section", { class: "card", "aria-labelledby": "jobs-new" },
    el("h2", { id: "jobs-new" }, t("jobs.new")),
    el("form", { class: "fields", onsubmit: start },
      el("label", { class: "field whole" }, el("span", {}, t("jobs.file")), file),
      el("p", { class: "quiet small whole" }, t("jobs.file_about")),
      el("label", { class: "field" }, el("span", {}, t("jobs.suffix")), suffix),
      el("label", { class: "field" }, el("span", {}, t("jobs.epochs")), epochs),
      el("div", { class: "row whole" }, button, said)));
}

async function drawList(places) {
  const { list, problem } = places;
  try {
    const { data } = await askJson("v1/fine_tuning/jobs?limit=20");
    const rows = data.map((job) => [job.user_provided_suffix || job.id, t(`jobs.status_${job.status}`), when(job.created_at),
      el("button", { type: "button", "aria-label": `${t("jobs.open")}: ${job.user_provided_suffix || job.id}`, onclick: () => show(job, places) }, t("jobs.open"))]);
    list.replaceChildren(el("h2", { id: "jobs-list" }, t("jobs.list")), rows.length
      ? table(t("jobs.list"), [t("jobs.name"), t("jobs.status"), t("jobs.created"), t("models.actions")], rows, { isStacked: true })
      : el("p", { class: "quiet" }, t("jobs.none")));
  } catch (error) {
    list.replaceChildren(el("h2", { id: "jobs-list" }, t("jobs.list")));
    showProblem(error, problem);
  }
}

function leave() {
  open?.stop.abort();
  open?.drawn?.close();
  open = null;
}

/** Show a job and follow it by its events until it has ended or another is shown. */
async function show(job, places) {
  leave();
  const mine = (open = { id: job.id, stop: new AbortController(), status: job.status, isNew: false, isFollowed: false, shown: null, drawn: null, points: new Map(), seen: new Set() });
  const state = el("p", { class: "status", role: "status", id: "job-status" });
  const actions = el("div", { class: "row" });
  const curve = el("div", { id: "job-curve" });
  const log = el("ol", { class: "log", tabIndex: 0, lang: "en", "aria-label": t("jobs.events") });
  const wrong = problemPlace();
  places.detail.replaceChildren(el("section", { class: "card", "aria-labelledby": "job-title" },
    el("h2", { id: "job-title", tabIndex: -1 }, job.user_provided_suffix || job.id), state, actions, wrong, curve,
    el("h3", {}, t("jobs.events")), log));
  byId("job-title").focus();

  function draw(now) {
    const shown = `${now.status} ${now.fine_tuned_model}`;
    if (now.status !== mine.status) drawList(places);  // which tells the same
    mine.status = now.status;
    state.textContent = t(`jobs.status_${now.status}`);
    if (now.error?.message) showProblem(now.error, wrong);
    if (shown === mine.shown) return;
    mine.shown = shown;
    const hadFocus = actions.contains(document.activeElement);
    actions.replaceChildren(...ACTIONS[now.status].map((name) => el("button", { type: "button", onclick: () => act(name) }, t(`jobs.${name}`))));
    if (now.fine_tuned_model) {
      actions.append(el("button", { type: "button", class: "primary", onclick: () => tryModel(now.fine_tuned_model) }, t("jobs.try")));
    }
    if (hadFocus) (actions.querySelector("button") ?? byId("job-title")).focus();
  }
  async function act(name) {
    try {
      draw(await (await ask(`v1/fine_tuning/jobs/${job.id}/${name}`, { method: "POST" })).json());
      if (name === "resume") follow();
    } catch (error) {
      showProblem(error, wrong);
    }
  }
  draw(job);
  const stopLooking = () => clearInterval(look);
  const look = setInterval(async () => {
    try {
      draw(await askJson(`v1/fine_tuning/jobs/${job.id}`, { signal: mine.stop.signal }));
      if (mine.isNew) drawCurve(mine, curve);
      mine.isNew = false;
      if (mine.status !== "paused") follow();
    } catch (error) {
      if (error.name !== "AbortError") showProblem(error, wrong);
    }
  }, LOOK_MS);
  mine.stop.signal.addEventListener("abort", stopLooking);

  /** Take the job's events; their stream ends with the job, and when it pauses. */
  async function follow() {
    if (mine.isFollowed) return;
    mine.isFollowed = true;
    try {
      const response = await ask(`v1/fine_tuning/jobs/${job.id}/events?stream=true`, { signal: mine.stop.signal });
      for await (const { data, isLast } of events(response)) {
        if (isLast) break;
        if (mine.seen.has(data.id)) continue;  // each stream tells them all
        mine.seen.add(data.id);
        log.prepend(el("li", {}, `${when(data.created_at)} · ${data.message}`));
        if (data.type === "metrics" && Number.isFinite(data.data?.step)) {
          mine.points.set(data.data.step, { ...mine.points.get(data.data.step), ...data.data });
          mine.isNew = true;
        }
      }
      const end = await askJson(`v1/fine_tuning/jobs/${job.id}`, { signal: mine.stop.signal });
      draw(end);
      drawCurve(mine, curve);
      if (ENDED.includes(end.status)) {
        stopLooking();
        announce(t(`jobs.status_${end.status}`));
      }
    } catch (error) {
      stopLooking();
      if (error.name !== "AbortError") showProblem(error, wrong);
    } finally {
      mine.isFollowed = false;
    }
  }
  await follow();
}

function drawCurve(mine, place) {
  const points = [...mine.points.values()].sort((a, b) => a.step - b.step);
  if (!points.length) return;
  mine.drawn?.close();
  const lines = [
    { name: t("jobs.train_loss"), colour: "--accent", values: points.map((each) => each.train_loss ?? undefined) },
    { name: t("jobs.valid_loss"), colour: "--second", dash: [5, 4], values: points.map((each) => each.valid_loss ?? undefined) },
  ].filter((line) => line.values.some(Number.isFinite));
  mine.drawn = chart({ x: points.map((each) => each.step), series: lines, height: 220, isWhole: true, label: t("jobs.loss_chart") });
  const shown = (value) => (Number.isFinite(value) ? number(value, 3) : "–");
  const isOpen = place.querySelector("details")?.open ?? false;
  place.replaceChildren(el("h3", {}, t("jobs.loss")), mine.drawn.node, legend(lines),
    el("details", { open: isOpen }, el("summary", {}, t("timeline.as_table")), table(t("jobs.loss"),
      [t("jobs.step"), t("jobs.train_loss"), t("jobs.valid_loss")],
      points.map((each) => [String(each.step), shown(each.train_loss), shown(each.valid_loss)]))));
}
