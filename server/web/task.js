// A clip that is too long to wait for: sent to /v1/analyses, followed, cancelled, and found again when the page is loaded anew.

import { ServiceError, ask, askJson, errorIn, events, headersOf } from "./api.js";
import { keep } from "./keep.js";
import { service } from "./service.js";

const STORED = "emollama.task";
const PATIENCE_MS = 5000;

export const remembered = () => JSON.parse(sessionStorage.getItem(STORED) ?? "null");
const remember = (task) => sessionStorage.setItem(STORED, JSON.stringify(task));
export const forgetTask = () => sessionStorage.removeItem(STORED);

/** Whether the service takes a clip in the background alone. */
export async function isLong(file) {
  const { max_seconds: most, max_mebibytes: size } = service();
  return file.size > size * 2 ** 20 || (await secondsOf(file)) > most;
}

/** Whether it takes longer ones there than at once. */
export const takesLong = () => service().long_max_seconds > service().max_seconds;

/** How long a clip is, as far as the browser can tell; 0 where it cannot. */
function secondsOf(file) {
  if (!/^(video|audio)\//.test(file.type)) return Promise.resolve(0);
  return new Promise((resolve) => {
    const url = URL.createObjectURL(file);
    const probe = document.createElement("video");
    const tell = () => {
      clearTimeout(timer);
      resolve(Number.isFinite(probe.duration) ? probe.duration : 0);
      probe.removeAttribute("src");
      URL.revokeObjectURL(url);
    };
    const timer = setTimeout(tell, PATIENCE_MS);
    probe.preload = "metadata";
    probe.onloadedmetadata = probe.onerror = tell;
    probe.src = url;
  });
}

/** Send a clip; `sent(part)` is told how much of it has left. Returns the analysis as it was taken on. */
export function begin(file, body, { signal, sent }) {
  body.append("retention_seconds", String(service().kept_seconds));
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();  // fetch does not tell how much has been sent
    request.open("POST", new URL("v1/analyses", document.baseURI));
    for (const [name, value] of Object.entries(headersOf())) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => sent(total ? loaded / total : 0);
    request.onload = () => {
      if (request.status >= 400) {
        reject(errorIn(request.responseText, request.status, request.getResponseHeader("Retry-After")));
        return;
      }
      const task = JSON.parse(request.responseText);
      keep(task.id);
      remember({ id: task.id, name: file.name, size: file.size });
      resolve(task);
    };
    request.onerror = () => reject(new TypeError("network"));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

/** Follow an analysis to its result; `tell` gets it whenever it gets further. */
export async function follow(id, tell) {
  for await (const { data, isLast } of events(await ask(`v1/analyses/${id}/events`))) {
    if (isLast) break;
    tell(data);
  }
  const end = await askJson(`v1/analyses/${id}`);
  if (end.status === "cancelled") throw new DOMException("cancelled", "AbortError");
  if (end.status === "failed") throw new ServiceError(end.error);
  if (end.result === null) throw new ServiceError({ message: `${end.status}`, code: "analysis_unfinished" });
  return end.result;
}

export const cancel = (id) => ask(`v1/analyses/${id}/cancel`, { method: "POST" });
