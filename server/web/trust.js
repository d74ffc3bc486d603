// What the visitor reads clips for, the consent they refer to, and the notice for people who are recorded.

import { ServiceError, askJson, declare, declared } from "./api.js";
import { byId, el } from "./dom.js";
import { currentLanguage, has, t } from "./i18n.js";
import { problemPlace, showProblem } from "./problem.js";

let purposes = null;

export function setUpTrust() {
  const [purpose, consent] = [byId("purpose"), byId("consent")];
  consent.value = declared().consent ?? "";
  const keep = () => {
    declare({ purpose: purpose.value, consent: consent.checkValidity() ? consent.value.trim() : "" });
    purpose.setAttribute("aria-describedby", "purpose-about");
  };
  purpose.addEventListener("change", keep);
  consent.addEventListener("change", keep);
  byId("open-notice").addEventListener("click", showNotice);
  document.addEventListener("languagechanged", draw);
}

/** Ask which purposes there are; without a key there is none to choose yet. */
export async function loadPurposes() {
  try {
    purposes = await askJson("v1/purposes", { isUndeclared: true });
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    purposes = null;
  }
  draw();
}

const meaning = ({ id, meaning: words }) => (has(`purpose.${id}`) ? t(`purpose.${id}`) : words);

function draw() {
  const select = byId("purpose");
  const wanted = select.value || declared().purpose || "";
  const options = (list) => list.map((each) => el("option", { value: each.id }, meaning(each)));
  const all = purposes?.data ?? [];
  const own = all.find((each) => each.id === purposes?.declared);
  const none = own ? t("trust.declared", { purpose: meaning(own) }) : t(purposes?.purpose_required ? "trust.choose" : "trust.unstated");
  const [usable, prohibited] = [all.filter((each) => each.usable), all.filter((each) => each.ground !== null)];
  select.replaceChildren(el("option", { value: "" }, none), ...options(usable),
    ...(prohibited.length ? [el("optgroup", { label: t("trust.prohibited") }, options(prohibited))] : []));
  select.value = [...select.options].some((each) => each.value === wanted) ? wanted : "";
  byId("consent").required = purposes?.consent_required ?? false;
  const opened = purposes?.consent_required || (purposes?.purpose_required && !select.value);
  if (opened) byId("trust-fields").open = true;
}

async function showNotice() {
  const dialog = byId("notice-dialog");
  const problem = problemPlace();
  const body = byId("notice-text");
  body.replaceChildren(problem);
  dialog.showModal();
  try {
    const query = new URLSearchParams({ language: currentLanguage() });
    if (byId("purpose").value) query.set("purpose", byId("purpose").value);
    const notice = await askJson(`v1/notice?${query}`, { isUndeclared: true });
    body.replaceChildren(el("h2", { id: "notice-title" }, notice.title),
      ...notice.sections.flatMap((each) => [el("h3", {}, each.heading), el("p", {}, each.text)]),
      notice.missing.length ? el("p", { class: "abstained" }, t("trust.missing")) : "");
  } catch (error) {
    showProblem(error, problem);
  }
}
