"""POST /analyze as a client sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from emollama import errors

pytestmark = pytest.mark.anyio

CLIP = {"file": ("clip.mp4", b"\x00\x01 the clip", "video/mp4")}


def error_of(response: Any) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


async def test_a_clip_gives_the_documented_answer(service: Any, analysis: Any) -> None:
    async with service() as s:
        response = await s.client.post("/analyze", files=CLIP)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        assert response.json() == analysis.to_json_dict()
        assert s.analyzer.calls[0]["bytes"] == b"\x00\x01 the clip"
        assert s.analyzer.calls[0]["name"] == "clip.mp4"
        assert s.uploads() == []


async def test_fields_reach_the_analyzer(service: Any) -> None:
    fields = {
        "transcript": " Grüße, ok ",
        "labels": "joy, fear",
        "language": "pt-BR",
        "timeline": "false",
        "model": "nano",
    }
    async with service(max_seconds=7, max_upload_mb=2) as s:
        response = await s.client.post("/analyze", files=CLIP, data=fields)
        assert response.status_code == 200
        assert response.json()["timeline"] == []
        call = s.analyzer.calls[0]
        assert call["transcript"] == "Grüße, ok"
        assert call["labels"] == ("joy", "fear")
        assert call["language"] == "pt-BR"
        assert call["timeline"] is False
        assert (call["limits"].max_seconds, call["limits"].max_bytes) == (7, 2 * 1024 * 1024)


async def test_empty_fields_count_as_not_sent(service: Any) -> None:
    async with service() as s:
        fields = {"transcript": "", "labels": " ", "language": "", "timeline": "", "model": ""}
        assert (await s.client.post("/analyze", files=CLIP, data=fields)).status_code == 200
        call = s.analyzer.calls[0]
        assert (call["transcript"], call["labels"], call["language"], call["timeline"]) == (None, None, None, True)


async def test_labels_may_name_a_taxonomy(service: Any) -> None:
    async with service() as s:
        await s.client.post("/analyze", files=CLIP, data={"labels": "mer"})
        assert s.analyzer.calls[0]["labels"] == ("neutral", "anger", "happiness", "sadness", "worry", "surprise")


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"labels": "joy"}, 400, "invalid_value", "labels"),
        ({"labels": "joy, happy"}, 400, "invalid_value", "labels"),
        ({"language": "a language"}, 400, "invalid_value", "language"),
        ({"timeline": "perhaps"}, 400, "invalid_value", "timeline"),
        ({"transcript": "a" * 20_001}, 400, "invalid_value", "transcript"),
        ({"label": "joy, fear"}, 400, "unknown_field", "label"),
        ({"model": "mega"}, 404, "model_not_found", "model"),
        ({"transcript": "a" * 70_000}, 413, "field_too_large", "transcript"),
    ],
)
async def test_a_wrong_field_is_named(service: Any, fields: dict[str, str], status: int, code: str, param: str) -> None:
    async with service() as s:
        response = await s.client.post("/analyze", files=CLIP, data=fields)
        assert response.status_code == status
        error = error_of(response)
        assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
        assert s.analyzer.calls == []
        assert s.uploads() == []


async def test_the_messages_say_what_is_allowed(service: Any) -> None:
    async with service() as s:
        response = await s.client.post("/analyze", files=CLIP, data={"labels": "joy"})
        assert error_of(response)["message"] == "labels holds 1 names; allowed: 2 to 64"
        response = await s.client.post("/analyze", files=CLIP, data={"model": "mega"})
        assert error_of(response)["message"] == "unknown model 'mega'; known: nano"
        response = await s.client.post("/analyze", files=CLIP, data={"label": "x"})
        assert "file, transcript, labels, language, model, timeline" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.UnsupportedMediaError("clip.mp4 is not media", field="file"), 415, "unsupported_media"),
        (errors.UndecodableMediaError("clip.mp4 holds nothing"), 422, "undecodable_media"),
        (errors.MediaLimitError("clip.mp4 lasts too long"), 422, "media_limit_exceeded"),
        (errors.MediaError("clip.mp4 is odd"), 422, "undecodable_media"),
        (errors.InputError("language is odd", field="language"), 400, "invalid_value"),
        (errors.CheckpointError("/models/secret is damaged"), 500, "internal_error"),
        (errors.DependencyError("pip install /secret"), 501, "dependency_missing"),
        (RuntimeError("/secret and the transcript"), 500, "internal_error"),
        (FileNotFoundError(2, "gone", "/secret"), 500, "internal_error"),
    ],
)
async def test_an_error_of_the_work_has_its_status(
    service: Any, analyzer_type: Any, caplog: pytest.LogCaptureFixture, error: Exception, status: int, code: str
) -> None:
    async with service(analyzer_type(error=error)) as s:
        response = await s.client.post("/analyze", files=CLIP)
        assert response.status_code == status
        assert error_of(response)["code"] == code
        assert "secret" not in response.text
        assert "Traceback" not in response.text
        assert s.uploads() == []
        # The place is free again.
        s.analyzer.error = None
        assert (await s.client.post("/analyze", files=CLIP)).status_code == 200


@pytest.mark.in_process(reason="only an encoder has the file")
async def test_paths_of_the_machine_stay_inside(service: Any, analyzer_type: Any) -> None:
    class Telling(analyzer_type):  # type: ignore[misc]
        def analyze(self, source: Any, **options: Any) -> Any:
            raise errors.UndecodableMediaError(f"cannot open '{source}': moov atom not found")

    async with service(Telling()) as s:
        message = error_of(await s.client.post("/analyze", files=CLIP))["message"]
        assert message == "cannot open 'the file': moov atom not found"


async def test_numbers_that_json_cannot_hold_are_a_fault_not_an_answer(
    service: Any, analyzer_type: Any, analysis: Any
) -> None:
    class Broken(analyzer_type):  # type: ignore[misc]
        def analyze(self, source: Any, **options: Any) -> Any:
            import dataclasses

            return dataclasses.replace(analysis, seconds=float("nan"))

    async with service(Broken()) as s:
        assert (await s.client.post("/analyze", files=CLIP)).status_code == 500


async def test_too_many_clips_at_once_are_told_when_to_come_back(
    service: Any, analyzer_type: Any, eventually: Any
) -> None:
    async with service(analyzer_type(hold=True), concurrency=1, queue_size=1) as s:
        first = asyncio.create_task(s.client.post("/analyze", files=CLIP))
        second = asyncio.create_task(s.client.post("/analyze", files=CLIP))
        gate = s.app.state.gate
        await eventually(lambda: gate.num_running == 1 and gate.num_waiting == 1)
        refused = await s.client.post("/analyze", files=CLIP)
        assert refused.status_code == 429
        assert error_of(refused)["code"] == "busy"
        assert error_of(refused)["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        s.analyzer.release.set()
        assert (await first).status_code == (await second).status_code == 200
        assert (await s.client.post("/analyze", files=CLIP)).status_code == 200
        assert s.uploads() == []


async def test_an_analysis_that_takes_too_long_is_stopped(service: Any, analyzer_type: Any, eventually: Any) -> None:
    async with service(analyzer_type(hold=True), request_timeout_seconds=0.2) as s:
        response = await s.client.post("/analyze", files=CLIP)
        assert response.status_code == 504
        assert error_of(response)["code"] == "deadline_exceeded"
        assert error_of(response)["type"] == "server_error"
        assert s.uploads() == []
        await eventually(s.analyzer.was_cancelled.is_set)


async def test_before_the_model_is_there_clips_are_refused(service: Any, analyzer_type: Any, eventually: Any) -> None:
    import threading

    go = threading.Event()

    def load(spec: Any) -> Any:
        go.wait(20)
        return analyzer_type()

    async with service(load=load) as s:
        assert (await s.client.get("/health")).status_code == 200
        for response in (await s.client.get("/ready"), await s.client.post("/analyze", files=CLIP)):
            assert response.status_code == 503
            assert error_of(response)["code"] == "not_ready"
            assert response.headers["retry-after"] == "2"
        assert (await s.client.head("/ready")).status_code == 503
        go.set()
        await eventually(lambda: s.app.state.models.names)
        ready = await s.client.get("/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "models": ["nano"]})
        assert (await s.client.post("/analyze", files=CLIP)).status_code == 200


async def test_a_model_that_cannot_be_loaded_leaves_the_service_alive(
    service: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def load(spec: Any) -> Any:
        raise errors.CheckpointError("/models/nano is damaged")

    async with service(load=load) as s:
        await eventually(lambda: s.app.state.models.describe_all() == [])
        response = await s.client.get("/ready")
        assert response.status_code == 503
        assert error_of(response)["code"] == "model_load_failed"
        assert "/models" not in response.text
        assert (await s.client.get("/health")).json()["status"] == "ok"
    assert any(getattr(record, "fields", {}).get("reason") == "/models/nano is damaged" for record in caplog.records)


async def test_adapters_are_listed_with_their_parent_and_answer_by_name(service: Any, analyzer_type: Any) -> None:
    loaded = {}

    def load(spec: Any) -> Any:
        loaded[spec.name] = analyzer_type()
        return loaded[spec.name]

    async with service(load=load, adapters="shop=/srv/adapters/shop-v2, talk=/srv/adapters/talk") as s:
        while len(s.app.state.models.names) < 3:
            await asyncio.sleep(0.01)
        listed = (await s.client.get("/v1/models")).json()
        assert listed["object"] == "list"
        assert [(m["id"], m["root"], m["parent"]) for m in listed["data"]] == [
            ("nano", "nano", None),
            ("shop", "shop-v2", "nano"),
            ("talk", "talk", "nano"),
        ]
        assert (await s.client.get("/v1/models/shop")).json() == listed["data"][1]
        missing = await s.client.get("/v1/models/mega")
        assert missing.status_code == 404
        assert error_of(missing)["code"] == "model_not_found"
        assert (await s.client.post("/analyze", files=CLIP, data={"model": "talk"})).status_code == 200
        assert (len(loaded["talk"].calls), len(loaded["nano"].calls)) == (1, 0)


async def test_a_model_in_a_folder_goes_by_its_name(service: Any, analyzer_type: Any, eventually: Any) -> None:
    loaded = []

    def load(spec: Any) -> Any:
        loaded.append(spec.base)
        return analyzer_type()

    async with service(load=load, model="/srv/models/mine", adapters="shop=/srv/shop") as s:
        await eventually(lambda: len(s.app.state.models.names) == 2)
        listed = (await s.client.get("/v1/models")).json()["data"]
        assert [(m["id"], m["root"], m["parent"]) for m in listed] == [("mine", "mine", None), ("shop", "shop", "mine")]
        assert loaded == ["/srv/models/mine"] * 2


async def test_one_failed_adapter_leaves_the_others_alone(service: Any, analyzer_type: Any, eventually: Any) -> None:
    def load(spec: Any) -> Any:
        if spec.adapter:
            raise ValueError("broken")
        return analyzer_type()

    async with service(load=load, adapters="shop=/srv/shop") as s:
        await eventually(lambda: s.app.state.models.names and len(s.app.state.models.describe_all()) == 1)
        assert (await s.client.get("/ready")).status_code == 200
        response = await s.client.post("/analyze", files=CLIP, data={"model": "shop"})
        assert (response.status_code, error_of(response)["code"]) == (503, "model_load_failed")


async def test_every_answer_of_the_protocol_has_the_envelope(service: Any) -> None:
    async with service() as s:
        missing = await s.client.get("/nothing/here")
        assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
        method = await s.client.get("/analyze")
        assert (method.status_code, error_of(method)["code"]) == (405, "method_not_allowed")
        assert method.headers["allow"] == "POST"
        assert json.loads(method.content)["error"]["message"] == "GET is not allowed here; allowed: POST"
