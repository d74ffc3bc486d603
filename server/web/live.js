// The live view: what camera and microphone show, read while they run. Nothing is kept, here or at the service.

import { ask, ServiceError } from "./api.js";
import { chart, legend } from "./charts.js";
import { announce, byId, el, table } from "./dom.js";
import { appears, labelName, number, percent, seconds, t } from "./i18n.js";
import { LiveFeed } from "./live-feed.js";

const SHOWN_SECONDS = 60;
// A screen reader is told of a label that stayed, and not more often than this.
const STEADY_SECONDS = 1.5;
const SILENCE_SECONDS = 5;
const ROWS_EVERY_SECONDS = 5;
let view = null;

/** Build the view where it is shown for the first time; it ends when another one is shown. */
export function showLive() {
  view ??= new LiveView(byId("live"));
}

window.addEventListener("hashchange", () => {
  if (location.hash !== "#live") view?.stop();
});
document.addEventListener("languagechanged", () => {
  if (view === null) return;
  view.stop();
  view.leave();
  view = byId("view-live").hidden ? null : new LiveView(byId("live"));
});

class LiveView {
  constructor(place) {
    this.place = place;
    this.feed = null;
    this.samples = [];
    this.reading = null;
    this.range = [0, SHOWN_SECONDS];
    this.build();
    this.listDevices();
    this.onDevices = () => this.listDevices();
    navigator.mediaDevices?.addEventListener("devicechange", this.onDevices);
  }

  build() {
    const choose = (id, label) => el("label", { class: "field" }, el("span", {}, label), el("select", { id }));
    this.toggle = el("button", { type: "button", class: "primary", id: "live-toggle", onclick: () => (this.feed ? this.stop() : this.start()) }, t("live.start"));
    this.video = el("video", { muted: true, playsInline: true, id: "live-camera", "aria-label": t("record.preview") });
    this.canvas = el("canvas", { class: "boxes", "aria-hidden": "true" });
    this.idle = el("p", { class: "live-idle" }, t("live.idle"));
    this.problem = el("div", { class: "problem", role: "alert", hidden: true });
    this.verdict = el("div", { class: "live-verdict", id: "live-verdict" }, el("p", { class: "quiet" }, t("live.nothing_yet")));
    this.pace = el("p", { class: "quiet small", id: "live-pace" });
    this.why = el("button", { type: "button", id: "live-why", disabled: true, onclick: () => this.explain() }, t("live.why"));
    this.rationale = el("p", { class: "rationale", id: "live-rationale", lang: "en" });
    this.series = [
      { name: t("timeline.valence"), colour: "--accent", values: [] },
      { name: t("timeline.arousal"), colour: "--second", values: [], dash: [6, 4] },
    ];
    this.chart = chart({ x: [], series: this.series, yRange: [-1, 1], xRange: this.range, digits: 1, dots: false, label: t("live.chart") });
    this.rows = el("div", {});
    this.table = el("details", { ontoggle: () => this.showRows() }, el("summary", {}, t("timeline.as_table")), this.rows);
    this.place.replaceChildren(
      this.problem,
      el("div", { class: "beside" },
        el("section", { class: "card", "aria-label": t("live.picture") },
          el("div", { class: "stage live" }, this.video, this.canvas, this.idle),
          el("div", { class: "fields live-fields" }, choose("live-cameras", t("live.camera")), choose("live-microphones", t("live.microphone"))),
          el("div", { class: "row" }, this.toggle, this.pace)),
        el("section", { class: "card", "aria-labelledby": "live-reading" },
          el("h2", { id: "live-reading", class: "eyebrow" }, t("live.reading")), this.verdict,
          el("div", { class: "row" }, this.why), this.rationale)),
      el("section", { class: "card", "aria-labelledby": "live-course" },
        el("h2", { id: "live-course" }, t("live.minute")), this.chart.node, legend(this.series), this.table));
  }

  async listDevices() {
    const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
    const fill = (id, kind, name, more) => {
      const select = byId(id);
      if (!select) return;
      const before = select.value;
      const found = devices.filter((each) => each.kind === kind && each.deviceId);
      const options = [{ value: "", text: t("live.default") }, ...more,
        ...found.map((each, index) => ({ value: each.deviceId, text: each.label || t(name, { number: index + 1 }) }))];
      select.replaceChildren(...options.map(({ value, text }) => el("option", { value }, text)));
      if (options.some(({ value }) => value === before)) select.value = before;
    };
    fill("live-cameras", "videoinput", "live.camera_number", []);
    fill("live-microphones", "audioinput", "live.microphone_number", [{ value: "none", text: t("live.no_microphone") }]);
  }

  async start() {
    this.problem.hidden = true;
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) return this.tellProblem(t("record.unsupported"));
    this.asked = performance.now();
    this.samples = [];
    this.reading = null;
    this.told = { label: null, since: 0, at: -Infinity };
    this.rationale.textContent = "";
    this.place.dataset.readings = "0";
    delete this.place.dataset.firstMs;
    delete this.place.dataset.firstFaceMs;
    this.toggle.textContent = t("live.stop");
    this.idle.textContent = t("live.opening");
    const feed = new LiveFeed({
      video: this.video,
      take: (message) => this.take(message),
      ended: (error) => this.ended(error, feed),
    });
    this.feed = feed;
    try {
      await feed.start({ camera: byId("live-cameras").value, microphone: byId("live-microphones").value });
      if (this.feed !== feed) return;
      this.idle.hidden = true;
      this.listDevices();
    } catch {
      // `ended` was told why
    }
  }

  stop() {
    this.feed?.stop();
  }

  ended(error, feed) {
    if (this.feed !== feed) return;
    this.feed = null;
    this.toggle.textContent = t("live.start");
    this.idle.textContent = t("live.idle");
    this.idle.hidden = false;
    this.why.disabled = true;
    this.clear();
    if (error === null) announce(t("live.ended"));
    else if (error.code === "refused") this.askWhy();
    else this.tellProblem(this.words(error));
  }

  /** A browser hides why a socket was refused; an ordinary request is told. */
  async askWhy() {
    try {
      await ask("v1/models");
      this.tellProblem(t("live.closed"));
    } catch (error) {
      this.tellProblem(error.message);
    }
  }

  /** Let go of what the page would otherwise go on holding for it. */
  leave() {
    this.chart.close();
    navigator.mediaDevices?.removeEventListener("devicechange", this.onDevices);
  }

  words(error) {
    if (!(error instanceof ServiceError)) return t("record.refused", { reason: error.message });
    return error.code === "closed" || error.code === "service_stopping" ? t("live.closed") : error.message;
  }

  tellProblem(text) {
    this.problem.textContent = text;
    this.problem.hidden = false;
  }

  take(message) {
    if (message.type === "reading") this.show(message);
    else if (message.type === "label") this.rationale.textContent = "";
    else if (message.type === "rationale") this.rationale.textContent += message.text;
    else if (message.type === "explained") this.explained(message.text);
    else if (message.type === "error") this.why.disabled = this.feed === null;
  }

  explain() {
    this.why.disabled = true;
    this.feed?.explain();
  }

  explained(text) {
    this.why.disabled = this.feed === null;
    this.rationale.textContent = text;
    announce(text);
  }

  show(reading) {
    if (this.feed === null || this.feed.isOver) return;
    const since = performance.now() - this.asked;
    const data = this.place.dataset;
    data.readings = String(reading.number);
    data.firstMs ??= since.toFixed(0);
    if (reading.faces.length) data.firstFaceMs ??= since.toFixed(0);
    this.reading = reading;
    if (reading.number === 1) this.why.disabled = false;
    this.draw(reading);
    this.verdict.replaceChildren(...verdict(reading));
    this.follow(reading);
    this.sayIfSteady(reading);
    this.tellPace(reading);
  }

  tellPace(reading) {
    const recent = this.samples.filter((each) => each.at > performance.now() - 5000);
    const spent = recent.length > 1 ? (recent.at(-1).at - recent[0].at) / 1000 : 0;
    if (!spent) return;
    const { dropped } = reading.pictures;
    const pace = t("live.pace", { rate: number((recent.length - 1) / spent, 1), read: reading.pictures.read });
    const lost = dropped + this.feed.numSkipped;
    this.pace.textContent = lost ? `${pace} · ${t("live.dropped", { dropped: lost })}` : pace;
  }

  /** The last minute of the main face's valence and arousal, or, without one, of the reading's. */
  follow(reading) {
    const main = reading.faces.find((each) => each.is_main);
    const { valence, arousal } = main ?? reading;
    this.samples.push({ time: reading.time, valence, arousal, label: reading.emotion.label, at: performance.now() });
    while (this.samples[0].time < reading.time - SHOWN_SECONDS) this.samples.shift();
    this.range[0] = Math.max(0, reading.time - SHOWN_SECONDS);
    this.range[1] = Math.max(SHOWN_SECONDS, reading.time);
    this.chart.update(["time", "valence", "arousal"].map((name) => this.samples.map((each) => each[name] ?? null)));
    this.chart.at(reading.time);
    const last = this.rowsAt ?? -Infinity;
    if (reading.time - last >= ROWS_EVERY_SECONDS || reading.time < last) this.showRows();
  }

  showRows() {
    if (!this.table.open || !this.samples.length) return;
    this.rowsAt = this.samples.at(-1).time;
    let next = -Infinity;
    const kept = this.samples.filter((each) => each.time >= next && ((next = each.time + ROWS_EVERY_SECONDS), true));
    const value = (each) => (each === null || each === undefined ? "–" : number(each));
    this.rows.replaceChildren(table(t("live.chart_table"),
      [t("timeline.time"), t("timeline.expression"), t("timeline.valence"), t("timeline.arousal")],
      kept.map((each) => [seconds(each.time), each.label === null ? "–" : labelName(each.label), value(each.valence), value(each.arousal)])));
  }

  /** Tell who listens to the page, but not with every reading. */
  sayIfSteady(reading) {
    const label = reading.emotion.abstained ? null : reading.emotion.label;
    if (label !== this.told.current) Object.assign(this.told, { current: label, since: reading.time });
    const isSteady = reading.time - this.told.since >= STEADY_SECONDS;
    if (!isSteady || label === this.told.label || reading.time - this.told.at < SILENCE_SECONDS) return;
    Object.assign(this.told, { label, at: reading.time });
    announce(label === null ? t("live.unsure") : t("result.appears", { how: appears(label) }));
  }

  clear() {
    this.canvas.width = this.canvas.clientWidth;
  }

  /** Boxes over the picture, which is shown as a mirror does. */
  draw({ faces, picture }) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth * ratio, this.canvas.clientHeight * ratio];
    Object.assign(this.canvas, { width, height });
    if (!picture) return;
    const context = this.canvas.getContext("2d");
    // The picture lies in the middle of its place, as large as fits.
    const scale = Math.min(width / picture.width, height / picture.height);
    const [left, top] = [(width - scale * picture.width) / 2, (height - scale * picture.height) / 2];
    const style = getComputedStyle(document.documentElement);
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    for (const face of faces) {
      const x = left + scale * (picture.width - face.box.x - face.box.width);
      const y = top + scale * face.box.y;
      context.lineWidth = (face.is_main ? 2.5 : 1.5) * ratio;
      context.strokeStyle = style.getPropertyValue("--box");
      context.beginPath();
      context.roundRect(x, y, scale * face.box.width, scale * face.box.height, 8 * ratio);
      context.stroke();
      const text = `${t("face.name", { number: face.track + 1 })} · ${t("face.appears", { how: appears(face.label) })}`;
      const [tall, long] = [24 * ratio, context.measureText(text).width + 18 * ratio];
      const [from, above] = [Math.max(0, Math.min(x, width - long)), Math.max(0, y - tall - 5 * ratio)];
      context.fillStyle = style.getPropertyValue("--box-back");
      context.beginPath();
      context.roundRect(from, above, long, tall, 7 * ratio);
      context.fill();
      context.fillStyle = style.getPropertyValue("--box-text");
      context.fillText(text, from + 9 * ratio, above + tall / 2 + ratio);
    }
  }
}

function verdict({ emotion, used, faces, voice }) {
  if (emotion.label === null) {
    return [el("p", { class: "label" }, t("live.nobody")), el("p", { class: "quiet" }, t("live.nobody_about"))];
  }
  const rows = Object.entries(emotion.scores).map(([label, score]) => {
    const bar = el("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--part", score.toFixed(4));
    return [labelName(label), el("span", { class: "scored" }, bar, el("span", { class: "percent" }, percent(score)))];
  });
  const others = faces.filter((each) => !each.is_main);
  return [
    el("p", { class: "label", data: { label: emotion.label } },
      emotion.abstained ? t("result.abstained") : t("result.appears", { how: appears(emotion.label) })),
    emotion.abstained ? el("p", { class: "abstained" }, t("result.abstained_about", { label: labelName(emotion.label) })) : null,
    el("p", { class: "quiet" }, `${t("result.confidence", { value: percent(emotion.confidence) })} · ${t(`live.used_${used.join("_")}`)}`),
    table(t("result.scores"), [t("result.expression"), t("result.probability")], rows),
    voice ? el("p", { class: "quiet small" }, t("live.voice", { label: labelName(voice.label), seconds: seconds(voice.voiced_seconds) })) : null,
    ...others.map((each) => el("p", { class: "quiet small" },
      `${t("face.name", { number: each.track + 1 })} ${t("face.appears", { how: appears(each.label) })}`)),
  ].filter(Boolean);
}
