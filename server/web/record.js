// A clip by the computer's own camera and microphone, recorded by the browser; nothing is sent before it is analysed.

import { byId } from "./dom.js";
import { t, seconds } from "./i18n.js";

const LONGEST_SECONDS = 60;
const TYPES = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];

/** Set up the recorder; `take(file)` gets what was recorded. */
export function setUpRecorder(take) {
  let stream = null;
  let recorder = null;
  let timer = 0;
  const [panel, camera, toggle, note] = ["recorder", "camera", "record-toggle", "record-note"].map(byId);

  async function open() {
    panel.hidden = false;
    if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
      note.textContent = t("record.unsupported");
      toggle.disabled = true;
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } }, audio: true });
    } catch (error) {
      note.textContent = t("record.refused", { reason: error.message });
      toggle.disabled = true;
      return;
    }
    toggle.disabled = false;
    note.textContent = t("record.ready", { seconds: LONGEST_SECONDS });
    camera.srcObject = stream;
    await camera.play();
    toggle.focus();
  }

  function close() {
    if (recorder?.state === "recording") {
      recorder.onstop = null;
      recorder.stop();
    }
    clearInterval(timer);
    stream?.getTracks().forEach((track) => track.stop());
    stream = recorder = camera.srcObject = null;
    toggle.textContent = t("record.start");
    panel.hidden = true;
    byId("record-open").focus();
  }

  function begin() {
    const type = TYPES.find((each) => MediaRecorder.isTypeSupported(each));
    const pieces = [];
    const started = performance.now();
    recorder = new MediaRecorder(stream, type ? { mimeType: type } : {});
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = () => {
      const kind = recorder.mimeType.split(";")[0] || "video/webm";
      const file = new File(pieces, kind === "video/mp4" ? "recording.mp4" : "recording.webm", { type: kind });
      close();
      take(file);
    };
    recorder.start(500);
    toggle.textContent = t("record.stop");
    note.textContent = t("record.running");
    timer = setInterval(() => {
      const passed = (performance.now() - started) / 1000;
      if (passed >= LONGEST_SECONDS) recorder.stop();
      else toggle.textContent = `${t("record.stop")} · ${seconds(passed)}`;
    }, 500);
  }

  byId("record-open").addEventListener("click", open);
  byId("record-close").addEventListener("click", close);
  toggle.addEventListener("click", () => (recorder?.state === "recording" ? recorder.stop() : begin()));
}
