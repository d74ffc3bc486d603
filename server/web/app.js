// Starts the page: its language, its views, and the key.

import { loadModels, resumeTask, setUpAnalyse } from "./analyse.js";
import { getKey, setKey } from "./api.js";
import { chatPart } from "./chat.js";
import { correctPart } from "./correct.js";
import { deletePart } from "./delete.js";
import { byId } from "./dom.js";
import * as i18n from "./i18n.js";
import { showJobs } from "./jobs.js";
import { showLive } from "./live.js";
import { showModels } from "./models.js";
import { reportPart } from "./report.js";
import { loadService, service } from "./service.js";
import { loadPurposes, setUpTrust } from "./trust.js";

const VIEWS = ["analyse", "live", "jobs", "models"];
const shows = { live: showLive, jobs: showJobs, models: showModels };

function show() {
  const wanted = location.hash.slice(1);
  const name = VIEWS.includes(wanted) ? wanted : "analyse";
  for (const each of VIEWS) {
    byId(`view-${each}`).hidden = each !== name;
    const link = document.querySelector(`nav [data-view=${each}]`);
    if (each === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${i18n.t(`nav.${name}`)} · EmoLLaMA`;
  shows[name]?.();
}

function setUpKey() {
  const dialog = byId("key-dialog");
  byId("open-key").addEventListener("click", () => {
    byId("key").value = getKey();
    byId("key-forget").hidden = !getKey();
    dialog.returnValue = "cancel";
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "save") setKey(byId("key").value.trim());
    else if (dialog.returnValue === "forget") setKey("");
    else return;
    loadModels();
    loadPurposes();
    show();
  });
}

function setUpLanguage() {
  const select = byId("language");
  select.value = i18n.currentLanguage();
  select.addEventListener("change", async () => {
    i18n.remember(select.value);
    await i18n.use(select.value);
    show();
  });
}

await Promise.all([i18n.start(), loadService()]);
byId("open-key").hidden = !service().wants_key;
setUpLanguage();
setUpKey();
setUpTrust();
setUpAnalyse([chatPart, correctPart, reportPart, deletePart]);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
window.addEventListener("hashchange", show);
show();
await Promise.all([loadModels(), loadPurposes()]);
document.body.dataset.ready = "yes";
await resumeTask();
