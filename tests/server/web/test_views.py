"""What else the page must bear: clips of all kinds, errors in plain words, long clips, purposes, owners, adapters.

One service with keys and short limits for all of it, so that a clip of seconds is a long one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import emollama
from tests.server.web.conftest import Visit, served, visiting

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ASSETS = Path(emollama.__file__).parent / "assets"
SAMPLE = ASSETS / "sample" / "sample.mp4"
KEY = "operator-" + "k" * 32
LONGEST_SECONDS = 8
SAMPLE_SECONDS = 6.0
PLAY_TO_THE_END = """async (video) => {
  const ended = new Promise((told) => { video.onended = video.onerror = () => told(); });
  video.muted = true;
  video.playbackRate = 2;
  await video.play();
  await ended;
  return { at: video.currentTime, seconds: video.duration, error: video.error && video.error.message };
}"""
# A chart's words are painted, so they are not in the page; this notes them.
NOTE_PAINTED = """() => {
  window.painted = [];
  const paint = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
    window.painted.push(text);
    return paint.call(this, text, ...rest);
  };
}"""


@pytest.fixture(scope="module")
def strict(browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that wants a key, takes eight seconds at once and half a minute at most, and has an adapter root."""
    folder = tmp_path_factory.mktemp("strict")
    shutil.copytree(ASSETS / "nano" / "adapter", folder / "adapters" / "house")
    settings = {
        "EMOLLAMA_AUTH": "keys", "EMOLLAMA_ADMIN_KEY": KEY, "EMOLLAMA_MAX_SECONDS": str(LONGEST_SECONDS),
        "EMOLLAMA_ANALYSIS_MAX_SECONDS": "100", "EMOLLAMA_MAX_UPLOAD_MB": "20",
        "EMOLLAMA_ADAPTER_ROOT": str(folder / "adapters"),
    }  # fmt: skip
    with served(folder, **settings) as base:
        yield base


@pytest.fixture
def keyed(browser: Any, strict: str) -> Iterator[Visit]:
    with visiting(browser, strict) as seen:
        seen.page.evaluate("key => sessionStorage.setItem('emollama.key', key)", KEY)
        seen.page.reload()
        seen.page.wait_for_selector("body[data-ready]")
        seen.faults.clear()  # what was refused before the key was there
        yield seen


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Every third picture of the bundled clip."""
    import av

    with av.open(str(SAMPLE)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::3]


def alert(page: Any) -> Any:
    return page.locator("#problem")


def test_clips_of_all_kinds(visit: Visit, media: Any, pictures: list[np.ndarray], tmp_path: Path) -> None:
    page = visit.page
    # Two people, the second one the other way round in time: each has a row.
    pair = [np.hstack([one, other]) for one, other in zip(pictures, pictures[::-1], strict=True)]
    visit.send(media.video(tmp_path / "two.mp4", fps=8, images=pair))
    assert page.locator(".face").count() == 2
    rows = page.locator(".face").evaluate_all(
        "all => all.map(each => [...each.querySelectorAll('.segment')].map(one => one.dataset.label))"
    )
    assert sorted(row[0] for row in rows) == ["happiness", "neutral"]
    assert page.evaluate("document.activeElement.id") == "label"
    assert visit.faults_for_readers() == []

    # The cursor and the expressions by arrow keys.
    page.focus("#cursor")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("() => Math.abs(document.querySelector('.stage video').currentTime - 0.3) < 0.11")
    assert "Face 1" in page.get_attribute("#cursor", "aria-valuetext")
    first = page.locator(".segment").first
    first.focus()
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.dataset.start")
    assert float(second) > 0
    page.wait_for_function(
        "start => Math.abs(document.querySelector('.stage video').currentTime - start) < 0.1", arg=float(second)
    )

    # Nobody, and silence: said, and nothing is made up.
    visit.send(media.video(tmp_path / "nobody.mp4", seconds=2.0, audio=np.zeros(32_000, np.float32)))
    page.get_by_role("heading", name="Nothing to read").wait_for()
    page.get_by_text("No face was seen").wait_for()
    assert page.locator(".segment").count() == 0
    assert visit.faults_for_readers() == []

    # Sound alone: a voice without a face.
    import av

    with av.open(str(SAMPLE)) as container:
        frames = [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    visit.send(media.wav(tmp_path / "voice.wav", samples=np.concatenate(frames).astype(np.float32), sample_rate=rate))
    assert page.locator("#label").count() == 1
    assert page.locator(".cue[data-start]", has_text="pitch").count() > 0
    page.get_by_text("No face was seen").wait_for()
    page.wait_for_function("() => document.querySelector('.stage.sound video').duration > 5")


def test_what_a_model_gives_is_shown_as_it_is(visit: Visit) -> None:
    """A face model with action units, and a reading below the threshold: as the service would word them."""
    page = visit.page

    with SAMPLE.open("rb") as clip:  # the browser does not show to a test what it uploads
        told = httpx.post(f"{visit.base}/analyze?stream=true", files={"file": ("sample.mp4", clip)}, timeout=90).text

    def changed(route: Any) -> None:
        lines = []
        for line in told.splitlines():
            if line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                for segment in data.get("timeline", []):
                    segment["action_units"] = {"AU4": 0.1, "AU12": 0.9 if segment["label"] == "happiness" else 0.2}
                if "emotion" in data:
                    data["emotion"]["abstained"] = True
                line = f"data: {json.dumps(data)}"
            lines.append(line)
        route.fulfill(content_type="text/event-stream", body="\n".join(lines) + "\n")

    page.route("**/analyze?stream=true", changed)
    visit.send(SAMPLE)
    assert page.locator("#label").inner_text() == "Too unsure to say"
    assert "Do not use it" in page.locator(".abstained").inner_text()
    page.locator(".segment[data-label=happiness]").click()
    page.locator(".units li", has_text="AU12 lip corners pulled 90%").wait_for()
    assert visit.faults_for_readers() == []


def test_the_report_video_hides_the_face_and_plays(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    visit.send(SAMPLE)
    assert page.locator(".face").count() == 1
    page.select_option("#report-format", "video")
    page.check("#report-blur")
    page.uncheck("#report-marks")
    with page.expect_download(timeout=90_000) as made:
        page.click("text=Make the report")
    assert made.value.suggested_filename == "sample.report.mp4"
    made.value.save_as(tmp_path / "covered.mp4")

    visit.send(tmp_path / "covered.mp4")
    page.get_by_text("No face was seen").wait_for()
    seen = page.locator(".stage video").evaluate(PLAY_TO_THE_END)
    assert seen["error"] is None
    assert seen["at"] == pytest.approx(seen["seconds"], abs=0.2)
    assert seen["seconds"] == pytest.approx(SAMPLE_SECONDS, abs=0.2)


def test_motion_is_switched_off_for_who_wants_none(visit: Visit) -> None:
    page = visit.page
    page.route("**/analyze?stream=true", lambda route: None)  # never answered, so that the first step stays active
    page.set_input_files("#file", str(SAMPLE))
    page.click("#analyse")
    page.wait_for_selector(".steps .active .mark")
    moves = """() => [
      getComputedStyle(document.querySelector('.steps .active .mark')).animationName,
      getComputedStyle(document.querySelector('#drop')).transitionDuration,
      getComputedStyle(document.documentElement).scrollBehavior,
    ]"""
    assert page.evaluate(moves) == ["turn", "0.15s", "smooth"]
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moves) == ["none", "0s", "auto"]
    page.click("#stop")


def test_an_upload_is_stopped_midway_and_leaves_nothing(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    (tmp_path / "big.avi").write_bytes(SAMPLE.read_bytes() + bytes(30 * 2**20))
    devtools = page.context.new_cdp_session(page)
    devtools.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 500_000}
    devtools.send("Network.emulateNetworkConditions", slow)
    page.set_input_files("#file", str(tmp_path / "big.avi"))
    page.click("#analyse")
    page.wait_for_timeout(1500)
    page.click("#stop")
    page.get_by_text("The analysis was stopped.").first.wait_for()
    assert page.locator("#result").is_hidden()
    assert page.evaluate("document.activeElement.id") == "analyse"
    devtools.send("Network.emulateNetworkConditions", slow | {"uploadThroughput": -1})
    visit.send(SAMPLE)  # and the next one is read
    assert page.locator("#done").is_hidden()


def test_a_long_clip_is_followed_found_again_and_cancelled(
    keyed: Visit, long_video: Callable[..., Path], pictures: list[np.ndarray], tmp_path: Path
) -> None:
    page = keyed.page
    clip = long_video(tmp_path / "long.mp4", seconds=65.0, images=lambda index: pictures[index % len(pictures)])
    page.evaluate(NOTE_PAINTED)
    keyed.send(clip)
    page.wait_for_function("() => ['0:00', '0:30', '1:00'].every(each => window.painted.includes(each))")
    page.get_by_role("heading", name="The course of the clip").wait_for()
    assert "1:05" not in page.evaluate("window.painted")  # at the end of the axis it would be cut off
    label = page.locator("#label").get_attribute("data-label")
    assert f"also fits: {label}" not in page.locator("[data-part=verdict]").inner_text()
    assert page.locator("#chat-title").count() == 1
    assert page.locator("#question").count() == 0
    with page.expect_download(timeout=60_000) as report:
        page.click("text=Make the report")
    assert report.value.suggested_filename == "long.html"

    page.reload()
    page.wait_for_selector("#delete", timeout=60_000)
    page.get_by_role("heading", name="The course of the clip").wait_for()
    page.set_input_files("#again", str(clip))
    page.wait_for_function("() => document.querySelector('.stage video')?.duration > 60")
    kept = json.loads(page.evaluate("sessionStorage.getItem('emollama.task')"))["id"]
    page.click("#delete")
    page.wait_for_selector("#result", state="hidden")
    headers = {"authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{keyed.base}/v1/analyses/{kept}", headers=headers).status_code == 404

    page.set_input_files("#file", str(long_video(tmp_path / "longer.mp4", seconds=95.0)))
    page.click("#analyse")
    page.wait_for_function("() => sessionStorage.getItem('emollama.task')", timeout=30_000)
    page.click("#stop")
    page.get_by_text("The analysis was stopped.").first.wait_for(timeout=30_000)
    (newest, *_) = httpx.get(f"{keyed.base}/v1/analyses", headers=headers).json()["data"]
    assert newest["status"] == "cancelled"

    # What is longer than that is refused, with what is allowed.
    page.set_input_files("#file", str(long_video(tmp_path / "longest.mp4", seconds=120.0)))
    page.click("#analyse")
    alert(page).get_by_text("Allowed: up to 1:40").wait_for(timeout=60_000)


def test_a_long_clip_that_the_browser_cannot_measure_goes_the_long_way(
    keyed: Visit, long_video: Callable[..., Path], tmp_path: Path
) -> None:
    page = keyed.page
    clip = long_video(tmp_path / "unknown.mkv", seconds=LONGEST_SECONDS + 6.0)
    unknown = {"name": clip.name, "mimeType": "application/octet-stream", "buffer": clip.read_bytes()}
    page.set_input_files("#file", files=[unknown])
    with page.expect_response("**/analyze?stream=true") as refused:
        page.click("#analyse")
    page.wait_for_selector("#delete", timeout=90_000)
    page.get_by_role("heading", name="The course of the clip").wait_for()
    assert refused.value.status == 422
    assert page.locator("#problem").is_hidden()
    keyed.expects("422")


def test_purposes_consent_and_the_notice(keyed: Visit) -> None:
    page = keyed.page
    page.click("#open-notice")
    page.locator("#notice-text h3").first.wait_for()
    assert keyed.faults_for_readers() == []
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "open-notice"

    page.click("#trust-fields summary")
    prohibited = page.locator("#purpose optgroup option").first.get_attribute("value")
    page.select_option("#purpose", prohibited)
    page.set_input_files("#file", str(SAMPLE))
    page.click("#analyse")
    alert(page).get_by_text("Expressions are not read for this purpose").wait_for()
    keyed.expects("403")
    page.select_option("#purpose", "research")
    page.fill("#consent", "a name with spaces")
    page.click("#analyse")
    assert page.evaluate("document.querySelector('#consent').validity.patternMismatch")
    page.fill("#consent", "form-2026/17")
    with page.expect_request("**/analyze?stream=true") as asked:
        page.click("#analyse")
    sent = asked.value.headers
    assert (sent["emollama-purpose"], sent["emollama-consent"]) == ("research", "form-2026/17")
    page.wait_for_selector("#delete", timeout=90_000)
    assert keyed.faults_for_readers() == []

    # Everything of an owner, with the proof.
    page.click("#delete-owner")
    page.fill("#owner", "operator")
    page.on("dialog", lambda dialog: dialog.accept())
    with page.expect_response("**/v1/owners/operator") as erased:
        page.click("#delete")
    proof = erased.value.json()
    page.locator("#done", has_text=proof["id"]).wait_for()
    assert f"analyses: {proof['erased']['analyses']}" in page.locator("#done").inner_text()
    assert page.evaluate("document.activeElement.id") == "file"


def test_an_adapter_is_loaded_tried_and_unloaded_on_a_phone(keyed: Visit) -> None:
    page = keyed.page
    page.set_viewport_size({"width": 390, "height": 844})
    page.click("nav [data-view=models]")
    page.fill("#adapter-name", "house")
    page.fill("#adapter-path", "../elsewhere")
    page.click("text=Load >> nth=-1")
    page.get_by_role("alert").get_by_text("Only adapters in the service's own folder").wait_for()
    keyed.expects("403", "400")
    page.fill("#adapter-name", "house")
    page.fill("#adapter-path", "house")
    page.get_by_role("button", name="Load", exact=True).click()
    row = page.locator("tr", has_text="house")
    row.wait_for(timeout=30_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert keyed.faults_for_readers() == []
    row.get_by_role("button", name="Analyse with it").click()
    page.wait_for_selector("#view-analyse:not([hidden])")
    assert page.locator("#model").input_value() == "house"
    keyed.send(SAMPLE)
    assert page.locator("#label").count() == 1
    page.click("nav [data-view=models]")
    page.locator("tr", has_text="house").get_by_role("button", name="Unload").click()
    page.locator("tr", has_text="house").wait_for(state="detached")


def test_german_in_every_view_and_scheme(visit: Visit) -> None:
    page = visit.page
    page.select_option("#language", "de")
    page.wait_for_selector("html[lang=de]")
    visit.send(SAMPLE)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for name in ("analyse", "live", "jobs", "models"):
            page.click(f"nav [data-view={name}]")
            page.wait_for_selector(f"#view-{name}:not([hidden])")
            page.wait_for_load_state("networkidle")
            assert visit.faults_for_readers() == [], (scheme, name)
    said = page.locator("main").inner_text()
    assert "{" not in said
