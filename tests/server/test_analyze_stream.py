"""POST /analyze?stream=true as a client sees it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from emollama import errors
from server.schemas.analysis import EXAMPLE, AnalysisOut
from server.schemas.stages import EVENTS, STREAM
from server.streaming.analysis_events import told

pytestmark = pytest.mark.anyio

CLIP = {"file": ("clip.mp4", b"\x00\x01 the clip", "video/mp4")}
STREAMED = "/analyze?stream=true"


def events_of(text: str) -> list[tuple[str, int, Any]]:
    """(name, id, data) of every event; comments are skipped, as a client does."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            assert set(fields) == {"event", "id", "data"}
            found.append((fields["event"], int(fields["id"]), json.loads(fields["data"])))
    assert [number for _, number, _ in found] == list(range(1, len(found) + 1))
    return found


async def test_the_stages_are_told_in_order_and_the_answer_last(service: Any, analysis: Any) -> None:
    async with service() as s:
        response = await s.client.post(STREAMED, files=CLIP)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-length" not in response.headers
        events = events_of(response.text)
        assert [name for name, _, _ in events] == ["decoded", "faces", "label", "rationale", "rationale", "done"]
        whole = analysis.to_json_dict()
        assert events[-1][2] == whole
        assert events[1][2] == {"faces": whole["faces"]}
        assert events[2][2] == {name: whole[name] for name in EVENTS["label"].model_fields}
        assert "".join(data["text"] for name, _, data in events if name == "rationale") == whole["rationale"]
        for name, _, data in events[:-1]:
            EVENTS[name].model_validate(data)
        assert s.uploads() == []
        page = (await s.client.get("/metrics")).text
        assert 'emollama_stage_seconds_count{stage="total"} 1.0' in page
        assert "emollama_queue_seconds_count 1.0" in page


@pytest.mark.parametrize(
    ("query", "accept", "streams"),
    [
        ("", "text/event-stream", True),
        ("", "application/json;q=0.5, Text/Event-Stream ; q=1", True),
        ("", "*/*", False),
        ("?stream=false", "text/event-stream", False),
        ("?stream=1", "application/json", True),
    ],
)
async def test_the_header_asks_for_it_too(service: Any, query: str, accept: str, streams: bool) -> None:
    async with service() as s:
        response = await s.client.post(f"/analyze{query}", files=CLIP, headers={"accept": accept})
        assert response.headers["content-type"].startswith("text/event-stream" if streams else "application/json")


async def test_what_is_not_ascii_goes_out_as_it_is(service: Any) -> None:
    async with service() as s:
        files = {"file": ("Grüße 😀.mp4", b"clip")}
        response = await s.client.post(STREAMED, files=files)
        assert "Grüße 😀.mp4".encode() in response.content
        assert events_of(response.text)[-1][2]["clip"] == "Grüße 😀.mp4"


@pytest.mark.parametrize(
    ("query", "fields", "error", "status", "code"),
    [
        ("?stream=perhaps", {}, None, 400, "invalid_value"),
        ("?stream=true", {"label": "joy"}, None, 400, "unknown_field"),
        ("?stream=true", {"model": "mega"}, None, 404, "model_not_found"),
        ("?stream=true", {}, errors.UndecodableMediaError("clip.mp4 holds nothing"), 422, "undecodable_media"),
        ("?stream=true", {}, RuntimeError("/secret"), 500, "internal_error"),
    ],
)
async def test_an_error_before_the_first_byte_keeps_its_status(
    service: Any, analyzer_type: Any, query: str, fields: Any, error: Exception | None, status: int, code: str
) -> None:
    async with service(analyzer_type(error=error)) as s:
        response = await s.client.post(f"/analyze{query}", files=CLIP, data=fields)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert response.headers["content-type"] == "application/json"
        assert "secret" not in response.text
        assert s.uploads() == []


def failing(analyzer_type: Any, stages_of: Any, analysis: Any, error: Exception) -> Any:
    """An analyzer that tells two stages and then fails."""

    class Failing(analyzer_type):  # type: ignore[misc]
        def stages(self, source: Any, **options: Any) -> Iterator[Any]:
            told = stages_of(analysis)
            yield next(told)
            yield next(told)
            if isinstance(error, errors.UndecodableMediaError):
                error.args = (f"cannot read '{source}' any further",)
            raise error

    return Failing()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        pytest.param(
            errors.UndecodableMediaError("x"),
            "undecodable_media",
            "cannot read 'the file' any further",
            marks=pytest.mark.in_process(reason="only an encoder has the file"),
        ),
        (errors.InputError("language is odd", field="language"), "invalid_value", "language is odd"),
        (OSError(28, "No space left"), "storage_full", "no room for the upload"),
        (RuntimeError("/secret and the transcript"), "internal_error", "under request id r-1"),
    ],
)
async def test_an_error_after_it_is_the_last_event(
    service: Any, analyzer_type: Any, stages_of: Any, analysis: Any, error: Exception, code: str, message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO", logger="server.requests")
    async with service(failing(analyzer_type, stages_of, analysis, error)) as s:
        response = await s.client.post(STREAMED, files=CLIP, headers={"x-request-id": "r-1"})
        assert response.status_code == 200
        events = events_of(response.text)
        assert [name for name, _, _ in events] == ["decoded", "faces", "error"]
        assert set(events[-1][2]) == {"error"}
        assert set(events[-1][2]["error"]) == {"message", "type", "param", "code"}
        assert events[-1][2]["error"]["code"] == code
        assert message in events[-1][2]["error"]["message"]
        assert "secret" not in response.text
        assert s.uploads() == []
        assert (s.app.state.gate.num_running, s.app.state.gate.num_waiting) == (0, 0)
    lines = [record.fields for record in caplog.records if record.name == "server.requests"]
    assert lines[0]["error_code"] == code


async def test_a_full_service_says_so_before_it_reads_the_clip(
    service: Any, analyzer_type: Any, eventually: Any
) -> None:
    async with service(analyzer_type(hold=True), concurrency=1, queue_size=0) as s:
        first = asyncio.create_task(s.client.post(STREAMED, files=CLIP))
        await eventually(s.analyzer.started.is_set)
        refused = await s.client.post(STREAMED, files=CLIP)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "busy")
        s.analyzer.release.set()
        assert events_of((await first).text)[-1][0] == "done"


async def test_a_deadline_is_an_answer_or_the_last_event(service: Any, analyzer_type: Any, eventually: Any) -> None:
    for heartbeat, streams in ((20, False), (0.05, True)):
        analyzer = analyzer_type(hold=True)
        async with service(analyzer, request_timeout_seconds=0.4, stream_heartbeat_seconds=heartbeat) as s:
            response = await s.client.post(STREAMED, files=CLIP)
            if streams:
                name, number, data = events_of(response.text)[-1]
                assert (response.status_code, name, number) == (200, "error", 1)
            else:
                assert response.status_code == 504
                data = response.json()
            assert data["error"]["code"] == "deadline_exceeded"
            assert data["error"]["message"] == "the analysis was not complete after 0.4 s"
            assert s.uploads() == []
            await eventually(analyzer.was_cancelled.is_set)
            await eventually(lambda s=s: s.app.state.gate.num_running == 0)


async def test_the_deadline_counts_the_time_in_the_queue(service: Any, analyzer_type: Any, eventually: Any) -> None:
    async with service(analyzer_type(hold=True), concurrency=1, queue_size=1, request_timeout_seconds=0.4) as s:
        answers = [asyncio.create_task(s.client.post("/analyze", files=CLIP)) for _ in range(2)]
        for answer in answers:
            response = await answer
            assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        await eventually(lambda: (s.app.state.gate.num_running, s.app.state.gate.num_waiting) == (0, 0))
        assert len(s.analyzer.calls) == 1  # the other never had a place, and takes none later


def test_a_stream_that_waits_says_that_it_is_there(live: Any, analyzer_type: Any) -> None:
    s = live(analyzer_type(hold=True), concurrency=1, stream_heartbeat_seconds=0.05)
    with httpx.Client(base_url=s.url, timeout=20) as client:
        with client.stream("POST", STREAMED, files=CLIP) as running:
            # the one that runs and the one that waits behind it
            threading.Thread(target=lambda: httpx.post(f"{s.url}{STREAMED}", files=CLIP, timeout=20)).start()
            seen: list[str] = []
            for line in running.iter_lines():
                seen.append(line)
                if sum(each.startswith(":") for each in seen) == 3:
                    s.analyzer.release.set()
            assert seen[0].startswith(": ")
            assert sum(each.startswith(":") for each in seen) >= 3
            assert events_of("\n".join(seen))[-1][0] == "done"


def test_the_clip_is_gone_before_the_answer_is_there(live: Any) -> None:
    s = live()
    with httpx.stream("POST", f"{s.url}{STREAMED}", files=CLIP, timeout=20) as response:
        for line in response.iter_lines():
            if line == "event: done":
                assert s.uploads() == []


async def test_openapi_has_both_answers(service: Any) -> None:
    async with service() as s:
        document = (await s.client.get("/openapi.json")).json()
        operation = document["paths"]["/analyze"]["post"]
        content = operation["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
        assert content["application/json"]["example"] == EXAMPLE
        flag = next(each for each in operation["parameters"] if each["name"] == "stream")
        assert (flag["in"], flag["required"]) == ("query", False)
        schemas = document["components"]["schemas"]
        for model in EVENTS.values():
            assert set(schemas[model.model_config["title"]]["properties"]) == set(model.model_fields)  # type: ignore[typeddict-item]


def test_the_documented_stream_is_one() -> None:
    events = events_of(STREAM["example"])
    for name, _, data in events[:-1]:
        EVENTS[name].model_validate(data)
    assert AnalysisOut.model_validate(events[-1][2])
    pieces = [data["text"] for name, _, data in events if name == "rationale"]
    assert "".join(pieces) == EXAMPLE["rationale"]


def test_an_event_has_the_fields_of_its_schema(stages_of: Any, analysis: Any) -> None:
    *stages, done = [told(event) for event in stages_of(analysis)]
    for event in stages:
        document = json.loads(event.data)
        assert list(document) != []
        assert set(document) == set(EVENTS[event.name].model_fields)
    assert done.name == "done"
