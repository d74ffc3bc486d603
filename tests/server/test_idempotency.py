"""`Idempotency-Key`: a request that is sent twice makes one thing, whoever is killed or goes away in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.analyses.janitor import Janitor
from server.auth import new_key
from server.idempotency import KEPT_SECONDS
from server.layout import DataFolder
from server.records import idempotency, keys
from server.records.idempotency import Known
from server.store import Store

pytestmark = pytest.mark.anyio

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + b"\0" * 32
URL = "/v1/analyses"
KEY = {"Idempotency-Key": "one"}


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def post(s: Any, content: bytes = WAV, *, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
    answer = await s.client.post(
        URL, files={"file": ("a.wav", content)}, data=fields, headers={**KEY, **(headers or {})}
    )
    return answer


async def count(s: Any) -> int:
    return len((await s.client.get(URL)).json()["data"])


async def test_the_same_request_twice_makes_one_analysis(service: Any) -> None:
    async with service() as s:
        first = await post(s, labels="joy, anger")
        again = await post(s, labels="joy, anger")
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert await count(s) == 1
        # It tells of the resource as it is by now.
        while (await post(s, labels="joy, anger")).json()["status"] != "succeeded":
            await asyncio.sleep(0.01)
        assert len(s.analyzer.calls) == 1
        # Without a key, every request makes its own.
        for _ in range(2):
            await s.client.post(URL, files={"file": ("a.wav", WAV)})
        assert await count(s) == 3


@pytest.mark.parametrize("other", [{"labels": "joy, fear"}, {"content": WAV + b"x"}, {"transcript": "yes"}])
async def test_another_request_under_the_same_key_is_refused(service: Any, other: dict[str, Any]) -> None:
    async with service() as s:
        assert (await post(s)).status_code == 202
        assert code(await post(s, **other)) == (422, "idempotency_key_reused")
        assert code(await s.client.post(URL, json={"file_id": "file-1"}, headers=KEY)) == (
            422,
            "idempotency_key_reused",
        )
        job = {"model": "nano", "training_file": "file-1"}
        answer = await s.client.post("/v1/fine_tuning/jobs", json=job, headers=KEY)
        assert code(answer) == (422, "idempotency_key_reused")
        assert await count(s) == 1


async def test_many_at_once_make_one(service: Any) -> None:
    async with service(max_uploads=50) as s:
        answers = await asyncio.gather(*(post(s) for _ in range(16)))
        made = {answer.json()["id"] for answer in answers if answer.status_code == 202}
        assert len(made) == 1
        refused = [answer for answer in answers if answer.status_code != 202]
        assert {code(answer) for answer in refused} <= {(409, "idempotency_in_flight")}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert await count(s) == 1


async def test_a_request_that_failed_or_whose_client_left_frees_its_key(live: Callable[..., Any]) -> None:
    s = live(max_upload_mb=2)
    with httpx.Client(base_url=s.url, timeout=30) as client:
        assert client.post(URL, files={"file": ("a.txt", b"no media")}, headers=KEY).status_code == 415
        assert client.post(URL, files={"file": ("a.wav", WAV)}, data={"labels": "x"}, headers=KEY).status_code == 400

        def half() -> Any:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + WAV
            raise RuntimeError("the client is gone")

        content_type = {"content-type": "multipart/form-data; boundary=b"}
        with pytest.raises(RuntimeError, match="gone"):
            client.post(URL, content=half(), headers={**KEY, **content_type})
        end = time.monotonic() + 20
        while (answer := client.post(URL, files={"file": ("a.wav", WAV)}, headers=KEY)).status_code == 409:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert answer.status_code == 202
        assert "idempotent-replayed" not in answer.headers


async def test_a_request_that_is_being_answered_holds_its_key(live: Callable[..., Any]) -> None:
    s = live()
    with httpx.Client(base_url=s.url, timeout=30) as client:
        answers: list[httpx.Response] = []

        def slowly() -> Any:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + WAV
            end = time.monotonic() + 20
            while not answers or answers[-1].status_code != 409:
                assert time.monotonic() < end
                answers.append(httpx.post(s.url + URL, files={"file": ("a.wav", WAV)}, headers=KEY, timeout=30))
            yield b"\r\n--b--\r\n"

        content_type = {"content-type": "multipart/form-data; boundary=b"}
        answer = client.post(URL, content=slowly(), headers={**KEY, **content_type})
        # Either was first; the other one was told to wait, or was given the same.
        assert code(answers[-1]) == (409, "idempotency_in_flight")
        assert answer.status_code == 202
        assert len(client.get(URL).json()["data"]) == 1


async def test_keys_are_an_owners_own(service: Any) -> None:
    async with service(auth="keys") as s:
        made = set()
        for owner in ("ann", "bob"):
            text, record = new_key(owner=owner, scopes=["analyze"])
            keys.add(s.app.state.store, record)
            answer = await post(s, headers={"authorization": f"Bearer {text}"})
            assert "idempotent-replayed" not in answer.headers
            made.add(answer.json()["id"])
        assert len(made) == 2


@pytest.mark.parametrize("key", ["", "k" * 256, "a b", "caf\xe9"])
async def test_what_is_no_key_is_refused(service: Any, key: str) -> None:
    async with service() as s:
        answer = await s.client.post(
            URL, files={"file": ("a.wav", WAV)}, headers={"Idempotency-Key": key.encode("latin-1")}
        )
        assert code(answer) == (400, "invalid_value")
        assert await count(s) == 0


async def test_files_and_jobs_take_keys_too(service: Any, manifest: Callable[..., bytes]) -> None:
    async with service(jobs=False) as s:
        ids = []
        for _ in range(2):
            files = {"file": ("train.jsonl", manifest())}
            answer = await s.client.post("/v1/files", files=files, data={"purpose": "fine-tune"}, headers=KEY)
            assert answer.status_code == 200, answer.text
            ids.append(answer.json()["id"])
        assert answer.headers["idempotent-replayed"] == "true"
        assert len(set(ids)) == 1
        files = {"file": ("train.jsonl", manifest(rows=6))}
        answer = await s.client.post("/v1/files", files=files, data={"purpose": "fine-tune"}, headers=KEY)
        assert code(answer) == (422, "idempotency_key_reused")
        job = {"model": "nano", "training_file": ids[0]}
        jobs = [
            await s.client.post("/v1/fine_tuning/jobs", json=job, headers={"Idempotency-Key": "job"}) for _ in range(2)
        ]
        assert jobs[0].json()["id"] == jobs[1].json()["id"]
        assert [answer.headers.get("idempotent-replayed") for answer in jobs] == [None, "true"]
        answer = await s.client.post(
            "/v1/fine_tuning/jobs", json={**job, "seed": 3}, headers={"Idempotency-Key": "job"}
        )
        assert code(answer) == (422, "idempotency_key_reused")
        # A file that was deleted is no answer any more; its key is free.
        await s.client.delete(f"/v1/files/{ids[0]}")
        files = {"file": ("train.jsonl", manifest(rows=6))}
        answer = await s.client.post("/v1/files", files=files, data={"purpose": "fine-tune"}, headers=KEY)
        assert answer.status_code == 200
        assert "idempotent-replayed" not in answer.headers


def take(store: Store, key: str, *, now: float, holder: str = "h", most: int = 100) -> Known | float | None:
    return idempotency.take(store, owner="ann", key=key, holder=holder, now=now, hold_until=now + 10, most=most)


def complete(store: Store, key: str, *, now: float, holder: str = "h") -> bool:
    with store.write() as connection:
        return idempotency.complete_within(
            connection, owner="ann", key=key, holder=holder, fingerprint="f", resource_id=f"r-{key}",
            until=now + KEPT_SECONDS,
        )  # fmt: skip


def test_keys_are_kept_for_a_day_and_a_killed_holder_loses_its_own(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'keys.sqlite3'}")
    data = DataFolder(tmp_path)
    data.create()
    assert take(store, "a", now=100.0, holder="first") is None
    assert take(store, "a", now=105.0, holder="second") == 110.0
    # The first was killed: another takes over, and the first could not complete any more if it came back.
    assert take(store, "a", now=110.0, holder="second") is None
    assert not complete(store, "a", now=111.0, holder="first")
    assert complete(store, "a", now=111.0, holder="second")
    assert take(store, "a", now=111.0 + KEPT_SECONDS - 1) == Known(fingerprint="f", resource_id="r-a")
    Janitor(store, data, clock=lambda: 111.0 + KEPT_SECONDS - 1).clean()
    assert isinstance(take(store, "a", now=112.0), Known)
    Janitor(store, data, clock=lambda: 111.0 + KEPT_SECONDS).clean()
    assert take(store, "a", now=112.0) is None
    store.close()


def test_an_owner_has_a_bounded_number_of_keys(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'keys.sqlite3'}")
    for number in range(5):
        assert take(store, f"k{number}", now=float(number), most=3) is None
        assert complete(store, f"k{number}", now=float(number))
    assert isinstance(take(store, "k4", now=6.0, most=3), Known)
    assert isinstance(take(store, "k2", now=6.0, most=3), Known)
    assert take(store, "k1", now=6.0, most=3) is None
    store.close()
