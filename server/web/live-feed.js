// A camera and a microphone on their way to the service, and its messages on their way back; nothing of it is drawn here.

import { declared, getKey, ServiceError } from "./api.js";

const PICTURE = 1;
const SOUND = 2;
const HEADER_BYTES = 12;
const PICTURES_PER_SECOND = 10;
const LONG_SIDE = 640;
const QUALITY = 0.8;
// What the network has not taken yet; over this, pictures are not even made.
const MOST_WAITING_BYTES = 256 * 1024;
const HIGHEST_RATE = 48_000;

/**
 * Opens camera, microphone and connection at once. `video` shows the camera; `take(message)` gets every message of the
 * service, `ended(error)` is called once, with null when it was `stop` that ended it.
 */
export class LiveFeed {
  constructor({ video, take, ended }) {
    Object.assign(this, { video, take, ended });
    this.canvas = document.createElement("canvas");
    this.isOver = false;
    this.isMaking = false;
    this.numSkipped = 0;
  }

  async start({ camera, microphone }) {
    this.sound = new AudioContext();
    this.factor = Math.ceil(this.sound.sampleRate / HIGHEST_RATE);
    try {
      const opening = this.open(camera, microphone);
      await Promise.all([opening, this.connect()]);
    } catch (error) {
      this.finish(error);
      throw error;
    }
    if (this.isOver) return;
    this.began = performance.now();
    await this.listen();
    this.timer = setInterval(() => this.look(), 1000 / PICTURES_PER_SECOND);
    this.look();
  }

  async open(camera, microphone) {
    const device = (id) => (id ? { deviceId: { exact: id } } : {});
    this.stream = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: LONG_SIDE }, ...device(camera) },
      audio: microphone === "none" ? false : { channelCount: 1, ...device(microphone) },
    });
    if (this.isOver) return this.close();
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  connect() {
    const url = new URL("v1/live", document.baseURI);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    // A browser sends no headers with a socket, so what was declared stands in the address; the key does not.
    const { purpose, consent } = declared();
    if (purpose) url.searchParams.set("purpose", purpose);
    if (consent) url.searchParams.set("consent_reference", consent);
    this.socket = new WebSocket(url, "emollama.live.v1");
    this.socket.binaryType = "arraybuffer";
    return new Promise((ready, refuse) => {
      this.socket.onopen = () => this.send({
        type: "start", key: getKey() || null, sample_rate: Math.round(this.sound.sampleRate / this.factor),
      });
      this.socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === "ready") {
          this.isLetIn = true;
          ready(message);
        }
        if (message.type === "error") this.problem = new ServiceError(message.error);
        this.take(message);
      };
      this.socket.onclose = ({ code, reason }) => {
        const isWell = code === 1000;
        const error = isWell ? null : this.problem ?? new ServiceError({ message: reason || String(code), code: reason || (this.isLetIn ? "closed" : "refused") });
        refuse(error ?? new ServiceError({ message: "closed", code: "closed" }));
        this.finish(error);
      };
    });
  }

  async listen() {
    const [track] = this.stream.getAudioTracks();
    if (!track) return;
    await this.sound.audioWorklet.addModule(new URL("live-audio.js", import.meta.url));
    if (this.isOver) return;
    const gatherer = new AudioWorkletNode(this.sound, "gatherer", { numberOfOutputs: 0 });
    let heardUntil = null;
    gatherer.port.onmessage = ({ data }) => {
      const seconds = data.length / this.sound.sampleRate;
      // The samples keep the time; the clock only tells where they begin, and where some were lost.
      const now = this.time();
      if (heardUntil === null || Math.abs(now - seconds - heardUntil) > 0.5) heardUntil = Math.max(heardUntil ?? 0, now - seconds);
      this.sendBinary(SOUND, heardUntil, pcm16(data, this.factor));
      heardUntil += seconds;
    };
    this.sound.createMediaStreamSource(new MediaStream([track])).connect(gatherer);
    await this.sound.resume();
  }

  /** Seconds since the session began. */
  time() {
    return (performance.now() - this.began) / 1000;
  }

  /** Send the picture that the camera shows now, unless the last one is still on its way. */
  look() {
    if (this.isOver || this.video.readyState < 2) return;
    if (this.isMaking || this.socket.bufferedAmount > MOST_WAITING_BYTES) {
      this.numSkipped += 1;
      return;
    }
    const scale = Math.min(1, LONG_SIDE / Math.max(this.video.videoWidth, this.video.videoHeight));
    this.canvas.width = Math.round(this.video.videoWidth * scale);
    this.canvas.height = Math.round(this.video.videoHeight * scale);
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    const time = this.time();
    this.isMaking = true;
    this.canvas.toBlob(async (blob) => {
      if (blob) this.sendBinary(PICTURE, time, new Uint8Array(await blob.arrayBuffer()));
      this.isMaking = false;
    }, "image/jpeg", QUALITY);
  }

  explain() {
    this.send({ type: "explain" });
  }

  /** End the session; the service answers with what it counted. */
  stop() {
    if (this.socket?.readyState === WebSocket.OPEN) this.send({ type: "stop" });
    else this.finish(null);
    this.close();
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  sendBinary(kind, time, content) {
    if (this.isOver || this.socket.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(HEADER_BYTES + content.byteLength);
    const header = new DataView(message.buffer);
    header.setUint8(0, kind);
    header.setFloat64(4, time, true);
    message.set(new Uint8Array(content.buffer, content.byteOffset, content.byteLength), HEADER_BYTES);
    this.socket.send(message);
  }

  /** Let go of camera and microphone. */
  close() {
    this.isOver = true;
    clearInterval(this.timer);
    this.stream?.getTracks().forEach((track) => track.stop());
    if (this.video.srcObject === this.stream) this.video.srcObject = null;
    if (this.sound && this.sound.state !== "closed") this.sound.close();
  }

  finish(error) {
    this.close();
    if (this.socket && this.socket.readyState < WebSocket.CLOSING) this.socket.close(1000);
    if (this.isTold) return;
    this.isTold = true;
    this.ended(error);
  }
}

/** Samples from -1 to 1 as 16 bits; of `factor` neighbours their mean. */
function pcm16(samples, factor) {
  const whole = new Int16Array(Math.floor(samples.length / factor));
  for (let index = 0; index < whole.length; index += 1) {
    let sum = 0;
    for (let part = 0; part < factor; part += 1) sum += samples[index * factor + part];
    whole[index] = Math.round(32767 * Math.max(-1, Math.min(1, sum / factor)));
  }
  return new DataView(whole.buffer).getInt16(0, true) === whole[0] ? whole : swapped(whole);
}

/** On a machine that stores numbers the other way round. */
function swapped(samples) {
  const view = new DataView(samples.buffer);
  samples.forEach((value, index) => view.setInt16(2 * index, value, true));
  return samples;
}
