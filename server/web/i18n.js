// The page's words: one file a language in messages/. A key that a language lacks is shown in English.

const LANGUAGES = ["en", "de"];
const STORED = "emollama.language";
let english = {};
let chosen = {};
let language = "en";

export const currentLanguage = () => language;

/** The text of a key, with `{name}` filled in. */
export function t(key, values = {}) {
  const text = chosen[key] ?? english[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

export const has = (key) => key in english;

/** An emotion's name, "happiness", as people say it; a label of the caller's own stays as it is. */
export const labelName = (label) => (has(`label.${label}`) ? t(`label.${label}`) : label);

/** "appears happy": what a label says about someone, in words that claim no more. */
export const appears = (label) => (has(`appears.${label}`) ? t(`appears.${label}`) : t("appears.other", { label }));

export const number = (value, digits = 2) =>
  new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
const wholePercent = (value) => new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 0 }).format(value);
/** A probability; one that is small but not nothing is not shown as nothing. */
export const percent = (value) => (value > 0 && value < 0.005 ? `<\u2009${wholePercent(0.01)}` : wholePercent(value));
export const seconds = (value) => t("unit.seconds", { value: number(value, 1) });

/** A time of a minute and more as a clock says it: 12:40, 1:02:03. */
export function clock(value) {
  const all = Math.floor(value);
  const two = (part) => String(part).padStart(2, "0");
  const [hours, minutes] = [Math.floor(all / 3600), Math.floor(all / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(all % 60)}` : `${minutes}:${two(all % 60)}`;
}
/** A time or a length: 12.5 s, 5 min, 12:40. */
export function length(value) {
  if (value < 60) return seconds(value);
  if (value % 60) return clock(value);
  return value % 3600 ? t("unit.minutes", { value: value / 60 }) : t("unit.hours", { value: value / 3600 });
}
export const span = (start, end) =>
  (end >= 60 ? `${clock(start)}–${clock(end)}` : t("unit.span", { start: number(start, 1), end: number(end, 1) }));
export const when = (unix) =>
  new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(unix * 1000));

async function load(name) {
  const response = await fetch(new URL(`messages/${name}.json`, import.meta.url));
  return response.json();
}

/** Load the texts of the language that was chosen before, or that the browser asks for. */
export async function start() {
  english = await load("en");
  const wanted = localStorage.getItem(STORED) ?? navigator.language.slice(0, 2);
  await use(LANGUAGES.includes(wanted) ? wanted : "en");
}

/** Switch, fill the page's texts and tell the views, which draw themselves anew. */
export async function use(name) {
  chosen = name === "en" ? english : await load(name);
  language = name;
  document.documentElement.lang = name;
  fill(document);
  document.dispatchEvent(new CustomEvent("languagechanged"));
}

export function remember(name) {
  localStorage.setItem(STORED, name);
}

function fill(root) {
  for (const each of root.querySelectorAll("[data-text]")) each.textContent = t(each.dataset.text);
  for (const each of root.querySelectorAll("[data-label]")) each.setAttribute("aria-label", t(each.dataset.label));
  for (const each of root.querySelectorAll("[data-placeholder]")) each.placeholder = t(each.dataset.placeholder);
}
