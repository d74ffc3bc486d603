"""The notice for people whose expressions are read, and the consent that a clip refers to."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from emollama.errors import InputError
from server.notice_cli import app as command
from server.records import audit
from server.settings import Settings
from server.trust.notice import LANGUAGES, make_notice
from server.trust.purposes import PURPOSES

pytestmark = pytest.mark.anyio

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + b"sound" * 10
CLIP = {"file": ("clip.wav", WAV)}
SET_UP: dict[str, Any] = {
    "controller": "Example University", "contact": "privacy@university.example", "purpose": "research",
    "analysis_retention_days": 30, "chat_cache_seconds": 600,
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_says_what_people_must_be_told(language: str) -> None:
    notice = make_notice(Settings(**SET_UP), language=language)
    assert notice.missing == ()
    assert [section.name for section in notice.sections] == [
        "what", "how", "never", "purpose", "who", "retention", "rights",
    ]  # fmt: skip
    text = notice.text
    for told in ("Example University", "privacy@university.example", {"en": "30 days", "de": "30 Tage"}[language],
                 {"en": "10 minutes", "de": "10 Minuten"}[language],
                 {"en": "cientific research with people", "de": "issenschaftliche Forschung"}[language],
                 {"en": "appears", "de": "wirkt"}[language]):  # fmt: skip
        assert told in text
    assert not re.search(r"[\[\]{}]", text), "nothing is left open"
    assert "  " not in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_settings_do_not_say_stands_open(language: str) -> None:
    notice = make_notice(Settings(), language=language)
    assert notice.missing == ("controller", "contact", "purpose")
    assert len(re.findall(r"\[[^\]]+\]", notice.text)) == 3
    assert "purpose" not in make_notice(Settings(), language=language, purpose="media").missing
    # What it says of the log and of stored files is so only where it is so.
    audited, silent = (dict_of(make_notice(Settings(audit=kept), language=language)) for kept in (True, False))
    assert len(audited["retention"]) > len(silent["retention"])
    expiring = dict_of(make_notice(Settings(file_expire_days=2, analysis_retention_days=0.5), language=language))
    assert {"en": "2 days", "de": "2 Tage"}[language] in expiring["retention"]
    assert {"en": "12 hours", "de": "12 Stunden"}[language] in expiring["retention"]


def dict_of(notice: Any) -> dict[str, str]:
    return {section.name: section.text for section in notice.sections}


def test_every_purpose_has_words_in_both_languages() -> None:
    for name, purpose in PURPOSES.items():
        assert purpose.meaning, name
        assert purpose.german not in ("", purpose.meaning), name
    for wrong in ({"language": "fr"}, {"purpose": "workplace"}, {"purpose": "media"}):
        with pytest.raises(InputError, match=r"allowed|declared"):
            make_notice(Settings(**SET_UP), **wrong)  # type: ignore[arg-type]


async def test_the_route_needs_no_key(service: Any) -> None:
    async with service(auth="keys", **SET_UP) as s:
        answer = await s.client.get("/v1/notice", params={"language": "de"})
        assert answer.status_code == 200
        told = answer.json()
        assert (told["object"], told["language"], told["purposes"], told["missing"]) == (
            "notice", "de", ["research"], [],
        )  # fmt: skip
        assert told["text"] == make_notice(Settings(**SET_UP), language="de").text
        answer = await s.client.get("/v1/notice", params={"language": "fr"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "language")


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    printed = run(command, [])
    assert printed.exit_code == 0
    assert "EMOLLAMA_CONTROLLER, EMOLLAMA_CONTACT, EMOLLAMA_PURPOSE" in printed.stderr
    for name, value in SET_UP.items():
        monkeypatch.setenv(f"EMOLLAMA_{name.upper()}", str(value))
    printed = run(command, ["--language", "de", "--json"])
    assert json.loads(printed.stdout)["title"] == "Hier werden Ausdrücke gedeutet"
    assert printed.stderr == ""
    assert run(command, ["--language", "fr"]).exit_code == 2


# ---- consent --------------------------------------------------------------------------------------------------------


async def test_a_consent_is_kept_returned_and_listed(service: Any) -> None:
    async with service() as s:
        by_form = await s.client.post("/v1/analyses", files=CLIP, data={"consent_reference": "study-4/consent#17"})
        by_header = await s.client.post("/v1/analyses", files=CLIP, headers={"EmoLLaMA-Consent": "c-18"})
        without = await s.client.post("/v1/analyses", files=CLIP)
        file = await s.client.post("/v1/files", files=CLIP, data={"purpose": "user_data"})
        by_json = await s.client.post("/v1/analyses", json={"file_id": file.json()["id"], "consent_reference": "c-19"})
        made = [by_form, by_header, without, by_json]
        assert [each.json()["consent_reference"] for each in made] == ["study-4/consent#17", "c-18", None, "c-19"]
        found = await s.client.get(f"/v1/analyses/{by_form.json()['id']}")
        assert found.json()["consent_reference"] == "study-4/consent#17"
        listed = (await s.client.get("/v1/analyses")).json()["data"]
        assert [each["consent_reference"] for each in listed] == ["c-19", None, "c-18", "study-4/consent#17"]


@pytest.mark.parametrize("route", ["/analyze", "/v1/analyses"])
async def test_a_consent_is_a_reference_and_no_content(service: Any, route: str) -> None:
    async with service() as s:
        for wrong in ("ann@home.example", "Ann Smith", "x" * 101, "-x", "zebra\ncrossing"):
            answer = await s.client.post(route, files=CLIP, data={"consent_reference": wrong})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
            assert answer.json()["error"]["param"] == "consent_reference"
            told = answer.json()["error"]["message"]
            assert f"{wrong[:60]!r} is no reference; allowed: 1 to 100" in told or "at most 100 characters" in told
        both = {"files": CLIP, "data": {"consent_reference": "a"}, "headers": {"EmoLLaMA-Consent": "b"}}
        answer = await s.client.post(route, **both)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


async def test_a_service_may_insist_on_a_consent(service: Any) -> None:
    async with service(require_consent=True) as s:
        for route in ("/analyze", "/v1/analyses"):
            answer = await s.client.post(route, files=CLIP)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "consent_required")
            answer = await s.client.post(route, files=CLIP, headers={"EmoLLaMA-Consent": "c-18"})
            assert answer.status_code in (200, 202)
        chat = {"model": "nano", "messages": [{"role": "user", "content": "hello"}]}
        answer = await s.client.post("/v1/chat/completions", json=chat)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "consent_required")
        assert len(s.analyzer.calls) >= 1
        given = audit.page(s.app.state.store, after=None, limit=99, action="POST /analyze").items
        assert [(row.code, row.consent_reference) for row in given] == [(None, "c-18"), ("consent_required", None)]
        assert (await s.client.get("/v1/purposes")).json()["consent_required"] is True
