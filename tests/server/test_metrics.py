"""`/metrics`: what is counted, and that nothing of a request is in it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.records.jobs import JobRecord
from server.records.jobs import add as add_job

pytestmark = pytest.mark.anyio

CLIP = {"file": ("my secret.mp4", b"the clip", "video/mp4")}


async def samples(s: Any) -> dict[tuple[str, ...], float]:
    """The page as {(name, label value, ...): value}; labels in the order of their names."""
    response = await s.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_requests_are_counted_by_route_status_and_code(service: Any) -> None:
    async with service() as s:
        for data in ({}, {"labels": "private"}, {"transcript": "a private word"}):
            await s.client.post("/analyze", files=CLIP, data=data)
        for n in range(30):
            await s.client.get(f"/private/{n}")
            await s.client.get(f"/v1/files/file-private-{n}")
        await s.client.request("BREW", "/health")
        found = await samples(s)
        page = (await s.client.get("/metrics")).text
    requests = {key[1:]: value for key, value in found.items() if key[0] == "emollama_http_requests_total"}
    assert requests[("", "POST", "/analyze", "200")] == 2
    assert requests[("invalid_value", "POST", "/analyze", "400")] == 1
    assert requests[("not_found", "GET", "none", "404")] == 30
    assert requests[("file_not_found", "GET", "/v1/files/{file_id}", "404")] == 30
    assert any(method == "other" for _, method, _, _ in requests)
    assert len(requests) == 5, "however many paths are asked for"
    assert found[("emollama_http_request_seconds_count", "/analyze")] == 3
    assert found[("emollama_received_bytes_total", "/analyze")] > 3 * len(b"the clip")
    assert found[("emollama_stage_seconds_count", "total")] == 2
    assert found[("emollama_stage_seconds_sum", "total")] == pytest.approx(0.025)
    assert found[("emollama_queue_seconds_count",)] == 2
    assert found[("emollama_models_loaded",)] == 1
    assert "private" not in page
    assert "secret" not in page


async def test_running_and_waiting_clips_are_told(service: Any, analyzer_type: Any, eventually: Any) -> None:
    async with service(analyzer_type(hold=True), concurrency=1) as s:
        asked = [asyncio.create_task(s.client.post("/analyze", files=CLIP)) for _ in range(3)]
        await eventually(lambda: s.app.state.gate.num_waiting == 2 and s.analyzer.started.is_set())
        found = await samples(s)
        assert (found[("emollama_requests_running",)], found[("emollama_requests_waiting",)]) == (1, 2)
        s.analyzer.release.set()
        await asyncio.gather(*asked)
        found = await samples(s)
        assert (found[("emollama_requests_running",)], found[("emollama_requests_waiting",)]) == (0, 0)


async def test_jobs_are_told_by_status(service: Any) -> None:
    async with service(jobs=False) as s:
        for index, status in enumerate(("queued", "failed", "failed")):
            job = JobRecord(
                id=f"ftjob-{index}", status=status, base="nano", model_name=f"ft:{index}", training_file="f", seed=1,
                created_at=1.0, hyperparameters={},
            )  # fmt: skip
            add_job(s.app.state.store, job, ())
        found = await samples(s)
    counts = {key[1]: value for key, value in found.items() if key[0] == "emollama_jobs"}
    assert counts == {
        "queued": 1, "failed": 2, "running": 0, "paused": 0, "succeeded": 0, "cancelled": 0, "validating_files": 0,
    }  # fmt: skip


async def test_what_an_engine_and_a_chat_have_to_tell(service: Any) -> None:
    async with service() as s:
        metrics = s.app.state.metrics
        metrics.observe_batch("decode", 3)
        metrics.observe_first_token(0.02)
        metrics.observe_tokens(prompt=100, completion=7)
        metrics.observe_worker_end("timeout")
        found = await samples(s)
    assert found[("emollama_batch_size_bucket", "2.0", "decode")] == 0
    assert found[("emollama_batch_size_bucket", "4.0", "decode")] == 1
    assert found[("emollama_time_to_first_token_seconds_sum",)] == pytest.approx(0.02)
    assert found[("emollama_tokens_total", "prompt")] == 100
    assert found[("emollama_tokens_total", "completion")] == 7
    assert found[("emollama_media_workers_ended_total", "timeout")] == 1
