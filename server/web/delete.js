// The end of everything that is kept of the clip, and on request of all that the service keeps of an owner.

import { askJson } from "./api.js";
import { forgetTalk } from "./chat.js";
import { forgetCorrections } from "./correct.js";
import { announce, byId, el } from "./dom.js";
import { t } from "./i18n.js";
import { deleteKept } from "./keep.js";
import { problemPlace, showProblem } from "./problem.js";
import { forgetTask } from "./task.js";

const COUNTED = ["analyses", "files", "jobs", "adapters", "chat_clips"];

export function deletePart({ clear }) {
  const all = el("input", { type: "checkbox", id: "delete-owner" });
  const owner = el("input", { type: "text", id: "owner", value: "local", maxLength: 64, autocomplete: "off" });
  const field = el("label", { class: "field", hidden: true }, el("span", {}, t("delete.owner_name")), owner);
  const problem = problemPlace();
  const button = el("button", { type: "button", class: "danger", id: "delete", onclick: remove }, t("delete.everything"));
  all.addEventListener("change", () => { field.hidden = !all.checked; });

  async function remove() {
    const name = owner.value.trim();
    if (all.checked && !window.confirm(t("delete.confirm", { name }))) return;
    button.disabled = true;
    problem.hidden = true;
    let proof = null;
    try {
      await deleteKept();
      if (all.checked) proof = await askJson(`v1/owners/${encodeURIComponent(name)}`, { method: "DELETE" });
      await forgetTalk();
    } catch (error) {
      showProblem(error, problem);
      return;
    } finally {
      button.disabled = false;
    }
    forgetCorrections();
    forgetTask();
    clear();
    said(proof);
  }
  const node = el("section", { class: "card whole", "aria-labelledby": "delete-title" },
    el("h2", { id: "delete-title" }, t("delete.title")), el("p", { class: "quiet" }, t("delete.about")),
    el("label", { class: "check" }, all, el("span", {}, t("delete.owner"))), field, el("div", { class: "row" }, button), problem);
  return { node };
}

/** Say that it is done, and with an owner what was erased, and under which number. */
function said(proof) {
  const place = byId("done");
  const counts = proof && COUNTED.map((name) => `${t(`delete.${name}`)}: ${proof.erased[name] ?? 0}`).join(", ");
  place.replaceChildren(...[
    el("strong", {}, t("delete.done")), proof ? el("p", {}, t("delete.proof", { id: proof.id, counts })) : null,
  ].filter(Boolean));
  place.hidden = false;
  announce(t("delete.done"));
}
