// The models and adapters that requests may name.

import { ask, askJson, post } from "./api.js";
import { loadModels } from "./analyse.js";
import { byId, el, table } from "./dom.js";
import { t, when } from "./i18n.js";
import { problemPlace, showProblem } from "./problem.js";
import { service } from "./service.js";

/** Go to the first view with a model chosen. */
export async function tryModel(name) {
  await loadModels(name);
  location.hash = "analyse";
}

export async function showModels() {
  const place = byId("models");
  const problem = problemPlace();
  try {
    const { data } = await askJson("v1/models");
    const rows = data.map((each) => [each.id, each.parent ?? t("models.base"), when(each.created), el("span", { class: "row" },
      el("button", { type: "button", onclick: () => tryModel(each.id) }, t("models.use")),
      each.id.startsWith("ft:") ? el("button", { type: "button", class: "danger", onclick: () => remove(each.id, problem) }, t("models.delete")) : null,
      service().loads_adapters && each.parent !== null && !each.id.startsWith("ft:")
        ? el("button", { type: "button", onclick: () => unload(each.id, problem) }, t("models.unload")) : null)]);
    place.replaceChildren(el("section", { class: "card" }, table(t("models.title"),
      [t("models.name"), t("models.parent"), t("models.created"), t("models.actions")], rows, { isStacked: true })), problem, ...(service().loads_adapters ? [loader(problem)] : []));
  } catch (error) {
    place.replaceChildren(problem);
    showProblem(error, problem);
  }
}

/** The operator's adapters: folders below the service's own root. */
function loader(problem) {
  const name = el("input", { type: "text", id: "adapter-name", required: true, maxLength: 64, autocomplete: "off" });
  const path = el("input", { type: "text", id: "adapter-path", required: true, maxLength: 400, autocomplete: "off", spellcheck: false });
  async function load(event) {
    event.preventDefault();
    problem.hidden = true;
    try {
      await post("v1/load_lora_adapter", { lora_name: name.value.trim(), lora_path: path.value.trim() });
      await Promise.all([showModels(), loadModels()]);
    } catch (error) {
      showProblem(error, problem);
    }
  }
  return el("section", { class: "card", "aria-labelledby": "adapter-title" },
    el("h2", { id: "adapter-title" }, t("models.load_title")), el("p", { class: "quiet" }, t("models.load_about")),
    el("form", { class: "fields", onsubmit: load },
      el("label", { class: "field" }, el("span", {}, t("models.load_name")), name),
      el("label", { class: "field" }, el("span", {}, t("models.load_path")), path),
      el("div", { class: "row whole" }, el("button", { type: "submit" }, t("models.load")))));
}

async function unload(name, problem) {
  try {
    await post("v1/unload_lora_adapter", { lora_name: name });
    await Promise.all([showModels(), loadModels()]);
  } catch (error) {
    showProblem(error, problem);
  }
}

async function remove(name, problem) {
  if (!window.confirm(t("models.confirm", { name }))) return;
  try {
    await ask(`v1/models/${encodeURIComponent(name)}`, { method: "DELETE" });
    await Promise.all([showModels(), loadModels()]);
  } catch (error) {
    showProblem(error, problem);
  }
}
