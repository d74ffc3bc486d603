// How the page asks the service: the key, errors as the service words them, and server-sent events.

const KEY = "emollama.key";

export const getKey = () => sessionStorage.getItem(KEY) ?? "";
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What the service answered with instead: `code` for programs (none where the page itself
 * says so), `message` for people, maybe `problems` of a data set. */
export class ServiceError extends Error {
  constructor({ message, code, param = null, problems = [] }, status = 0, retryAfter = null) {
    super(message);
    Object.assign(this, { code, param, problems: problems ?? [], status, retryAfter });
  }
}

const DECLARED = "emollama.declared";
const PURPOSE_HEADER = "EmoLLaMA-Purpose";
const CONSENT_HEADER = "EmoLLaMA-Consent";

/** What the visitor said their requests are for: {purpose, consent}, each empty where nothing was said. */
export const declared = () => JSON.parse(sessionStorage.getItem(DECLARED) ?? "{}");
export const declare = (said) => {
  if (said.purpose || said.consent) sessionStorage.setItem(DECLARED, JSON.stringify(said));
  else sessionStorage.removeItem(DECLARED);
};

/** The headers that go with a request: the key, and what was declared. */
export function headersOf({ isUndeclared = false } = {}) {
  const { purpose, consent } = isUndeclared ? {} : declared();
  const all = { Authorization: getKey() && `Bearer ${getKey()}`, [PURPOSE_HEADER]: purpose, [CONSENT_HEADER]: consent };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value));
}

/** Ask; the answer is a Response that is not an error. Paths are relative to the page, so that a proxy's prefix holds. */
export async function ask(path, { headers = {}, isUndeclared, ...options } = {}) {
  const response = await fetch(new URL(path, document.baseURI), {
    ...options,
    headers: { ...headers, ...headersOf({ isUndeclared }) },
  });
  if (!response.ok) throw await errorOf(response);
  return response;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

export const post = (path, body, options = {}) =>
  ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, ...options });

const errorOf = async (response) => errorIn(await response.text(), response.status, response.headers.get("Retry-After"));

/** The error in an answer's body; one that is not the service's own (a proxy's) has its status alone. */
export function errorIn(body, status, retryAfter) {
  const seconds = Number(retryAfter) || null;
  try {
    return new ServiceError(JSON.parse(body).error, status, seconds);
  } catch {
    return new ServiceError({ message: `HTTP ${status}`, code: "unknown" }, status, seconds);
  }
}

/** Yield {name, data} of a stream of server-sent events; an event "error", or data with an error, is thrown. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parse(block);
      if (event === null) continue;
      if (event.data?.error?.message) throw new ServiceError(event.data.error);
      yield event;
    }
  }
}

function parse(block) {
  let name = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  if (!data.length) return null;  // a comment: the service says that it is still there
  const text = data.join("\n");
  return { name, data: text === "[DONE]" ? null : JSON.parse(text), isLast: text === "[DONE]" };
}
