"""The page in a real browser, before a real service with nano.

``PAGE_PICTURES=docs/images`` also writes the pictures of `docs/page.md`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from emollama.manifest import read_manifest

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "emollama" / "assets" / "sample" / "sample.mp4"
SINGLE_FACE = ROOT.parent / "shared" / "clips" / "single_face.mp4"
ANALYSIS_MS = 90_000


def send(page: Any, clip: Path) -> None:
    page.set_input_files("#file", str(clip))
    page.click("#analyse")
    page.wait_for_selector("#delete", timeout=ANALYSIS_MS)


def faults_for_readers(page: Any) -> list[str]:
    """What axe-core finds that is serious or worse."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]


def time_of(page: Any) -> float:
    return float(page.locator(".stage video").evaluate("video => video.currentTime"))


def picture(page: Any, name: str) -> None:
    folder = os.environ.get("PAGE_PICTURES")
    if folder:
        page.wait_for_timeout(500)
        size = page.viewport_size
        upper = {"x": 0, "y": 0, "width": size["width"], "height": 2000}
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True, clip=upper)


def clips() -> list[Any]:
    missing = pytest.mark.skipif(not SINGLE_FACE.exists(), reason=f"no {SINGLE_FACE.name} beside the checkout")
    return [
        pytest.param(SAMPLE, id="sample"),
        pytest.param(SINGLE_FACE, id="single_face", marks=[pytest.mark.shared_data, missing]),
    ]


@pytest.mark.parametrize("clip", clips())
def test_a_clip_from_its_upload_to_its_deletion(visit: Any, clip: Path, tmp_path: Path) -> None:
    page = visit.page
    assert faults_for_readers(page) == []
    send(page, clip)

    labels = page.locator(".segment").evaluate_all("all => all.map(each => each.dataset.label)")
    assert labels == ["neutral", "happiness"]
    assert page.locator("#label").inner_text() == "Appears happy"
    assert "appears" in page.locator(".rationale").inner_text()
    assert "calibrated" in (page.locator("[data-part=verdict]").text_content() or "")

    # Evidence leads to its moment, and the chart and the boxes follow.
    cue = page.locator(".cue", has_text="happy").first
    start = float(cue.get_attribute("data-start"))
    assert start > 0
    before = page.locator(".boxes").evaluate("canvas => canvas.toDataURL()")
    cue.click()
    page.wait_for_function(
        "start => Math.abs(document.querySelector('.stage video').currentTime - start) < 0.1", arg=start
    )
    page.wait_for_selector(".segment.now[data-label=happiness]")
    page.wait_for_function("old => document.querySelector('.boxes').toDataURL() !== old", arg=before)
    painted = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(each => each)"
    assert page.locator(".boxes").evaluate(painted)
    page.locator(".u-over").first.click(position={"x": 5, "y": 20})
    page.wait_for_function("start => document.querySelector('.stage video').currentTime < start", arg=start)

    # Two questions: the clip goes out with the first alone.
    asked: list[str] = []
    page.on("request", lambda each: asked.append(each.post_data or "") if "completions" in each.url else None)
    for question in ("How does the person appear?", "When does the face change?"):
        page.fill("#question", question)
        page.keyboard.press("Enter")
        page.wait_for_function("() => !document.querySelector('.ask button').disabled")
    answers = page.locator(".talk .it .said").all_inner_texts()
    assert len(answers) == 2
    assert all(len(each) > 10 for each in answers)
    assert len(asked) == 2
    assert "base64" in asked[0]
    assert "base64" not in asked[1]
    assert faults_for_readers(page) == []
    cue.click()
    picture(page, "page-desktop")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    picture(page, "page-phone")
    page.set_viewport_size({"width": 1280, "height": 900})

    # A correction leaves the page as a line that the trainer reads.
    page.fill("#correct-label", "amusement")
    page.fill("#correct-words", "Oh, really?")
    page.click("text=Keep the correction")
    with page.expect_download() as exported:
        page.click("#correct-export")
    (tmp_path / clip.name).write_bytes(clip.read_bytes())
    exported.value.save_as(tmp_path / "manifest.jsonl")
    (sample,) = read_manifest(tmp_path / "manifest.jsonl").samples
    assert (sample.clip, sample.label, sample.transcript) == (clip.name, "amusement", "Oh, really?")

    page.select_option("#report-format", "csv")
    with page.expect_download(timeout=ANALYSIS_MS) as report:
        page.click("text=Make the report")
    report.value.save_as(tmp_path / "report.csv")
    assert "happiness" in (tmp_path / "report.csv").read_text("utf-8")
    kept = json.loads(page.evaluate("sessionStorage.getItem('emollama.stored')"))
    assert len(kept) == 1

    page.click("#delete")
    page.wait_for_selector("#result", state="hidden")
    assert page.evaluate("Object.keys(sessionStorage)") == []
    assert page.request.get(f"{visit.base}/v1/analyses/{kept[0]}").status == 404
    assert page.locator("#file").evaluate("input => input.files.length") == 0

    # A further question that names the forgotten clip is refused; the clip must go out anew.
    further = page.request.post(f"{visit.base}/v1/chat/completions", data=json.loads(asked[1]))
    assert (further.status, further.json()["error"]["code"]) == (400, "clip_not_cached")
    send(page, clip)
    assert page.locator(".talk li").count() == 0
    page.fill("#question", "How does the person appear?")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector('.ask button').disabled")
    assert len(asked) == 3
    assert "base64" in asked[2]


def test_errors_are_said_as_the_service_words_them(visit: Any, tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("these are no pictures")
    page = visit.page
    page.click("#analyse")
    page.get_by_role("alert").get_by_text("Choose or record a clip first.").wait_for()
    page.set_input_files("#file", str(tmp_path / "words.mp4"))
    with page.expect_response("**/analyze?stream=true") as answer:
        page.click("#analyse")
    message = answer.value.json()["error"]["message"]
    page.get_by_role("alert").get_by_text(message).wait_for()
    page.get_by_role("alert").get_by_text("This is not a file that can be read here. Allowed: video (mp4").wait_for()
    assert page.locator("#result").is_hidden()
    # The browser writes every refused request to its console; this one was meant to be refused.
    visit.faults[:] = [each for each in visit.faults if "415" not in each]


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(browser: Any, service_with_keys: tuple[str, str]) -> None:
    base, key = service_with_keys
    page = browser.new_page()
    page.goto(f"{base}/")
    page.wait_for_selector("body[data-ready]")
    page.set_input_files("#file", str(SAMPLE))
    page.click("#analyse")
    page.get_by_role("alert").get_by_text("This service wants an API key.").wait_for()
    for close in (lambda: page.keyboard.press("Escape"), lambda: page.get_by_role("button", name="Cancel").click()):
        page.click("#open-key")
        page.wait_for_selector("#key-dialog[open]")
        close()
        page.wait_for_selector("#key-dialog", state="hidden")
        assert page.evaluate("document.activeElement.id") == "open-key"
    page.get_by_role("alert").get_by_role("button").click()
    page.fill("#key", key)
    with page.expect_response("**/v1/models") as models:
        page.keyboard.press("Enter")
    assert models.value.status == 200
    page.click("#analyse")
    page.wait_for_selector("#delete", timeout=ANALYSIS_MS)
    assert page.evaluate("sessionStorage.getItem('emollama.key')") == key
    assert key not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
    page.close()


def test_german_by_the_keyboard_in_the_dark(visit: Any) -> None:
    page = visit.page
    page.emulate_media(color_scheme="dark")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.select_option("#language", "de")
    page.wait_for_selector("html[lang=de]")
    page.get_by_role("heading", name="Wie wirkt jemand?").wait_for()
    for name in ("jobs", "models", "analyse"):
        page.locator(f"nav [data-view={name}]").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#view-{name}:not([hidden])")
        page.wait_for_load_state("networkidle")
        assert faults_for_readers(page) == []
    send(page, SAMPLE)
    assert page.locator("#label").inner_text() == "Wirkt fröhlich"
    page.locator(".segment").nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".segment.now[data-label=happiness]")
    assert time_of(page) > 1
    assert faults_for_readers(page) == []


def test_a_clip_is_recorded(visit: Any) -> None:
    page = visit.page
    page.click("#record-open")
    page.wait_for_selector("#record-toggle:not([disabled])")
    page.wait_for_function("() => document.querySelector('#camera').readyState >= 2")
    page.click("#record-toggle")
    page.wait_for_timeout(1500)
    page.click("#record-toggle")
    page.wait_for_selector("#chosen:not([hidden])")
    assert "recording.webm" in page.locator("#chosen").inner_text()
    page.click("#analyse")
    page.wait_for_selector("#delete", timeout=ANALYSIS_MS)


def test_a_training_is_refused_line_by_line_then_followed_and_cancelled(visit: Any, tmp_path: Path) -> None:
    page = visit.page
    page.click("nav [data-view=jobs]")
    rows = [
        {"id": f"row-{index}", "transcript": f"I am {word} today", "label": word}
        for index, word in enumerate(["glad", "tired"] * 8)
    ]
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "clip": "gone.mp4", "label": "glad"}\n')
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.set_input_files("#job-file", str(tmp_path / "bad.jsonl"))
    with page.expect_response("**/fine_tuning/jobs", timeout=30_000) as answer:
        page.click("text=Check the data and start")
    problems = answer.value.json()["error"]["problems"]
    shown = page.get_by_role("alert").get_by_role("listitem")
    shown.first.wait_for()
    for problem, item in zip(problems, shown.all_inner_texts(), strict=True):
        assert problem["message"] in item
    assert any("line 1" in item for item in shown.all_inner_texts())
    visit.faults[:] = [each for each in visit.faults if "400" not in each]
    page.set_input_files("#job-file", str(tmp_path / "good.jsonl"))
    page.fill("#job-suffix", "glad")
    page.fill("#job-epochs", "50")
    page.click("text=Check the data and start")
    page.wait_for_selector("#job-status", timeout=60_000)
    page.wait_for_selector("#job-curve canvas", timeout=ANALYSIS_MS)
    assert faults_for_readers(page) == []

    # Paused, the page does not lose it; going on, it is followed again, and no event is told twice.
    page.get_by_role("button", name="Pause", exact=True).click()
    page.locator("#job-status", has_text="paused").wait_for(timeout=ANALYSIS_MS)
    go_on = page.get_by_role("button", name="Go on", exact=True)
    assert go_on.evaluate("button => button === document.activeElement")
    go_on.click()
    page.locator("#job-status", has_text="running").wait_for(timeout=ANALYSIS_MS)
    told = page.locator("#job .log li")
    before = told.count()
    page.wait_for_function(
        "many => document.querySelectorAll('#job .log li').length > many", arg=before, timeout=ANALYSIS_MS
    )
    assert sum("was paused" in each for each in told.all_inner_texts()) == 1
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.locator("#job-status", has_text="cancelled").wait_for(timeout=ANALYSIS_MS)
