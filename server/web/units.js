// Action units of a face: which muscles seem to move at the moment where the clip is, and all of them as a table.

import { el, table } from "./dom.js";
import { has, percent, span, t } from "./i18n.js";

const SHOWN = 6;
const nameOf = (unit) => (has(`unit.${unit}`) ? t(`unit.${unit}`) : "");

/** Returns {node, at(time)}, or null where the face model reads none. */
export function actionUnits(segments, face) {
  const names = [...new Set(segments.flatMap((each) => Object.keys(each.action_units ?? {})))]
    .sort((a, b) => parseInt(a.slice(2), 10) - parseInt(b.slice(2), 10));
  if (!names.length) return null;
  const list = el("ul", { class: "units" });
  const rows = segments.map((each) => [span(each.start, each.end), ...names.map((name) => percent(each.action_units[name] ?? 0))]);
  let shown = null;
  return {
    node: el("div", { class: "units-of" }, el("h4", {}, t("units.title")), el("p", { class: "quiet small" }, t("units.about")), list,
      el("details", {}, el("summary", {}, t("timeline.as_table")),
        table(t("units.table", { face }), [t("timeline.time"), ...names], rows))),
    at(time) {
      const now = segments.find((each) => each.start <= time && time < each.end) ?? (time >= segments.at(-1).end ? segments.at(-1) : null);
      if (now === shown) return;
      shown = now;
      const strongest = Object.entries(now?.action_units ?? {}).sort((a, b) => b[1] - a[1]).slice(0, SHOWN);
      list.replaceChildren(...strongest.map(([name, value]) => el("li", {}, el("strong", {}, name), ` ${nameOf(name)} `, el("span", { class: "quiet" }, percent(value)))));
    },
  };
}
