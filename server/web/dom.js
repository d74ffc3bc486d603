// Elements without markup in strings: what the service or a person wrote is always text here, never HTML.

export const byId = (id) => document.getElementById(id);

/** Make an element. `props`: properties, "on..." listeners, `class`, `data` (an object), or attributes with a dash. */
export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name === "class") made.className = value;
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "scope" || name === "list") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function announce(text) {
  byId("status").textContent = text;
}

/** Hand a blob to the browser's downloads. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A table with a caption for who cannot see a chart. `head`: column names; `rows`: lists of texts or elements.
 * Stacked, a row's cells stand below each other on a phone. */
export function table(caption, head, rows, { isStacked = false } = {}) {
  const cells = (row) => row.map((cell, index) => (index ? el("td", {}, cell) : el("th", { scope: "row" }, cell)));
  return el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
    el("table", { class: isStacked ? "stack" : undefined },
      el("caption", { class: "visually-hidden" }, caption),
      el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, cells(row))))));
}
