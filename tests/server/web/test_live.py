"""The live view in a real browser, whose camera and microphone are files, before a real service with nano.

``PAGE_PICTURES=docs/images`` also writes the pictures of `docs/live.md`. How soon and how often readings come is shown
by `emollama bench live`; one test holds what was promised, in the best of some sessions, as others may use the machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.bench_live import watch
from eval.live_media import write_camera, write_microphone

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "emollama" / "assets" / "sample" / "sample.mp4"
SINGLE_FACE = ROOT.parent / "shared" / "clips" / "single_face.mp4"
READING_MS = 60_000
Look = Callable[..., Any]


def faults_for_readers(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]


def picture(page: Any, name: str) -> None:
    folder = os.environ.get("PAGE_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def readings(page: Any) -> int:
    return int(page.locator("#live").get_attribute("data-readings") or 0)


def wait_for_reading(page: Any, number: int) -> None:
    page.wait_for_function(
        "number => Number(document.querySelector('#live').dataset.readings) >= number", arg=number, timeout=READING_MS
    )


class Seen:
    """A page, its faults, and where it went."""

    def __init__(self, context: Any, base: str) -> None:
        self.base, self.faults, self.elsewhere, self.sockets = base, [], [], []
        self.page = context.new_page()
        self.page.on("console", lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else 0)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("websocket", lambda socket: self.sockets.append(socket.url))
        context.on(
            "request",
            lambda asked: 0 if asked.url.startswith((base, "blob:", "data:")) else self.elsewhere.append(asked.url),
        )


@pytest.fixture
def camera(browser_path: str, tmp_path: Path) -> Iterator[Look]:
    """``camera(base, clip)``: the page in a browser whose camera and microphone show a clip again and again."""
    from playwright.sync_api import sync_playwright

    opened: list[Seen] = []
    with sync_playwright() as playwright:

        def start(base: str, clip: Path | None = SAMPLE, **options: Any) -> Seen:
            flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
            if clip is not None:
                write_camera(clip, tmp_path / "camera.y4m")
                write_microphone(clip, tmp_path / "microphone.wav")
                flags.append(f"--use-file-for-fake-video-capture={tmp_path / 'camera.y4m'}")
                flags.append(f"--use-file-for-fake-audio-capture={tmp_path / 'microphone.wav'}")
            browser = playwright.chromium.launch(executable_path=browser_path, args=flags)
            size = {"width": 1280, "height": 900}
            seen = Seen(browser.new_context(viewport=size, locale="en-GB", **options), base)
            opened.append(seen)
            seen.page.goto(f"{base}/#live")
            seen.page.wait_for_selector("body[data-ready]")
            return seen

        yield start
    for seen in opened:
        assert seen.faults == []
        assert seen.elsewhere == []
        assert all(url.startswith(seen.base.replace("http:", "ws:")) for url in seen.sockets)


def clips() -> list[Any]:
    missing = pytest.mark.skipif(not SINGLE_FACE.exists(), reason=f"no {SINGLE_FACE.name} beside the checkout")
    return [
        pytest.param(SAMPLE, id="sample"),
        pytest.param(SINGLE_FACE, id="single_face", marks=[pytest.mark.shared_data, missing]),
    ]


@pytest.mark.parametrize("clip", clips())
def test_a_face_before_the_camera_is_read_again_and_again(camera: Look, web_service: str, clip: Path) -> None:
    seen = camera(web_service, clip)
    page = seen.page
    assert faults_for_readers(page) == []
    page.focus("#live-toggle")
    page.keyboard.press("Enter")
    wait_for_reading(page, 6)
    page.locator("#live-verdict .label[data-label=happiness]", has_text="happy").wait_for(timeout=READING_MS)
    assert page.locator("#live-verdict tbody tr").count() == 8
    assert "readings a second" in page.locator("#live-pace").inner_text()
    painted = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(each => each)"
    assert page.locator("#live .boxes").evaluate(painted)
    assert len(seen.sockets) == 1

    page.click("#live-why")
    page.wait_for_function("() => document.querySelector('#live-rationale').textContent.endsWith('.')")
    assert "appear" in page.locator("#live-rationale").inner_text()
    page.wait_for_function("() => document.querySelector('#status').textContent.length > 0")
    page.click("#live details summary")
    page.wait_for_selector("#live details tbody tr")
    wait_for_reading(page, readings(page) + 8)
    assert faults_for_readers(page) == []
    picture(page, "page-live-desktop")
    page.set_viewport_size({"width": 390, "height": 844})
    wait_for_reading(page, readings(page) + 3)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    picture(page, "page-live-phone")

    page.click("#live-toggle")
    page.locator("#live-toggle", has_text="Start").wait_for()
    page.locator(".live-idle").wait_for()
    assert page.locator("#live-camera").evaluate("video => video.srcObject") is None
    stopped_at = readings(page)
    page.wait_for_timeout(1000)
    assert readings(page) == stopped_at


def test_without_a_face_and_a_voice_nothing_is_claimed(camera: Look, web_service: str) -> None:
    page = camera(web_service, None).page  # the browser's own test picture, and a beep
    page.select_option("#live-microphones", "none")
    page.click("#live-toggle")
    wait_for_reading(page, 4)
    assert page.locator("#live-verdict .label").inner_text() == "Nobody is seen or heard"
    assert page.locator("#live-verdict [data-label]").count() == 0


def test_another_view_ends_the_session_and_lets_go_of_the_camera(camera: Look, web_service: str) -> None:
    page = camera(web_service).page
    page.click("#live-toggle")
    wait_for_reading(page, 2)
    page.click("nav [data-view=models]")
    page.wait_for_function("() => document.querySelector('#live-camera').srcObject === null")
    page.click("nav [data-view=live]")
    page.locator("#live-toggle", has_text="Start").wait_for()
    page.click("#live-toggle")
    wait_for_reading(page, 2)


def test_in_german_in_the_dark(camera: Look, web_service: str) -> None:
    page = camera(web_service, color_scheme="dark").page
    page.select_option("#language", "de")
    page.get_by_role("heading", name="Wie wirkt jemand gerade?").wait_for()
    page.click("#live-toggle")
    read = page.locator("#live-verdict .label[data-label]", has_text=re.compile("^(Wirkt|Zu unsicher)"))
    read.wait_for(timeout=READING_MS)
    assert faults_for_readers(page) == []


def test_a_service_with_keys_is_told_the_key_in_the_first_message(
    camera: Look, service_with_keys: tuple[str, str]
) -> None:
    base, key = service_with_keys
    seen = camera(base)
    page = seen.page
    page.click("#live-toggle")
    page.get_by_role("alert").get_by_text("API key").wait_for()
    page.click("#open-key")
    page.fill("#key", key)
    page.keyboard.press("Enter")
    page.click("#live-toggle")
    wait_for_reading(page, 2)
    assert all(key not in url for url in seen.sockets)
    # the models, which a service with keys lists for nobody
    seen.faults[:] = [each for each in seen.faults if "401" not in each]


def test_readings_are_as_soon_and_as_frequent_as_promised(browser_path: str) -> None:
    runs, _ = watch(SAMPLE, sessions=3, seconds=4.0, model="nano")
    assert min(run.first_face_ms for run in runs) < 1500
    assert max(run.readings_per_second for run in runs) >= 2
