// Reports of the clip by the service, and the end of everything that is kept of it.

import { ServiceError, ask, askJson, events } from "./api.js";
import { showProblem } from "./analyse.js";
import { forgetTalk } from "./chat.js";
import { forgetCorrections } from "./correct.js";
import { announce, download, el } from "./dom.js";
import { t } from "./i18n.js";

const FORMATS = ["html", "pdf", "csv", "srt", "vtt"];
const KEPT_SECONDS = 3600;
const STORED = "emollama.stored";  // ids of analyses that the service keeps for this tab

const stored = () => JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
const made = new Map();  // id of the answer on the page -> id of the analysis that the service keeps

export function reportPart({ analysis, file }) {
  const format = el("select", { id: "report-format" }, FORMATS.map((name) => el("option", { value: name }, t(`report.${name}`))));
  const button = el("button", { type: "submit" }, t("report.make"));
  const said = el("p", { class: "status", role: "status" });
  const problem = el("div", { class: "problem", role: "alert", hidden: true });

  async function make(event) {
    event.preventDefault();
    button.disabled = true;
    problem.hidden = true;
    try {
      if (!made.has(analysis.id)) made.set(analysis.id, await analysed(file, analysis, (status) => { said.textContent = t("report.working", { status }); }));
      const id = made.get(analysis.id);
      const response = await ask(`v1/analyses/${id}/report?format=${format.value}`);
      download(await response.blob(), `${file.name.replace(/\.[^.]*$/, "")}.${format.value}`);
      said.textContent = t("report.done");
    } catch (error) {
      said.textContent = "";
      if (error.code === "analysis_not_found") made.delete(analysis.id);
      showProblem(error, problem);
    } finally {
      button.disabled = false;
    }
  }
  const node = el("section", { class: "card", "aria-labelledby": "report-title" },
    el("h2", { id: "report-title" }, t("report.title")), el("p", { class: "quiet" }, t("report.about")),
    el("form", { class: "ask", onsubmit: make }, el("label", { class: "field" }, el("span", {}, t("report.as")), format), button), said, problem);
  return { node };
}

async function analysed(file, analysis, tell) {
  const body = new FormData();
  body.append("file", file, file.name);
  body.append("model", analysis.adapter ?? analysis.model);
  body.append("labels", Object.keys(analysis.emotion.scores).join(","));
  body.append("retention_seconds", String(KEPT_SECONDS));
  if (analysis.transcript?.source === "given") body.append("transcript", analysis.transcript.text);
  const { id, status } = await askJson("v1/analyses", { method: "POST", body });
  sessionStorage.setItem(STORED, JSON.stringify([...stored(), id]));
  tell(t(`jobs.status_${status}`));
  for await (const { data, isLast } of events(await ask(`v1/analyses/${id}/events`))) {
    if (isLast) break;
    tell(t(`jobs.status_${data.status}`));
  }
  return id;
}

export function deletePart({ clear }) {
  const all = el("input", { type: "checkbox", id: "delete-owner" });
  const owner = el("input", { type: "text", id: "owner", value: "local", maxLength: 64, autocomplete: "off" });
  const field = el("label", { class: "field", hidden: true }, el("span", {}, t("delete.owner_name")), owner);
  const problem = el("div", { class: "problem", role: "alert", hidden: true });
  const button = el("button", { type: "button", class: "danger", id: "delete", onclick: remove }, t("delete.everything"));
  all.addEventListener("change", () => { field.hidden = !all.checked; });

  async function remove() {
    button.disabled = true;
    problem.hidden = true;
    try {
      for (const id of stored()) {
        await ask(`v1/analyses/${id}`, { method: "DELETE" }).catch((error) => {
          if (!(error instanceof ServiceError) || error.code !== "analysis_not_found") throw error;  // its time was over
        });
      }
      if (all.checked) await ask(`v1/owners/${encodeURIComponent(owner.value.trim())}`, { method: "DELETE" });
    } catch (error) {
      showProblem(error, problem);
      return;
    } finally {
      button.disabled = false;
    }
    sessionStorage.removeItem(STORED);
    made.clear();
    forgetCorrections();
    forgetTalk();
    clear();
    announce(t("delete.done"));
  }
  const node = el("section", { class: "card whole", "aria-labelledby": "delete-title" },
    el("h2", { id: "delete-title" }, t("delete.title")), el("p", { class: "quiet" }, t("delete.about")),
    el("label", { class: "check" }, all, el("span", {}, t("delete.owner"))), field, el("div", { class: "row" }, button), problem);
  return { node };
}
