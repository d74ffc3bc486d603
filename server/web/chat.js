// Questions about the clip, in the dialect of OpenAI's clients. The clip goes out once; after that its uuid names it.

import { ServiceError, ask as request, events, post } from "./api.js";
import { el } from "./dom.js";
import { length, t } from "./i18n.js";
import { problemPlace, showProblem } from "./problem.js";
import { service } from "./service.js";

let talk = null;  // {analysis, messages, uuid, isHeld}: kept when the page is drawn anew in another language

export function chatPart({ analysis, file }) {
  if (file === null || analysis.windows) {
    return { node: el("section", { class: "card whole", "aria-labelledby": "chat-title" },
      el("h2", { id: "chat-title" }, t("chat.title")), el("p", { class: "quiet" }, t("chat.long", { length: length(service().max_seconds) }))) };
  }
  if (talk?.analysis !== analysis.id) talk = { analysis: analysis.id, messages: [], uuid: randomName(), isHeld: false };
  const mine = talk;
  const list = el("ol", { class: "talk", "aria-live": "polite", "aria-label": t("chat.title") });
  const field = el("input", { id: "question", type: "text", placeholder: t("chat.hint"), autocomplete: "off", maxLength: 2000 });
  const send = el("button", { type: "submit", class: "primary" }, t("chat.send"));
  const problem = problemPlace();
  let stop = null;

  const bubble = ({ role, content }) => {
    const text = el("span", role === "user" ? {} : { lang: "en", class: "said" }, content);
    list.append(el("li", { class: role === "user" ? "you" : "it" },
      el("span", { class: "visually-hidden" }, `${t(role === "user" ? "chat.you" : "chat.answer")}: `), text));
    return text;
  };
  mine.messages.forEach(bubble);

  async function ask(event) {
    event.preventDefault();
    const question = field.value.trim();
    if (!question || stop) return;
    problem.hidden = true;
    send.disabled = true;
    stop = new AbortController();
    const asked = { role: "user", content: question };
    mine.messages.push(asked);
    bubble(asked);
    field.value = "";
    const text = bubble({ role: "assistant", content: "" });
    let answer = "";
    try {
      const response = await opened(mine, file, analysis, stop.signal);
      for await (const { data, isLast } of events(response)) {
        if (isLast) break;
        answer += data.choices?.[0]?.delta?.content ?? "";
        text.textContent = answer;
      }
      mine.isHeld = true;
      mine.messages.push({ role: "assistant", content: answer });
    } catch (error) {
      mine.messages.pop();
      text.closest("li").remove();
      if (error.name !== "AbortError") showProblem(error, problem);
    } finally {
      stop = null;
      send.disabled = false;
      field.focus();
    }
  }

  const node = el("section", { class: "card whole", "aria-labelledby": "chat-title" },
    el("h2", { id: "chat-title" }, t("chat.title")), el("p", { class: "quiet" }, t("chat.about", { length: length(service().chat_seconds) })), list, problem,
    el("form", { class: "ask", onsubmit: ask }, el("label", { class: "field" }, el("span", {}, t("chat.question")), field), send));
  return { node, close: () => stop?.abort() };
}

/** Forget the conversation, here and what the service holds of the clip for it. */
export async function forgetTalk() {
  if (talk?.isHeld) await request(`v1/chat/clips/${talk.uuid}`, { method: "DELETE" });
  talk = null;
}

/** Ask, with the clip itself when the service does not hold it (any more). */
async function opened(talk, file, analysis, signal) {
  const body = async (isHeld) => ({
    model: analysis.adapter ?? analysis.model, stream: true,
    messages: [
      { role: "user", content: [await clipPart(talk, file, isHeld), { type: "text", text: talk.messages[0].content }] },
      ...talk.messages.slice(1),
    ],
  });
  try {
    return await post("v1/chat/completions", await body(talk.isHeld), { signal });
  } catch (error) {
    if (!(error instanceof ServiceError) || error.code !== "clip_not_cached") throw error;
    talk.isHeld = false;
    return post("v1/chat/completions", await body(false), { signal });
  }
}

async function clipPart(talk, file, isHeld) {
  const kind = { audio: "audio_url", image: "image_url" }[file.type.split("/")[0]] ?? "video_url";
  return { type: kind, [kind]: isHeld ? null : { url: await dataUrl(file) }, uuid: talk.uuid };
}

const dataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(`data:${file.type || "video/mp4"};base64,${reader.result.split(",", 2)[1]}`);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

// crypto.randomUUID is only there on https and on this machine.
const randomName = () => [...crypto.getRandomValues(new Uint8Array(16))].map((each) => each.toString(16).padStart(2, "0")).join("");
