// The models and adapters that requests may name.

import { ask, askJson } from "./api.js";
import { loadModels, showProblem } from "./analyse.js";
import { byId, el, table } from "./dom.js";
import { t, when } from "./i18n.js";

/** Go to the first view with a model chosen. */
export async function tryModel(name) {
  await loadModels(name);
  location.hash = "analyse";
}

export async function showModels() {
  const place = byId("models");
  const problem = el("div", { class: "problem", role: "alert", hidden: true });
  try {
    const { data } = await askJson("v1/models");
    const rows = data.map((each) => [each.id, each.parent ?? t("models.base"), when(each.created), el("span", { class: "row" },
      el("button", { type: "button", onclick: () => tryModel(each.id) }, t("models.use")),
      each.id.startsWith("ft:") ? el("button", { type: "button", class: "danger", onclick: () => remove(each.id, problem) }, t("models.delete")) : null)]);
    place.replaceChildren(el("section", { class: "card" }, table(t("models.title"),
      [t("models.name"), t("models.parent"), t("models.created"), t("models.actions")], rows)), problem);
  } catch (error) {
    place.replaceChildren(problem);
    showProblem(error, problem);
  }
}

async function remove(name, problem) {
  if (!window.confirm(t("models.confirm", { name }))) return;
  try {
    await ask(`v1/models/${encodeURIComponent(name)}`, { method: "DELETE" });
    await showModels();
  } catch (error) {
    showProblem(error, problem);
  }
}
