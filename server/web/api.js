// How the page asks the service: the key, errors as the service words them, and server-sent events.

const KEY = "emollama.key";

export const getKey = () => sessionStorage.getItem(KEY) ?? "";
export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What the service answered with instead: `code` for programs, `message` for people, maybe `problems` of a data set. */
export class ServiceError extends Error {
  constructor({ message, code = "unknown", param = null, problems = [] }, status = 0) {
    super(message);
    Object.assign(this, { code, param, problems: problems ?? [], status });
  }
}

/** Ask; the answer is a Response that is not an error. Paths are relative to the page, so that a proxy's prefix holds. */
export async function ask(path, { headers = {}, ...options } = {}) {
  const key = getKey();
  const response = await fetch(new URL(path, document.baseURI), {
    ...options,
    headers: key ? { ...headers, Authorization: `Bearer ${key}` } : headers,
  });
  if (!response.ok) throw await errorOf(response);
  return response;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

export const post = (path, body, options = {}) =>
  ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, ...options });

async function errorOf(response) {
  try {
    return new ServiceError((await response.json()).error, response.status);
  } catch {
    return new ServiceError({ message: `${response.status} ${response.statusText}` }, response.status);
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
