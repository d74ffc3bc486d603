// Reports of the clip, made by the service from an analysis that it keeps.

import { ask, askJson, events } from "./api.js";
import { download, el } from "./dom.js";
import { t } from "./i18n.js";
import { belongs, keep, keptOf } from "./keep.js";
import { problemPlace, showProblem } from "./problem.js";
import { service } from "./service.js";

const FORMATS = ["html", "pdf", "csv", "srt", "vtt"];
const VOICES = ["keep", "change", "mute"];

export function reportPart({ analysis, file, name }) {
  const format = el("select", { id: "report-format" }, [...FORMATS, ...(isVideo(file) ? ["video"] : [])].map((each) => el("option", { value: each }, t(`report.${each}`))));
  const marks = el("input", { type: "checkbox", id: "report-marks", checked: true });
  const blur = el("input", { type: "checkbox", id: "report-blur" });
  const voice = el("select", { id: "report-voice" }, VOICES.map((each) => el("option", { value: each }, t(`report.voice_${each}`))));
  const options = el("div", { class: "fields", hidden: true },
    el("label", { class: "check whole" }, marks, el("span", {}, t("report.marks"))), el("label", { class: "check whole" }, blur, el("span", {}, t("report.blur"))),
    el("label", { class: "field whole" }, el("span", {}, t("report.voice")), voice), el("p", { class: "quiet small whole" }, t("report.blur_about")));
  format.addEventListener("change", () => { options.hidden = format.value !== "video"; });
  const button = el("button", { type: "submit" }, t("report.make"));
  const said = el("p", { class: "status", role: "status" });
  const problem = problemPlace();

  const stem = name.replace(/\.[^.]*$/, "");

  function order() {
    const body = new FormData();
    body.append("file", file, file.name);
    body.append("marks", String(marks.checked));
    body.append("blur", String(blur.checked));
    body.append("voice", voice.value);
    if (keptOf(analysis.id)) body.append("analysis_id", keptOf(analysis.id));
    else if (marks.checked) body.append("model", analysis.adapter ?? analysis.model);
    return body;
  }
  async function make(event) {
    event.preventDefault();
    button.disabled = true;
    problem.hidden = true;
    try {
      if (format.value === "video") {
        said.textContent = t("report.writing");
        download(await (await ask("v1/reports/video", { method: "POST", body: order() })).blob(), `${stem}.report.mp4`);
        said.textContent = t("report.done");
        return;
      }
      if (!keptOf(analysis.id)) belongs(analysis.id, await analysed(file, analysis, (status) => { said.textContent = t("report.working", { status }); }));
      const response = await ask(`v1/analyses/${keptOf(analysis.id)}/report?format=${format.value}`);
      download(await response.blob(), `${stem}.${format.value}`);
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
    el("form", { class: "ask", onsubmit: make }, el("label", { class: "field" }, el("span", {}, t("report.as")), format), button), options, said, problem);
  return { node };
}

const isVideo = (file) => file?.type.startsWith("video/") ?? false;

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
