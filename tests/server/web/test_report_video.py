"""The video of a report plays in a browser to its end."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PLAY = """async (clip) => {
  const bytes = Uint8Array.from(atob(clip), (c) => c.charCodeAt(0));
  const form = new FormData();
  form.append("file", new Blob([bytes]), "talk.mp4");
  form.append("blur", "true");
  form.append("voice", "change");
  const answer = await fetch("/v1/reports/video", { method: "POST", body: form });
  if (!answer.ok) return { refused: await answer.text() };
  const video = document.createElement("video");
  video.muted = true;
  video.src = URL.createObjectURL(await answer.blob());
  document.body.append(video);
  const ended = new Promise((told) => { video.onended = video.onerror = () => told(); });
  await video.play();
  const begun = video.currentTime;
  await ended;
  return {
    begun, at: video.currentTime, seconds: video.duration, error: video.error && video.error.message,
    size: [video.videoWidth, video.videoHeight], type: answer.headers.get("content-type"),
  };
}"""


def test_a_video_plays_from_its_first_picture_to_its_last(visit: Any, media: Any, tmp_path: Path) -> None:
    clip = media.video(tmp_path / "talk.mp4", seconds=2.0, fps=10, width=320, height=240, audio=media.tone(2.0))
    seen = visit.page.evaluate(PLAY, base64.b64encode(clip.read_bytes()).decode())
    assert "refused" not in seen, seen
    assert seen["error"] is None
    assert seen["type"] == "video/mp4"
    assert seen["size"] == [320, 240]
    assert seen["seconds"] == pytest.approx(2.0, abs=0.2)
    assert seen["at"] == pytest.approx(seen["seconds"], abs=0.2)
    assert seen["at"] > seen["begun"]
    assert visit.faults == []
    assert visit.elsewhere == []
