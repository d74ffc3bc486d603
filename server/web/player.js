// The clip, with the faces drawn over it. Boxes are in pixels of the picture, and between two of them lies a straight way.

import { el } from "./dom.js";
import { appears, t } from "./i18n.js";

// A face that was not seen for longer than this was not there in between.
const LONGEST_GAP_SECONDS = 1.0;
const EDGE_SECONDS = 0.25;

/** Where a face is at a time, or null. */
export function boxAt(face, time) {
  const { times, boxes } = face;
  if (!times.length) return null;
  const next = times.findIndex((each) => each >= time);
  if (next === 0) return times[0] - time <= EDGE_SECONDS ? boxes[0] : null;
  if (next === -1) return time - times.at(-1) <= EDGE_SECONDS ? boxes.at(-1) : null;
  const [from, to] = [times[next - 1], times[next]];
  if (to - from > LONGEST_GAP_SECONDS) return null;
  const part = (time - from) / (to - from);
  const mix = (name) => boxes[next - 1][name] + part * (boxes[next][name] - boxes[next - 1][name]);
  return { x: mix("x"), y: mix("y"), width: mix("width"), height: mix("height") };
}

export function segmentAt(timeline, track, time) {
  const own = timeline.filter((each) => each.track === track);
  const last = own.at(-1);
  // The last picture is shown a moment longer than the last stretch goes.
  if (last && time >= last.end && time - last.end <= EDGE_SECONDS) return last;
  return own.find((each) => each.start <= time && time < each.end) ?? null;
}

/** Where the clip would be, when there is a result and no clip: after the page was loaded anew. */
export class NoPlayer {
  constructor(moved, choose) {
    Object.assign(this, { moved, time: 0, faces: [], timeline: [] });
    const input = el("input", { type: "file", id: "again", accept: "video/*,audio/*,.mkv", class: "visually-hidden", onchange: () => input.files[0] && choose(input.files[0]) });
    this.node = el("div", { class: "player absent" }, el("p", { class: "quiet" }, t("player.absent")),
      el("span", { class: "row" }, el("label", { class: "button", for: "again" }, t("player.again")), input));
  }

  seek(time) {
    this.time = time;
  }

  show() {
    this.moved(this.time);
  }

  close() {
    this.node.remove();
  }
}

export class Player {
  /** `moved(time)` is told where the clip is whenever that changes. */
  constructor(file, url, moved) {
    this.moved = moved;
    this.faces = [];
    this.timeline = [];
    this.isPicture = file.type.startsWith("image/");
    this.isSound = file.type.startsWith("audio/");
    this.media = this.isPicture
      ? el("img", { src: url, alt: t("player.picture") })
      : el("video", { src: url, controls: true, playsInline: true, preload: "auto", "aria-label": t("player.clip") });
    this.canvas = el("canvas", { class: "boxes", "aria-hidden": "true" });
    this.note = el("p", { class: "quiet", hidden: true }, t("player.unplayable"));
    this.frame = el("div", { class: this.isSound ? "stage sound" : "stage" }, this.media, this.canvas);
    this.node = el("div", { class: "player" }, this.frame, this.note);
    this.media.addEventListener("error", () => {
      this.note.hidden = false;
      this.frame.hidden = true;
    });
    for (const name of ["seeked", "timeupdate", "loadeddata", "load", "pause"]) {
      this.media.addEventListener(name, () => this.show());
    }
    this.media.addEventListener("play", () => this.follow());
    this.observer = new ResizeObserver(() => this.show());
    this.observer.observe(this.frame);
  }

  get time() {
    return this.isPicture ? 0 : this.media.currentTime;
  }

  seek(time) {
    if (!this.isPicture) this.media.currentTime = Math.max(0, time);
  }

  follow() {
    if (this.media.paused || this.media.ended || !this.node.isConnected) return;
    this.show();
    requestAnimationFrame(() => this.follow());
  }

  show() {
    this.draw();
    this.moved(this.time);
  }

  /** Let go of the clip. */
  close() {
    this.observer.disconnect();
    if (!this.isPicture) {
      this.media.pause();
      this.media.removeAttribute("src");
      this.media.load();
    }
    this.node.remove();
  }

  draw() {
    const width = this.media.videoWidth || this.media.naturalWidth || 0;
    const shown = this.media.clientWidth;
    const context = this.canvas.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = shown * ratio;
    this.canvas.height = this.media.clientHeight * ratio;
    if (!width) return;
    const scale = (shown * ratio) / width;
    const style = getComputedStyle(document.documentElement);
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    for (const face of this.faces) {
      const box = boxAt(face, this.time);
      if (!box) continue;
      const [x, y, w, h] = [box.x, box.y, box.width, box.height].map((each) => each * scale);
      context.lineWidth = (face.is_main ? 2.5 : 1.5) * ratio;
      context.strokeStyle = style.getPropertyValue("--box");
      context.beginPath();
      context.roundRect(x, y, w, h, 8 * ratio);
      context.stroke();
      const segment = segmentAt(this.timeline, face.track, this.time);
      const name = t("face.name", { number: face.track + 1 });
      const text = segment ? `${name} · ${t("face.appears", { how: appears(segment.label) })}` : name;
      const [tall, long] = [24 * ratio, context.measureText(text).width + 18 * ratio];
      const left = Math.max(0, Math.min(x, this.canvas.width - long));
      const top = Math.max(0, y - tall - 5 * ratio);
      context.fillStyle = style.getPropertyValue("--box-back");
      context.beginPath();
      context.roundRect(left, top, long, tall, 7 * ratio);
      context.fill();
      context.fillStyle = style.getPropertyValue("--box-text");
      context.fillText(text, left + 9 * ratio, top + tall / 2 + ratio);
    }
  }
}
