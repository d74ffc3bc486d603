"""The page's files: their types and their policy, what they load, and the words of their languages."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from emollama import disclosure
from server.errors import CODES
from server.routes.page import FOLDER, TYPES, files
from server.trust.purposes import PURPOSES

pytestmark = pytest.mark.anyio

WORDS = {name: json.loads((FOLDER / "messages" / f"{name}.json").read_text("utf-8")) for name in ("en", "de")}
OWN_SCRIPTS = sorted(path for path in FOLDER.glob("*.js"))


async def test_every_file_comes_with_its_type_and_a_strict_policy(service: Any) -> None:
    async with service(auth="keys") as s:  # which the page's files do not ask for
        for path in ("/", *(f"/web/{name}" for name in files())):
            response = await s.client.get(path)
            assert response.status_code == 200, path
            kind = TYPES["." + path.rpartition(".")[2]] if path != "/" else TYPES[".html"]
            assert response.headers["content-type"] == kind, path
            assert response.headers["x-content-type-options"] == "nosniff"
            policy = dict(rule.strip().split(" ", 1) for rule in response.headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert not {"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} & {*re.split("[ ']", str(policy))}


@pytest.mark.parametrize("name", ["../auth.py", "%2e%2e/auth.py", "vendor", "vendor/README.md", "nothing.js", ""])
async def test_nothing_but_the_page_is_served(service: Any, name: str) -> None:
    async with service() as s:
        assert (await s.client.get(f"/web/{name}")).status_code == 404


def test_the_page_runs_nothing_inline_and_names_no_other_place() -> None:
    html = (FOLDER / "index.html").read_text("utf-8")
    assert re.findall(r"<script(?![^>]*\ssrc=)", html) == []
    assert re.findall(r"\s(?:style|on\w+)=", html) == []
    for path in (FOLDER / "index.html", FOLDER / "style.css", *OWN_SCRIPTS):
        text = path.read_text("utf-8")
        assert "://" not in text, path.name
        assert "innerHTML" not in text, path.name


def test_every_import_of_a_script_is_a_file() -> None:
    for path in OWN_SCRIPTS:
        for name in re.findall(r'from "\./([^"]+)"', path.read_text("utf-8")):
            assert name in files(), f"{path.name} imports {name}"


def test_every_word_is_there_in_every_language() -> None:
    assert set(WORDS["de"]) == set(WORDS["en"])
    for key, text in WORDS["en"].items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", WORDS["de"][key])), key


def test_every_word_that_the_page_asks_for_is_there() -> None:
    html = (FOLDER / "index.html").read_text("utf-8")
    asked = set(re.findall(r'data-(?:text|label|placeholder)="([^"]+)"', html))
    for path in OWN_SCRIPTS:
        asked |= set(re.findall(r'\bt\("([^"]+)"', path.read_text("utf-8")))
    assert len(asked) > 80
    assert asked <= set(WORDS["en"])


def test_no_word_is_kept_that_nothing_asks_for() -> None:
    code = "".join(path.read_text("utf-8") for path in (FOLDER / "index.html", *OWN_SCRIPTS))
    begun = tuple(re.findall(r"`([a-z]+[._][a-z_.]*)\$\{", code))  # t(`step.${name}`)
    unused = [key for key in WORDS["en"] if f'"{key}"' not in code and not key.startswith(begun)]
    assert unused == []


def test_every_purpose_has_its_words() -> None:
    for purpose in PURPOSES.values():
        assert WORDS["en"][f"purpose.{purpose.name}"] == purpose.meaning
        assert WORDS["de"][f"purpose.{purpose.name}"] == purpose.german


def test_every_error_that_has_words_is_an_error() -> None:
    own = {"title", "broken", "unreachable", "unknown", "come_back"}
    said = {key.removeprefix("problem.") for key in WORDS["en"] if key.startswith("problem.")}
    assert said - own <= set(CODES)


async def test_what_the_page_must_know_is_told_without_a_key(service: Any) -> None:
    async with service(auth="keys", max_seconds=7) as s:
        told = (await s.client.get("/web/service.json")).json()
    assert (told["wants_key"], told["max_seconds"], told["loads_adapters"]) == (True, 7, False)


def test_the_page_says_what_every_reading_says() -> None:
    assert WORDS["en"]["disclosure.expression"] == disclosure.EXPRESSION
    assert WORDS["en"]["disclosure.confidence"] == disclosure.CONFIDENCE
    assert WORDS["en"]["disclosure.never_read"] == disclosure.NEVER_READ
