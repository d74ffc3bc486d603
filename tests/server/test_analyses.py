"""`/v1/analyses`: a clip is taken, analysed beside other requests, kept for a while, and then it is gone."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from emollama.errors import UndecodableMediaError
from server.auth import new_key
from server.fetch import Fetcher
from server.models import load_analyzer
from server.records import analyses, keys
from server.schemas.analyses import AnalysisList, AnalysisTaskOut

pytestmark = pytest.mark.anyio

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + b"\0" * 32
FILE = {"file": ("talk.wav", WAV, "audio/wav")}
URL = "/v1/analyses"


async def send(
    s: Any, *, headers: dict[str, str] | None = None, name: str = "talk.wav", content: bytes = WAV, **fields: Any
) -> str:
    answer = await s.client.post(URL, files={"file": (name, content)}, data=fields, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def get(s: Any, analysis_id: str, **options: Any) -> dict[str, Any]:
    answer = await s.client.get(f"{URL}/{analysis_id}", **options)
    assert answer.status_code == 200, answer.text
    AnalysisTaskOut.model_validate(answer.json())
    return dict(answer.json())


async def ended(s: Any, analysis_id: str, **options: Any) -> dict[str, Any]:
    return await until(s, analysis_id, lambda found: found["status"] in analyses.ENDED, **options)


async def until(
    s: Any, analysis_id: str, is_so: Callable[[dict[str, Any]], bool], *, seconds: float = 20, **options: Any
) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while not is_so(found := await get(s, analysis_id, **options)):
        assert time.monotonic() < end, found
        await asyncio.sleep(0.01)
    return found


async def started(s: Any) -> None:
    assert await asyncio.to_thread(s.analyzer.started.wait, 20)


def clips(s: Any) -> list[Path]:
    return list(s.app.state.data.analyses.iterdir())


async def gone(s: Any) -> bool:
    """Whether no clip is left; an analysis has ended a moment before its clip is deleted."""
    end = time.monotonic() + 20
    while clips(s) and time.monotonic() < end:
        await asyncio.sleep(0.01)
    return not clips(s)


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["param"]


async def test_a_clip_is_taken_and_its_analysis_is_there_later(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(hold=True)) as s:
        options = {"transcript": "good news", "labels": "joy, anger", "language": "en", "timeline": "false"}
        answer = await s.client.post(URL, files=FILE, data={**options, "metadata": '{"case": "17"}'})
        assert answer.status_code == 202
        taken = answer.json()
        assert answer.headers["location"] == f"{URL}/{taken['id']}"
        assert (taken["status"], taken["filename"], taken["bytes"]) == ("queued", "talk.wav", len(WAV))
        assert (taken["metadata"], taken["result"], taken["finished_at"]) == ({"case": "17"}, None, None)
        await started(s)
        running = await get(s, taken["id"])
        assert (running["status"], running["stage"], running["progress"]) == ("running", "decode", 0.0)
        assert len(clips(s)) == 1
        s.analyzer.release.set()
        found = await ended(s, taken["id"])
        assert (found["status"], found["progress"], found["error"]) == ("succeeded", 1.0, None)
        assert found["result"]["emotion"]["label"] == "happiness"
        assert found["result"]["clip"] == "talk.wav"
        assert found["expires_at"] - found["finished_at"] == pytest.approx(7 * 86_400, abs=1)
        (call,) = s.analyzer.calls
        assert call["bytes"] == WAV
        assert (call["transcript"], call["labels"], call["language"], call["timeline"]) == (
            "good news", ("joy", "anger"), "en", False,
        )  # fmt: skip
        # The clip is gone as soon as it has been analysed, and what came with it, too.
        assert await gone(s)
        record = analyses.find(s.app.state.store, taken["id"], now=time.time())
        assert record is not None
        assert "transcript" not in record.options


async def test_an_uploaded_file_is_analysed_and_stays(service: Any) -> None:
    async with service() as s:
        upload = await s.client.post("/v1/files", files=FILE, data={"purpose": "user_data"})
        file_id = upload.json()["id"]
        answer = await s.client.post(URL, json={"file_id": file_id, "labels": ["joy", "anger"], "timeline": False})
        assert answer.status_code == 202, answer.text
        found = await ended(s, answer.json()["id"])
        assert (found["status"], found["filename"]) == ("succeeded", "talk.wav")
        assert s.analyzer.calls[0]["labels"] == ("joy", "anger")
        assert s.analyzer.calls[0]["bytes"] == WAV
        assert (await s.client.get(f"/v1/files/{file_id}/content")).content == WAV
        assert await gone(s)
        bundle = {"file": ("train.jsonl", b'{"id": "a", "clip": null, "transcript": "yes", "label": "joy"}\n')}
        other = (await s.client.post("/v1/files", files=bundle, data={"purpose": "fine-tune"})).json()["id"]
        answer = await s.client.post(URL, json={"file_id": other})
        assert error(answer) == (400, "invalid_value", "file_id")
        answer = await s.client.post(URL, json={"file_id": "file-none"})
        assert error(answer) == (404, "file_not_found", "file_id")


@pytest.fixture
def media_host() -> Iterator[int]:
    """A web server on the loopback address that has one clip; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/talks/") else 404)
            self.end_headers()
            self.wfile.write(WAV)

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as host:
        thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield host.server_address[1]
        host.shutdown()
        thread.join()


def fetching_from(s: Any, port: int) -> str:
    """Let a service find the only host that it fetches from on the loopback address; returns that host's address."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host == "media.example" else []

    intake = s.app.state.intake
    policy = dataclasses.replace(intake._fetcher.policy, ports=frozenset({port}), is_allowed_address=lambda _: True)
    intake._fetcher = Fetcher(policy, resolve=resolve)
    return f"http://media.example:{port}"


async def test_a_clip_is_fetched_from_its_address_and_analysed(service: Any, media_host: int) -> None:
    async with service(media_domains=("media.example",), media_allow_http=True) as s:
        host = fetching_from(s, media_host)
        body = {"url": f"{host}/talks/my%20talk.wav?token=secret", "labels": ["joy", "anger"]}
        answer = await s.client.post(URL, json=body, headers={"Idempotency-Key": "talk"})
        assert answer.status_code == 202, answer.text
        assert (answer.json()["filename"], answer.json()["bytes"]) == ("my talk.wav", len(WAV))
        found = await ended(s, answer.json()["id"])
        assert (found["status"], found["result"]["clip"]) == ("succeeded", "my talk.wav")
        assert "secret" not in json.dumps(found)
        (call,) = s.analyzer.calls
        assert (call["bytes"], call["labels"]) == (WAV, ("joy", "anger"))
        again = await s.client.post(URL, json=body, headers={"Idempotency-Key": "talk"})
        assert again.json()["id"] == found["id"]
        answer = await s.client.post(URL, json={"url": f"{host}/elsewhere.wav"})
        assert error(answer) == (400, "url_fetch_failed", "url")
        assert await gone(s)
        assert [path for path in s.app.state.data.incoming.glob("*/*") if path.name != "lock"] == []


async def test_a_clip_may_be_as_large_wherever_it_comes_from(service: Any, media_host: int) -> None:
    small = 40 / 2**20  # of the 44 bytes
    for settings, status in (
        ({"max_upload_mb": small}, 202),
        ({"max_upload_mb": small, "analysis_max_mb": small}, 413),
    ):
        async with service(media_domains=("media.example",), media_allow_http=True, **settings) as s:
            host = fetching_from(s, media_host)
            fetched = await s.client.post(URL, json={"url": f"{host}/talks/a.wav"})
            sent = await s.client.post(URL, files=FILE)
            assert (fetched.status_code, sent.status_code) == (status, status)
            kept = await s.client.post("/v1/files", files=FILE, data={"purpose": "user_data"})
            assert kept.status_code == (200 if status == 202 else status)
            if status == 202:
                assert (await s.client.post(URL, json={"file_id": kept.json()["id"]})).status_code == 202


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"label": "joy"}, (400, "unknown_field", "label")),
        ({"labels": "joy"}, (400, "invalid_value", "labels")),
        ({"language": "klingon!"}, (400, "invalid_value", "language")),
        ({"metadata": "[1]"}, (400, "invalid_value", "metadata")),
        ({"metadata": "{"}, (400, "invalid_value", "metadata")),
        ({"model": "mega"}, (404, "model_not_found", "model")),
        ({"retention_seconds": "59"}, (400, "invalid_value", "retention_seconds")),
        ({"retention_seconds": "99999999"}, (400, "invalid_value", "retention_seconds")),
        ({"retention_seconds": "60", "store": "false"}, (400, "invalid_value", "retention_seconds")),
        ({"webhook_url": "https://a.example/hook"}, (400, "invalid_value", "webhook_secret")),
        ({"webhook_url": "https://a.example/hook", "webhook_secret": "x"}, (400, "invalid_value", "webhook_secret")),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    service: Any, fields: dict[str, str], expected: tuple[int, str, str]
) -> None:
    async with service() as s:
        assert error(await s.client.post(URL, files=FILE, data=fields)) == expected
        assert (await s.client.get(URL)).json()["data"] == []
        assert await gone(s)
        assert [path for path in s.app.state.data.incoming.glob("*/*") if path.name != "lock"] == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "missing_file", "file_id")),
        ({"file_id": "file-1", "url": "https://a.example/a.wav"}, (400, "invalid_value", "file_id")),
        ({"url": "https://a.example/a.wav"}, (400, "url_not_allowed", "url")),
        ({"file": "x"}, (400, "unknown_field", "file")),
        ({"file_id": 3}, (400, "invalid_value", "file_id")),
        ([], (400, "invalid_value", None)),
    ],
)  # fmt: skip
async def test_a_json_body_names_one_clip(service: Any, body: Any, expected: tuple[int, str, str | None]) -> None:
    async with service() as s:
        assert error(await s.client.post(URL, json=body)) == expected


async def test_what_is_no_media_is_refused_before_it_is_taken(service: Any) -> None:
    async with service() as s:
        answer = await s.client.post(URL, files={"file": ("notes.pdf", b"%PDF-1.7 and so on")})
        assert error(answer) == (415, "unsupported_media", "file")
        assert error(await s.client.post(URL, content=b"x", headers={"content-type": "text/plain"}))[0] == 415


async def test_an_analysis_that_fails_says_why_in_the_errors_of_the_api(service: Any, analyzer_type: Any) -> None:
    broken = UndecodableMediaError("talk.wav holds nothing to read", field="source")
    async with service(analyzer_type(error=broken)) as s:
        found = await ended(s, await send(s))
        assert found["status"] == "failed"
        assert found["error"] == {
            "code": "undecodable_media", "message": "talk.wav holds nothing to read",
            "type": "invalid_request_error", "param": "file",
        }  # fmt: skip
        s.analyzer.error = RuntimeError(f"cannot read {s.app.state.data.root}/analyses/secret")
        found = await ended(s, await send(s))
        assert found["error"]["code"] == "internal_error"
        assert "secret" not in json.dumps(found)
        assert await gone(s)


async def test_lists_are_pages_newest_first_and_by_status(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(hold=True)) as s:
        ids = [await send(s, name=f"{number}.wav") for number in range(5)]
        await started(s)
        first = (await s.client.get(URL, params={"limit": 2})).json()
        AnalysisList.model_validate(first)
        assert [each["id"] for each in first["data"]] == ids[:-3:-1]
        assert (first["has_more"], first["first_id"], first["last_id"]) == (True, ids[4], ids[3])
        rest = (await s.client.get(URL, params={"after": ids[3], "limit": 100})).json()
        assert [each["id"] for each in rest["data"]] == ids[2::-1]
        assert not rest["has_more"]
        assert "result" not in rest["data"][0]
        running = (await s.client.get(URL, params={"status": "running"})).json()["data"]
        assert [each["id"] for each in running] == ids[:1]
        assert error(await s.client.get(URL, params={"status": "done"}))[:2] == (400, "invalid_value")
        assert error(await s.client.get(URL, params={"after": "analysis-none"})) == (400, "invalid_value", "after")
        assert error(await s.client.get(URL, params={"limit": 101}))[:2] == (400, "invalid_value")


async def test_what_waits_is_cancelled_at_once_and_what_runs_is_stopped(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(hold=True)) as s:
        first, second = await send(s), await send(s)
        await started(s)
        answer = await s.client.post(f"{URL}/{second}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        assert len(clips(s)) == 1
        answer = await s.client.post(f"{URL}/{first}/cancel")
        assert answer.json()["status"] == "cancelled"
        assert await asyncio.to_thread(s.analyzer.was_cancelled.wait, 20)
        assert await gone(s)
        # One that has ended stays as it is.
        s.analyzer.release.set()
        third = await send(s)
        await ended(s, third)
        assert (await s.client.post(f"{URL}/{third}/cancel")).json()["status"] == "succeeded"
        assert error(await s.client.post(f"{URL}/analysis-none/cancel")) == (404, "analysis_not_found", "analysis_id")


async def test_what_is_deleted_is_gone_also_while_it_runs(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(hold=True)) as s:
        running, waiting = await send(s), await send(s)
        await started(s)
        for analysis_id in (waiting, running):
            answer = await s.client.delete(f"{URL}/{analysis_id}")
            assert answer.json() == {"id": analysis_id, "object": "analysis", "deleted": True}
            assert error(await s.client.get(f"{URL}/{analysis_id}"))[1] == "analysis_not_found"
        assert await gone(s)
        assert await asyncio.to_thread(s.analyzer.was_cancelled.wait, 20)
        s.analyzer.release.set()
        done = await send(s)
        await ended(s, done)
        await s.client.delete(f"{URL}/{done}")
        assert (await s.client.get(URL)).json()["data"] == []
        assert error(await s.client.delete(f"{URL}/{done}"))[1] == "analysis_not_found"


async def test_one_owner_does_not_see_anothers(service: Any) -> None:
    async with service(auth="keys") as s:
        texts = {}
        for owner in ("ann", "bob"):
            text, record = new_key(owner=owner, scopes=["analyze"])
            keys.add(s.app.state.store, record)
            texts[owner] = {"authorization": f"Bearer {text}"}
        mine = await send(s, headers=texts["ann"])
        await ended(s, mine, headers=texts["ann"])
        for method, path in (
            ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events"),
        ):  # fmt: skip
            answer = await s.client.request(method, f"{URL}/{mine}{path}", headers=texts["bob"])
            assert error(answer)[1] == "analysis_not_found"
        assert (await s.client.get(URL, headers=texts["bob"])).json()["data"] == []
        answer = await s.client.get(URL, params={"after": mine}, headers=texts["bob"])
        assert error(answer) == (400, "invalid_value", "after")
        text, record = new_key(owner="ann", scopes=["chat"])
        keys.add(s.app.state.store, record)
        answer = await s.client.get(URL, headers={"authorization": f"Bearer {text}"})
        assert error(answer)[:2] == (403, "insufficient_scope")


async def test_an_owner_with_too_many_waiting_is_told_when_to_come_back(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(hold=True), auth="keys", analysis_queue_size=2) as s:
        headers = {}
        for owner in ("ann", "bob"):
            text, record = new_key(owner=owner, scopes=["analyze"])
            keys.add(s.app.state.store, record)
            headers[owner] = {"authorization": f"Bearer {text}"}
        first = await send(s, headers=headers["ann"])
        await send(s, headers=headers["ann"])
        answer = await s.client.post(URL, files=FILE, headers=headers["ann"])
        assert error(answer)[:2] == (429, "analysis_queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert len(clips(s)) == 2
        # Another owner's turn is not touched by it, and with one gone there is room again.
        await send(s, headers=headers["bob"])
        await s.client.delete(f"{URL}/{first}", headers=headers["ann"])
        await send(s, headers=headers["ann"])


async def test_many_at_once_never_pass_the_limit(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(hold=True), analysis_queue_size=3, max_uploads=20) as s:
        answers = await asyncio.gather(*(s.client.post(URL, files=FILE) for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 7
        assert len(clips(s)) == 3


async def test_a_full_disk_is_told_and_leaves_nothing(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service(analysis_workers=0) as s:
        with s.app.state.store.write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        statuses = []
        for _ in range(40):
            answer = await s.client.post(URL, files=FILE, data={"transcript": "word " * 2000})
            statuses.append(answer.status_code)
            if answer.status_code != 202:
                break
        assert error(answer) == (507, "storage_full", None)
        listed = (await s.client.get(URL, params={"limit": 100})).json()["data"]
        assert len(listed) == len(clips(s)) == statuses.count(202)


async def test_events_tell_how_far_it_is_and_end_with_the_result(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(hold=True)) as s:
        analysis_id = await send(s)
        await started(s)
        asyncio.get_running_loop().call_later(0.2, s.analyzer.release.set)
        answer = await s.client.get(f"{URL}/{analysis_id}/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, last = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        assert last == "[DONE]"
        told = [json.loads(event) for event in events]
        assert told[0]["status"] == "running"
        assert told[-1]["status"] == "succeeded"
        assert told[-1]["result"]["emotion"]["label"] == "happiness"


async def test_interactive_requests_go_first(service: Any, analyzer_type: Any) -> None:
    """While all places are taken, a clip of the queue waits; `/analyze` never waits for one of the queue."""
    async with service(analyzer_type(hold=True), concurrency=1, queue_size=4) as s:
        interactive = asyncio.create_task(s.client.post("/analyze", files=FILE))
        await started(s)
        analysis_id = await send(s)
        await until(s, analysis_id, lambda found: found["status"] == "running")
        await asyncio.sleep(0.3)
        assert len(s.analyzer.calls) == 1
        s.analyzer.release.set()
        assert (await interactive).status_code == 200
        assert (await ended(s, analysis_id))["status"] == "succeeded"
        # The other way round: a long clip of the queue takes no place away.
        s.analyzer.release.clear()
        slow = await send(s)
        await until(s, slow, lambda found: len(s.analyzer.calls) == 3)
        second = asyncio.create_task(s.client.post("/analyze", files=FILE))
        while len(s.analyzer.calls) < 4:
            await asyncio.sleep(0.01)
        s.analyzer.release.set()
        assert (await second).status_code == 200
        await ended(s, slow)


async def test_a_result_that_is_not_to_be_stored_is_kept_for_minutes(service: Any) -> None:
    async with service() as s:
        for fields, seconds in (({"store": "false"}, 600), ({"retention_seconds": "3600"}, 3600)):
            found = await ended(s, await send(s, **fields))
            assert found["expires_at"] - found["finished_at"] == pytest.approx(seconds, abs=1)


async def test_what_takes_too_long_fails(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(hold=True), analysis_timeout_seconds=0.2) as s:
        found = await ended(s, await send(s))
        assert (found["status"], found["error"]["code"]) == ("failed", "deadline_exceeded")


async def test_nano_reads_a_clip_in_the_background_as_it_does_while_one_waits(
    service: Any, media: Any, tmp_path: Path
) -> None:
    clip = media.wav(tmp_path / "talk.wav", seconds=0.6).read_bytes()
    async with service(load=functools.partial(load_analyzer, device="cpu"), media_workers=0) as s:
        fields = {"transcript": "Really? That is the best news.", "labels": "joy, anger"}
        analysis_id = await send(s, content=clip, **fields)  # while the model is still being loaded
        found = await until(s, analysis_id, lambda found: found["status"] in analyses.ENDED, seconds=60)
        assert (found["status"], found["error"]) == ("succeeded", None)
        now = await s.client.post("/analyze", files={"file": ("talk.wav", clip)}, data=fields)
        for name in ("emotion", "rationale", "evidence", "modalities"):
            assert found["result"][name] == now.json()[name]
