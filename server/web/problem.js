// What went wrong, in plain words with what is allowed, and below it what the service said.

import { byId, el } from "./dom.js";
import { has, length, t } from "./i18n.js";
import { service } from "./service.js";

const WANT_A_KEY = ["missing_api_key", "invalid_api_key"];

/** The sentence of an error's code, or null where there is none. */
function plainly({ code, retryAfter }) {
  const key = `problem.${code}`;
  if (!has(key)) return null;
  const { max_seconds: short, long_max_seconds: long, long_max_mebibytes: size } = service();
  const words = t(key, { short: length(short ?? 0), length: length(long ?? 0), size: size ?? "" });
  return retryAfter ? `${words} ${t("problem.come_back", { time: length(retryAfter) })}` : words;
}

/** Show an error in `place`, which is an alert. What the page itself says has no code. */
export function showProblem(error, place = byId("problem")) {
  const plain = plainly(error);
  const own = error.code === undefined;
  place.replaceChildren(...[
    el("strong", {}, t("problem.title")),
    plain ? el("p", {}, plain) : null,
    el("p", own ? {} : { lang: "en", class: plain ? "quiet small" : "" }, error.message),
    WANT_A_KEY.includes(error.code) ? el("button", { type: "button", onclick: () => byId("open-key").click() }, t("key.open")) : null,
    error.problems?.length ? el("ul", { lang: "en" }, error.problems.map((each) =>
      el("li", {}, [each.file, each.line && `line ${each.line}`, each.field].filter(Boolean).join(", "), ": ", each.message,
        each.remedy ? ` ${each.remedy}` : ""))) : null,
  ].filter(Boolean));
  place.hidden = false;
}

export const problemPlace = () => el("div", { class: "problem", role: "alert", hidden: true });
