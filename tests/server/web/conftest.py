"""A real service with nano, and a browser that writes down what must not happen: faults, and requests to elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

READY_SECONDS = 150.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclasses.dataclass
class Visit:
    """An open page, and what was seen beside it."""

    page: Any
    base: str
    faults: list[str]
    elsewhere: list[str]

    def send(self, clip: Path) -> None:
        """Choose a clip, analyse it and wait until all of its answer is on the page."""
        self.page.set_input_files("#file", str(clip))
        self.page.click("#analyse")
        self.page.wait_for_selector("#delete", timeout=90_000)

    def expects(self, *words: str) -> None:
        """Take faults with one of these words out: the browser writes every refused request to its console."""
        self.faults[:] = [each for each in self.faults if not any(word in each for word in words)]

    def faults_for_readers(self) -> list[str]:
        """What axe-core finds that is serious or worse."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")
        ]


@pytest.fixture(scope="session")
def browser_path() -> str:
    pytest.importorskip("playwright.sync_api", reason="the extra `dev` is not installed: no playwright")
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of these is there: {', '.join(_BROWSERS)}")
    return found


@contextlib.contextmanager
def served(data: Path, **settings: str) -> Iterator[str]:
    """Run the command `emollama serve` with nano; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMOLLAMA_")}
    environment |= {"EMOLLAMA_DATA_DIR": str(data / "data"), "EMOLLAMA_MEDIA_WORKERS": "1", **settings}
    with (data / "log").open("w") as log:
        command = [sys.executable, "-m", "emollama.cli", "serve", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        try:
            base, until = f"http://127.0.0.1:{port}", time.monotonic() + READY_SECONDS
            while not _is_ready(base, settings.get("EMOLLAMA_ADMIN_KEY", "")):
                assert process.poll() is None, (data / "log").read_text()
                assert time.monotonic() < until, (data / "log").read_text()
                time.sleep(0.2)
            yield base
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def web_service(browser_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("web-service")) as base:
        yield base


@pytest.fixture
def service_with_keys(browser_path: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of a service that wants a key, and the key."""
    key = "operator-" + "k" * 32
    with served(tmp_path, EMOLLAMA_AUTH="keys", EMOLLAMA_ADMIN_KEY=key) as base:
        yield base, key


def _is_ready(base: str, key: str) -> bool:
    try:
        return httpx.get(f"{base}/ready", headers={"authorization": f"Bearer {key or 'none'}"}).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")  # as long as it is open, its event loop runs in this thread, and no other can
def browser(browser_path: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        opened = playwright.chromium.launch(executable_path=browser_path, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, web_service: str) -> Iterator[Visit]:
    """The page in a browser context of its own; a fault of it fails the test at its end."""
    with visiting(browser, web_service) as seen:
        yield seen


@contextlib.contextmanager
def visiting(browser: Any, base: str) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB", accept_downloads=True)
    page = context.new_page()
    seen = Visit(page=page, base=base, faults=[], elsewhere=[])
    page.on("console", lambda said: seen.faults.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.faults.append(str(error)))
    context.on(
        "request",
        lambda asked: None if asked.url.startswith((base, "blob:", "data:")) else seen.elsewhere.append(asked.url),
    )
    page.goto(f"{base}/")
    page.wait_for_selector("body[data-ready]")
    yield seen
    context.close()
    assert seen.faults == []
    assert seen.elsewhere == []
