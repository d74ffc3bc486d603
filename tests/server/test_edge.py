"""Request ids, headers, log lines, the API page: what every request meets."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

import httpx
import pytest

from server.errors import CODES, without_paths
from server.logs import JsonFormatter, TextFormatter, log_config
from server.middleware import SECURITY_HEADERS, EdgeMiddleware
from server.routes import docs
from server.schemas.analysis import EXAMPLE, AnalysisOut

pytestmark = pytest.mark.anyio

CLIP = {"file": ("my secret.mp4", b"the clip", "video/mp4")}


@pytest.mark.parametrize("path", ["/health", "/nothing", "/analyze", "/docs", "/openapi.json"])
async def test_every_answer_has_an_id_and_security_headers(service: Any, path: str) -> None:
    async with service() as s:
        response = await s.client.get(path, headers={"x-request-id": "abc-1"})
        assert response.headers["x-request-id"] == "abc-1"
        for name in SECURITY_HEADERS:
            assert name in response.headers
        assert "server" not in response.headers


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "é", "a\tb"])
async def test_an_odd_request_id_is_replaced(service: Any, given: str) -> None:
    async with service() as s:
        response = await s.client.get("/health", headers={"x-request-id": given.encode()})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_a_request_is_one_log_line_without_content(service: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with service() as s:
        await s.client.post(
            "/analyze", files=CLIP, data={"transcript": "a private word"}, headers={"x-request-id": "r1"}
        )
        await s.client.post("/analyze?token=private", files=CLIP, data={"labels": "private"})
        await s.client.get("/private/path")
    lines = [json.loads(JsonFormatter().format(r)) for r in caplog.records if r.name == "server.requests"]
    assert [(line["status"], line["route"], line.get("error_code")) for line in lines] == [
        (200, "/analyze", None),
        (400, "/analyze", "invalid_value"),
        (404, None, "not_found"),
    ]
    assert lines[0]["request_id"] == "r1"
    assert lines[0]["method"] == "POST"
    assert lines[0]["bytes_in"] > 8
    assert {"duration_ms", "waited_ms", "analyzed_ms"} <= set(lines[0])
    everything = "\n".join(JsonFormatter().format(r) for r in caplog.records if r.name.startswith("server"))
    assert "private" not in everything
    assert "secret" not in everything


async def test_a_fault_is_logged_with_its_places_and_told_with_its_id(
    service: Any, analyzer_type: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(analyzer_type(error=RuntimeError("what the person said"))) as s:
        response = await s.client.post("/analyze", files=CLIP, headers={"x-request-id": "r7"})
    assert response.status_code == 500
    assert "r7" in response.json()["error"]["message"]
    assert response.headers["x-request-id"] == "r7"
    record = next(r for r in caplog.records if r.message == "unplanned error")
    line = json.loads(JsonFormatter().format(record))
    assert line["request_id"] == "r7"
    assert line["exception"] == "RuntimeError"
    assert any("analyze" in place for place in line["trace"])
    assert "what the person said" not in json.dumps(line)


async def test_a_fault_after_the_answer_began_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await EdgeMiddleware(app)(scope, None, send)  # type: ignore[arg-type]
    assert sent == ["http.response.start"]
    assert "unplanned error" in caplog.text


async def test_other_protocols_pass_the_edge_untouched() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await EdgeMiddleware(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_text_lines_are_for_people() -> None:
    try:
        raise ValueError("quoted input") from KeyError("inner")
    except ValueError:
        record = logging.LogRecord("server", logging.ERROR, __file__, 1, "no %s", ("luck",), sys.exc_info())
    record.fields = {"model": "nano"}
    text = TextFormatter().format(record)
    first, *places = text.splitlines()
    assert "error" in first
    assert "no luck model=nano exception=ValueError" in first
    assert places[-1].strip() == "KeyError"
    assert "quoted input" not in text


@pytest.mark.parametrize("style", ["json", "text"])
def test_the_log_configuration_can_be_used(style: str) -> None:
    import logging.config

    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logging.config.dictConfig(log_config(level="warning", style=style))
        assert root.level == logging.WARNING
    finally:
        root.handlers[:], root.level = before


def test_paths_are_taken_out_of_messages() -> None:
    assert without_paths("'/tmp/e-1/r-2/upload.mp4': bad", "/tmp/e-1") == "'the file': bad"
    assert without_paths("nothing to hide", None) == "nothing to hide"


async def test_browsers_of_other_origins_are_let_in_only_when_named(service: Any) -> None:
    origin = {"origin": "https://app.example"}
    async with service() as s:
        assert "access-control-allow-origin" not in (await s.client.get("/health", headers=origin)).headers
    async with service(cors_origins="https://app.example, https://b.example") as s:
        response = await s.client.get("/health", headers=origin)
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        other = await s.client.get("/health", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


# ---- the API page -------------------------------------------------------------------------------------------------


async def test_the_api_page_loads_everything_from_the_service(service: Any) -> None:
    async with service() as s:
        page = await s.client.get("/docs")
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 5
        for link in links:
            assert not link.startswith(("http", "/"))
            response = await s.client.get(f"/{link}")
            assert response.status_code == 200, link
            assert len(response.content) > 50
        start = await s.client.get("/docs/assets/start.js")
        assert 'url: "openapi.json"' in start.text
        for name in ("../../etc/passwd", "redoc.standalone.js", "%2e%2e"):
            assert (await s.client.get(f"/docs/assets/{name}")).status_code == 404


async def test_the_api_page_can_be_switched_off(service: Any) -> None:
    async with service(docs=False) as s:
        for path in ("/docs", "/openapi.json", "/docs/assets/start.js"):
            assert (await s.client.get(path)).status_code == 404


async def test_without_its_package_the_api_page_says_what_is_missing(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs.asset_folder.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    async with service() as s:
        response = await s.client.get("/docs/assets/swagger-ui.css")
    docs.asset_folder.cache_clear()
    assert (response.status_code, response.json()["error"]["code"]) == (501, "dependency_missing")


async def test_the_document_describes_every_route_with_examples(service: Any) -> None:
    async with service() as s:
        document = (await s.client.get("/openapi.json")).json()
    jobs, one = "/v1/fine_tuning/jobs", "/v1/analyses/{analysis_id}"
    assert set(document["paths"]) == {
        "/analyze", "/v1/chat/completions", "/v1/chat/clips/{uuid}", "/health", "/ready", "/v1/models",
        "/v1/models/{model}", "/v1/notice", "/v1/purposes", "/v1/audit", "/v1/reports/summary", "/v1/reports/video",
        "/v1/analyses", one, f"{one}/cancel", f"{one}/events", f"{one}/report", "/v1/owners/{owner}",
        "/v1/load_lora_adapter", "/v1/unload_lora_adapter",
        "/v1/files", "/v1/files/{file_id}", "/v1/files/{file_id}/content", jobs, f"{jobs}/{{fine_tuning_job_id}}",
        *(f"{jobs}/{{fine_tuning_job_id}}/{name}" for name in ("cancel", "pause", "resume", "events", "checkpoints")),
    }  # fmt: skip
    named = set(re.findall(r"#/components/schemas/([A-Za-z]+)", json.dumps(document)))
    assert named <= set(document["components"]["schemas"])
    assert "HTTPValidationError" not in document["components"]["schemas"]
    analyze = document["paths"]["/analyze"]["post"]
    form = analyze["requestBody"]["content"]["multipart/form-data"]
    assert list(form["schema"]["properties"]) == [
        "file", "transcript", "labels", "language", "model", "timeline", "consent_reference",
    ]  # fmt: skip
    assert form["examples"]
    answers = analyze["responses"]
    assert set(answers) >= {"200", "400", "404", "408", "413", "415", "422", "429", "500", "503", "504"}
    AnalysisOut.model_validate(answers["200"]["content"]["application/json"]["example"])
    for status, answer in answers.items():
        if status in ("200", "default"):
            continue
        examples = answer["content"]["application/json"]["examples"]
        assert examples
        for code, example in examples.items():
            assert example["value"]["error"]["code"] == code
            assert set(example["value"]["error"]) == {"message", "type", "param", "code"}
            assert str(CODES[code].status) == status


async def test_behind_a_prefix_the_document_says_so(service: Any) -> None:
    async with service() as s:
        transport = httpx.ASGITransport(app=s.app, root_path="/emotion")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            document = (await client.get("/emotion/openapi.json")).json()
            assert document["servers"] == [{"url": "/emotion"}]
            assert (await client.get("/emotion/health")).status_code == 200
            assert (await client.get("/emotion/docs/assets/start.js")).status_code == 200


def test_the_example_is_whole_and_consistent() -> None:
    assert AnalysisOut.model_validate(EXAMPLE).model_dump(mode="json") == EXAMPLE
    assert sum(EXAMPLE["emotion"]["scores"].values()) == pytest.approx(1)
    assert 30 <= len(EXAMPLE["rationale"].split()) <= 80
