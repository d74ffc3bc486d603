"""Erasing an owner: afterwards no byte of theirs is on the disk, and everybody else's is as it was."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from server.auth import new_key
from server.chat.cache import ClipKey
from server.keys_cli import app as command
from server.layout import DataFolder
from server.records import keys

pytestmark = pytest.mark.anyio

MARKER = "zebra-crossing-at-midnight"
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + MARKER.encode() * 10
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def places(places_of: Callable[..., set[str]]) -> Callable[..., set[str]]:
    """``places(folder)``: where the marker still is."""
    return functools.partial(places_of, MARKER)


class Held:
    """What a reading of a clip is to the cache."""

    num_bytes = 1


@pytest.fixture
def filled(fine_tuning: Callable[..., Any], manifest: Callable[..., bytes]) -> Iterator[Any]:
    """A service in which the owner "local" has something of every kind, the marker in all of it."""
    t = fine_tuning(analysis_webhooks="any", webhook_url="http://127.0.0.1:9/", webhook_secret=SECRET)
    words = manifest(rows=8).replace(b"word", MARKER.encode())
    bundle = t.upload(words, name=f"{MARKER}.jsonl")
    done = t.create(training_file=bundle, metadata={"case": MARKER}).id
    with httpx.Client(base_url=f"{t.url}/v1", timeout=30) as client:
        file = {"file": (f"{MARKER}.wav", WAV)}
        client.post("/files", files=file, data={"purpose": "user_data"}).raise_for_status()
        fields = {
            "transcript": MARKER, "metadata": json.dumps({"case": MARKER}), "webhook_secret": SECRET,
            "webhook_url": f"http://127.0.0.1:9/{MARKER}",
        }  # fmt: skip
        for number in range(3):
            headers = {"Idempotency-Key": f"{MARKER}-{number}"}
            client.post("/analyses", files=file, data=fields, headers=headers).raise_for_status()
        t.wait(done)
        with (t.run_dir(done) / "export" / "adapter_model.safetensors").open("ab") as adapter:
            adapter.write(MARKER.encode())
        running = t.create(training_file=bundle, suffix="waits").id
        t.wait(running, "running")
        while any(each["status"] != "succeeded" for each in client.get("/analyses").json()["data"]):
            pass
    cache = t.service.app.state.chat.cache
    maker = t.service.analyzer
    cache.put(ClipKey("local", "nano", "c"), Held(), made_by=maker)
    cache.put(ClipKey("bob", "nano", "c"), Held(), made_by=maker)
    yield t
    assert cache.num_clips in (1, 2)


def test_no_byte_of_an_owner_is_left(
    filled: Any, tmp_path: Path, is_alive: Callable[[int], bool], places: Callable[..., set[str]]
) -> None:
    t = filled
    before = places(t.data)
    assert {"files", "jobs"} <= before
    assert any(place.startswith("emollama.sqlite3") for place in before)  # in the database, or still in its log
    job_ids = [job.id for job in t.client.fine_tuning.jobs.list().data]
    pids = [pid for job_id in job_ids for pid in t.starts(job_id)]
    answer = httpx.delete(f"{t.url}/v1/owners/local", timeout=60)
    assert answer.status_code == 200, answer.text
    proof = answer.json()
    assert (proof["object"], proof["owner"], proof["database_rewritten"]) == ("erasure", "local", True)
    erased = proof["erased"]
    # The bundle, the clip, and the two results of the job that has ended; its adapter and its checkpoints.
    assert (erased["analyses"], erased["jobs"], erased["idempotency_keys"], erased["chat_clips"]) == (3, 2, 3, 1)
    assert erased["files"] >= 3
    assert erased["adapters"] >= 1
    assert erased["webhook_deliveries"] >= 3
    assert proof["bytes"] > len(WAV)
    assert places(t.data, tmp_path) == set()
    assert not any(is_alive(pid) for pid in pids)
    for path in ("files", "fine_tuning/jobs", "analyses"):
        assert httpx.get(f"{t.url}/v1/{path}", timeout=30).json()["data"] == []
    held = httpx.get(f"{t.url}/v1/owners/local", timeout=30).json()["holdings"]
    assert set(held.values()) == {0}
    assert [model["id"] for model in httpx.get(f"{t.url}/v1/models", timeout=30).json()["data"]] == ["nano"]
    # Once more there is nothing to do, and that is no error.
    assert httpx.delete(f"{t.url}/v1/owners/local", timeout=60).json()["bytes"] == 0


def test_the_command_erases_beside_a_running_service(
    filled: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, places: Callable[..., set[str]]
) -> None:
    monkeypatch.setenv("EMOLLAMA_DATA_DIR", str(filled.data))
    runner = CliRunner()
    refused = runner.invoke(command, ["erase", "local"], input="n\n")
    assert refused.exit_code == 1
    assert "3 analyses" in refused.stderr
    assert places(filled.data)
    done = runner.invoke(command, ["erase", "local", "--yes", "--keys"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["erased"]["analyses"] == 3
    assert places(filled.data, tmp_path) == set()


async def test_a_key_erases_its_own_owner_and_the_operators_any(service: Any) -> None:
    admin = "the operator's own key, thirty-two and more"
    async with service(auth="keys", admin_key=admin) as s:
        texts = {}
        for owner, scopes in (("ann", "analyze,erase"), ("bob", "analyze,erase"), ("cat", "analyze,files")):
            text, record = new_key(owner=owner, scopes=scopes.split(","))
            keys.add(s.app.state.store, record)
            texts[owner] = {"authorization": f"Bearer {text}"}
            await s.client.post("/v1/analyses", files={"file": (f"{owner}.wav", WAV)}, headers=texts[owner])
        answer = await s.client.delete("/v1/owners/bob", headers=texts["ann"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "owner_not_found")
        answer = await s.client.get("/v1/owners/bob", headers=texts["ann"])
        assert answer.status_code == 404
        answer = await s.client.delete("/v1/owners/cat", headers=texts["cat"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")
        answer = await s.client.delete("/v1/owners/ann", headers=texts["ann"])
        assert (answer.json()["erased"]["analyses"], answer.json()["erased"]["api_keys"]) == (1, 0)
        # The key is still there, and nobody else's things were touched.
        assert (await s.client.get("/v1/analyses", headers=texts["ann"])).json()["data"] == []
        assert len((await s.client.get("/v1/analyses", headers=texts["bob"])).json()["data"]) == 1
        operator = {"authorization": f"Bearer {admin}"}
        answer = await s.client.delete("/v1/owners/bob", params={"keys": "true"}, headers=operator)
        assert (answer.json()["erased"]["analyses"], answer.json()["erased"]["api_keys"]) == (1, 1)
        assert (await s.client.get("/v1/analyses", headers=texts["bob"])).status_code == 401
        held = (await s.client.get("/v1/owners/cat", headers=operator)).json()["holdings"]
        assert (held["analyses"], held["api_keys"]) == (1, 1)


async def test_what_is_being_analysed_is_erased_too(
    service: Any, analyzer_type: Any, places: Callable[..., set[str]]
) -> None:
    async with service(analyzer_type(hold=True)) as s:
        for _ in range(2):
            await s.client.post("/v1/analyses", files={"file": (f"{MARKER}.wav", WAV)}, data={"transcript": MARKER})
        assert await asyncio.to_thread(s.analyzer.started.wait, 20)
        assert "analyses" in places(s.app.state.data.root)
        answer = await s.client.delete("/v1/owners/local")
        assert answer.json()["erased"]["analyses"] == 2
        assert await asyncio.to_thread(s.analyzer.was_cancelled.wait, 20)
        assert places(s.app.state.data.root, s.temp_dir) == set()


def test_two_may_remove_the_same_folder_at_once(tmp_path: Path) -> None:
    """An erasure and the housekeeping do."""
    data = DataFolder(tmp_path)
    for _ in range(5):
        for number in range(60):
            (tmp_path / "jobs" / "j" / str(number) / "checkpoints").mkdir(parents=True)
        with ThreadPoolExecutor(4) as pool:
            removing = [pool.submit(data.remove_tree, tmp_path / "jobs" / "j") for _ in range(4)]
        assert [each.exception() for each in removing] == [None] * 4
        assert not (tmp_path / "jobs" / "j").exists()
