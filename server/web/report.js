// Reports of the clip, made by the service from an analysis that it keeps.

import { ask, askJson, events } from "./api.js";
import { download, el } from "./dom.js";
import { t } from "./i18n.js";
import { belongs, keep, keptOf } from "./keep.js";
import { problemPlace, showProblem } from "./problem.js";
import { service } from "./service.js";

const FORMATS = ["html", "pdf", "csv", "srt", "vtt"];

export function reportPart({ analysis, file, name }) {
  const format = el("select", { id: "report-format" }, FORMATS.map((each) => el("option", { value: each }, t(`report.${each}`))));
  const button = el("button", { type: "submit" }, t("report.make"));
  const said = el("p", { class: "status", role: "status" });
  const problem = problemPlace();

  async function make(event) {
    event.preventDefault();
    button.disabled = true;
    problem.hidden = true;
    try {
      if (!keptOf(analysis.id)) belongs(analysis.id, await analysed(file, analysis, (status) => { said.textContent = t("report.working", { status }); }));
      const response = await ask(`v1/analyses/${keptOf(analysis.id)}/report?format=${format.value}`);
      download(await response.blob(), `${name.replace(/\.[^.]*$/, "")}.${format.value}`);
      said.textContent = t("report.done");
    } catch (error) {
      said.textContent = "";
      if (error.code === "analysis_not_found" && file) belongs(analysis.id, null);
      showProblem(error, problem);
    } finally {
      button.disabled = false;
    }
  }
  const node = el("section", { class: "card", "aria-labelledby": "report-title" },
    el("h2", { id: "report-title" }, t("report.title")),
    el("p", { class: "quiet" }, t(keptOf(analysis.id) ? "report.about_kept" : "report.about")),
    el("form", { class: "ask", onsubmit: make }, el("label", { class: "field" }, el("span", {}, t("report.as")), format), button), said, problem);
  return { node };
}

async function analysed(file, analysis, tell) {
  const body = new FormData();
  body.append("file", file, file.name);
  body.append("model", analysis.adapter ?? analysis.model);
  body.append("labels", Object.keys(analysis.emotion.scores).join(","));
  body.append("retention_seconds", String(service().kept_seconds));
  if (analysis.transcript?.source === "given") body.append("transcript", analysis.transcript.text);
  const { id, status } = await askJson("v1/analyses", { method: "POST", body });
  keep(id);
  tell(t(`jobs.status_${status}`));
  for await (const { data, isLast } of events(await ask(`v1/analyses/${id}/events`))) {
    if (isLast) break;
    tell(t(`jobs.status_${data.status}`));
  }
  return id;
}
