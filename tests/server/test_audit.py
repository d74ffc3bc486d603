"""The audit log: who had what done, when, with which model and why; nothing of a clip, and nothing can be changed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, text
from sqlalchemy.exc import DBAPIError, OperationalError
from typer.testing import CliRunner

from server.audit_cli import app as command
from server.auth import new_key
from server.keys_cli import app as keys_command
from server.records import audit, keys
from server.records.audit import Event
from server.store import Store, audit_log, metadata
from server.trust.journal import Journal
from server.trust.purposes import HEADER

pytestmark = pytest.mark.anyio

BACKENDS = ("sqlite", "postgresql") if "TEST_POSTGRES_URL" in os.environ else ("sqlite",)
MARKER = "zebra-crossing-at-midnight"
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + MARKER.encode() * 10
CLIP = {"file": (f"{MARKER}.wav", WAV)}
FIELDS = {"transcript": MARKER, "labels": f"{MARKER}, calm", "consent_reference": "study-4/17"}
ADMIN_KEY = "the operator's own key, thirty-two and more"
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database; Postgres is tested where TEST_POSTGRES_URL names one that may be emptied."""
    url = f"sqlite:///{tmp_path / 'emollama.sqlite3'}"
    if request.param == "postgresql":
        url = os.environ["TEST_POSTGRES_URL"]
        engine = create_engine(url)
        metadata.drop_all(engine)
        engine.dispose()
    opened = Store(url)
    yield opened
    opened.close()


def give_key(s: Any, owner: str = "ann", scopes: str = "analyze,files,erase", **options: Any) -> dict[str, str]:
    text, record = new_key(owner=owner, scopes=scopes.split(","), **options)
    keys.add(s.app.state.store, record)
    return {"authorization": f"Bearer {text}"}


def rows(s: Any, **wanted: Any) -> list[Any]:
    """The log, oldest first."""
    return list(reversed(audit.page(s.app.state.store, after=None, limit=1000, **wanted).items))


# ---- the log itself -------------------------------------------------------------------------------------------------


def test_rows_follow_from_each_other(store: Store) -> None:
    assert audit.verify(store).head == audit.head(store) == audit.Head(num_rows=0, hash=audit.head(store).hash)
    audit.append(store, [Event(action="a", owner="ann"), Event(action="b", at=12.345)])
    first = audit.head(store)
    audit.append(store, [Event(action="c" * 500)])
    verdict = audit.verify(store, known_head=first.hash)
    assert verdict.is_whole
    assert verdict.has_known_head
    assert (verdict.head.num_rows, verdict.head) == (3, audit.head(store))
    assert not audit.verify(store, known_head="0" * 64).is_whole
    found = audit.page(store, after=None, limit=2)
    assert [(row.seq, row.action) for row in found.items] == [(3, "c" * 128), (2, "b")]
    assert found.has_more
    assert [row.owner for row in audit.page(store, after=found.items[-1].id, limit=2).items] == ["ann"]
    assert [row.action for row in audit.page(store, after=None, limit=9, since=12.0, until=13.0).items] == ["b"]


def test_no_row_can_be_changed_or_removed(store: Store) -> None:
    audit.append(store, [Event(action="a"), Event(action="b")])
    (second, first) = audit.page(store, after=None, limit=9).items
    statements = [
        "UPDATE audit_log SET owner = 'bob'", "DELETE FROM audit_log", "DELETE FROM audit_log WHERE seq = 2",
        "UPDATE audit_log SET hash = 'x' WHERE seq = 1",
    ]  # fmt: skip
    with store.read() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
    columns = "(seq, id, at, action, hash)"
    if is_sqlite:
        # SQLite's way of removing a row without a DELETE.
        statements += [
            f"REPLACE INTO audit_log {columns} VALUES (1, 'new', 1.0, 'x', 'x')",
            f"INSERT OR REPLACE INTO audit_log {columns} VALUES (9, '{first.id}', 1.0, 'x', 'x')",
        ]
    else:
        statements += ["TRUNCATE audit_log"]
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"), store.write() as connection:
            connection.execute(text(statement))
    assert audit.page(store, after=None, limit=9).items == (second, first)
    assert audit.verify(store).is_whole


@pytest.mark.parametrize(
    ("harm", "broken_at"),
    [
        ("UPDATE audit_log SET purpose = 'media' WHERE seq = 2", 2),
        ("UPDATE audit_log SET at = at + 1 WHERE seq = 3", 3),
        ("DELETE FROM audit_log WHERE seq = 2", 2),
        ("DELETE FROM audit_log WHERE seq = 1", 1),
        ("DELETE FROM audit_log WHERE seq = 4", None),
        ("UPDATE audit_log SET seq = seq + 1 WHERE seq = 4", 4),
        ("UPDATE audit_log SET id = 'audit-x' WHERE seq = 4", 4),
    ],
)
def test_what_was_changed_past_the_database_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, broken_at: int | None
) -> None:
    """Whoever takes the triggers away leaves a log that does not fit; the end that is cut off, one without its head."""
    file = tmp_path / "emollama.sqlite3"
    store = Store(f"sqlite:///{file}")
    audit.append(store, [Event(action=f"{number}", purpose="research") for number in range(4)])
    head = audit.head(store).hash
    store.close()
    with sqlite3.connect(file) as connection:
        for name in ("no_update", "no_delete", "at_the_end"):
            connection.execute(f"DROP TRIGGER audit_log_{name}")
        connection.execute(harm)
    connection.close()
    monkeypatch.setenv("EMOLLAMA_DATA_DIR", str(tmp_path))
    found = CliRunner().invoke(command, ["verify", "--json", "--head", head])
    told = json.loads(found.stdout)
    assert (found.exit_code, told["whole"], told["broken_at"]) == (1, False, broken_at)
    if broken_at is None:
        assert (told["rows"], told["has_known_head"]) == (3, False)
        assert CliRunner().invoke(command, ["verify"]).exit_code == 0, "without the head it cannot be known"
        assert "cut off" in CliRunner().invoke(command, ["verify", "--head", head]).output
    else:
        assert f"row {broken_at} was changed" in CliRunner().invoke(command, ["verify"]).output


def test_another_databases_log_does_not_fit(tmp_path: Path) -> None:
    one, other = (Store(f"sqlite:///{tmp_path / name}") for name in ("one.sqlite3", "other.sqlite3"))
    audit.append(one, [Event(action="a")])
    with other.write() as connection:
        connection.execute(insert(audit_log).values(**vars(audit.page(one, after=None, limit=1).items[0])))
    assert audit.verify(other).broken_at == 1
    one.close()
    other.close()


def test_several_processes_write_one_chain(store: Store) -> None:
    with store.read() as connection:
        url = connection.engine.url.render_as_string(hide_password=False)
    others = [Store(url) for _ in range(4)]

    def write(number: int) -> None:
        for _ in range(10):
            audit.append(others[number % 4], [Event(action="a"), Event(action="b")])

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write, number) for number in range(8)]:
            done.result()
    for other in others:
        other.close()
    assert audit.verify(store).head.num_rows == 160
    assert audit.verify(store).is_whole


# ---- the journal ----------------------------------------------------------------------------------------------------


def test_rows_wait_while_the_database_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = Store(f"sqlite:///{tmp_path / 'emollama.sqlite3'}")
    journal, real, failures = Journal(store), audit.append, iter(range(2))

    def append(*given: Any) -> None:
        if next(failures, None) is not None:
            raise OperationalError("", {}, Exception("away"))
        real(*given)

    monkeypatch.setattr("server.trust.journal.audit.append", append)
    monkeypatch.setattr("server.trust.journal._RETRY_SECONDS", 0.01)
    journal.start()
    written = [journal.put(Event(action=f"{number}")) for number in range(5)]
    for each in written:
        each.result(timeout=20)
    journal.stop()
    assert [row.action for row in reversed(audit.page(store, after=None, limit=9).items)] == list("01234")
    assert "rows wait in memory" in caplog.text
    # The head is left where whoever changes the database cannot reach it.
    assert audit.head(store).hash in [getattr(record, "fields", {}).get("hash") for record in caplog.records]
    store.close()


def test_a_row_that_cannot_be_written_takes_no_other_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(f"sqlite:///{tmp_path / 'emollama.sqlite3'}")
    journal = Journal(store)
    # They are one batch, since the thread is started after them; half a character is no text to a database.
    written = [journal.put(Event(action=action)) for action in ("first", "\ud800", "last")]
    journal.start()
    with pytest.raises(OSError, match="audit log"):
        written[1].result(timeout=20)
    for each in (written[0], written[2], journal.put(Event(action="later"))):
        each.result(timeout=20)
    journal.stop()
    assert [row.action for row in reversed(audit.page(store, after=None, limit=9).items)] == ["first", "last", "later"]
    assert audit.verify(store).is_whole
    assert "audit rows were lost" in caplog.text
    store.close()


# ---- what is written down -------------------------------------------------------------------------------------------


async def test_it_answers_who_when_which_model_and_why(service: Any, places_of: Callable[..., set[str]]) -> None:
    began = time.time()
    async with service(auth="keys", admin_key=ADMIN_KEY) as s:
        ann, bob = give_key(s, purpose="research"), give_key(s, "bob")
        for headers in (ann, {**bob, HEADER: "media"}):
            answer = await s.client.post("/analyze", files=CLIP, data=FIELDS, headers=headers)
            assert answer.status_code == 200
        first, second = rows(s)
        assert began - 1 < first.at < time.time() + 1
        assert first.key_id == ann["authorization"].split("_")[1]
        assert dataclasses.asdict(first) | {"at": 0, "id": "", "hash": "", "key_id": ""} == {
            "seq": 1, "id": "", "at": 0, "hash": "", "owner": "ann", "key_id": "", "action": "POST /analyze",
            "status": 200, "code": None, "model": "nano", "purpose": "research", "consent_reference": "study-4/17",
            "subject_id": None,
        }  # fmt: skip
        assert (second.owner, second.purpose) == ("bob", "media")
        answer = await s.client.get("/v1/audit", params={"owner": "bob"}, headers=ADMIN)
        (told,) = answer.json()["data"]
        assert (told["number"], told["action"], told["model"], told["purpose"]) == (2, "POST /analyze", "nano", "media")
        page = (await s.client.get("/v1/audit", params={"limit": 1}, headers=ADMIN)).json()
        assert page["data"][0]["action"] == "GET /v1/audit", "that the log was read is in it"
        assert page["has_more"]
        older = (await s.client.get("/v1/audit", params={"after": page["last_id"]}, headers=ADMIN)).json()["data"]
        assert [each["number"] for each in older] == [2, 1]
        assert (await s.client.get("/v1/audit", headers=ann)).status_code == 403
        assert places_of(MARKER, s.app.state.data.root, s.temp_dir) == set()
        assert audit.verify(s.app.state.store).is_whole


async def test_what_fails_and_what_is_refused_is_written_down(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(error=RuntimeError(MARKER)), auth="keys", purpose="research", key_rate=50) as s:
        ann = give_key(s)
        asked = [
            ({}, "POST", "/analyze", 401, "missing_api_key"),
            (ann, "GET", f"/metrics?{MARKER}", 403, "insufficient_scope"),
            ({**ann, HEADER: "workplace"}, "GET", f"/v1/files/{MARKER}", 403, "prohibited_purpose"),
            ({**ann, HEADER: "media"}, "POST", "/analyze", 403, "purpose_not_declared"),
            (ann, "GET", f"/{MARKER}", 403, "insufficient_scope"),
            (ann, "POST", "/analyze", 500, "internal_error"),
            (ann, "DELETE", f"/v1/files/{MARKER}", 404, "file_not_found"),
        ]  # fmt: skip
        for headers, method, path, status, _ in asked:
            files = CLIP if method == "POST" else None
            answer = await s.client.request(method, path, headers=headers, files=files, data=FIELDS if files else None)
            assert answer.status_code == status
        found = rows(s)
        assert [(row.status, row.code) for row in found] == [(each[3], each[4]) for each in asked]
        assert [row.action for row in found] == [
            "POST /analyze", "GET /metrics", "GET /v1/files", "POST /analyze", "GET (unknown)", "POST /analyze",
            "DELETE /v1/files/{file_id}",
        ]  # fmt: skip
        assert [row.owner for row in found] == [None, *["ann"] * 6]
        assert MARKER not in str(found)


async def test_lists_and_progress_are_not_written_down(service: Any) -> None:
    async with service() as s:
        for path in ("/health", "/ready", "/metrics", "/v1/models", "/v1/analyses", "/v1/files", "/docs", "/nothing"):
            await s.client.get(path)
        assert rows(s) == []


async def test_strangers_do_not_fill_the_disk(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.trust.auditing._REFUSALS_PER_MINUTE", 3)
    async with service(auth="keys") as s:
        for _ in range(80):
            assert (await s.client.get("/v1/models")).status_code == 401
        assert 3 <= len(rows(s)) < 20


async def test_an_analysis_is_followed_to_its_end(service: Any, eventually: Callable[..., Any]) -> None:
    async with service() as s:
        headers = {HEADER: "research"}
        made = await s.client.post("/v1/analyses", files=CLIP, data=FIELDS, headers=headers)
        analysis = made.json()["id"]
        assert made.json()["consent_reference"] == "study-4/17"
        await eventually(lambda: len(rows(s, subject_id=analysis)) == 2)
        await s.client.get(f"/v1/analyses/{analysis}", headers=headers)
        await s.client.get(f"/v1/analyses/{analysis}/report", headers=headers)
        assert (await s.client.delete(f"/v1/analyses/{analysis}")).status_code == 200
        found = rows(s, subject_id=analysis)
        # A short clip may have been analysed before the answer that it was taken is complete.
        found[:2] = sorted(found[:2], key=lambda row: row.action)
        assert [(row.action, row.status) for row in found] == [
            ("POST /v1/analyses", 202), ("analysis.succeeded", None), ("GET /v1/analyses/{analysis_id}", 200),
            ("GET /v1/analyses/{analysis_id}/report", 200), ("DELETE /v1/analyses/{analysis_id}", 200),
        ]  # fmt: skip
        assert [row.purpose for row in found] == [*["research"] * 4, None]
        assert (found[1].model, found[1].consent_reference) == ("nano", "study-4/17")


async def test_a_service_keeps_none_when_it_is_told_so(service: Any) -> None:
    async with service(audit=False, analysis_workers=1) as s:
        assert (await s.client.post("/analyze", files=CLIP, data=FIELDS)).status_code == 200
        made = (await s.client.post("/v1/analyses", files=CLIP)).json()["id"]
        while (await s.client.get(f"/v1/analyses/{made}")).json()["status"] != "succeeded":
            await asyncio.sleep(0.01)
        assert rows(s) == []


# ---- nothing of a clip is left --------------------------------------------------------------------------------------


def saying(analyzer_type: Any) -> Any:
    """A model whose answers have the clip's words in them."""

    class Saying(analyzer_type):  # type: ignore[misc]
        def analyze(self, source: Path, **options: Any) -> Any:
            made = super().analyze(source, **options)
            return dataclasses.replace(made, rationale=f"The person says {options['transcript']}.")

    return Saying()


async def finished(s: Any, **fields: str) -> str:
    """Have a clip with the marker in everything analysed, and return the analysis."""
    sent = {**FIELDS, "metadata": json.dumps({"case": MARKER}), **fields}
    made = await s.client.post("/v1/analyses", files=CLIP, data=sent, headers={"Idempotency-Key": MARKER})
    assert made.status_code == 202, made.text
    analysis = str(made.json()["id"])
    while (await s.client.get(f"/v1/analyses/{analysis}")).json()["status"] != "succeeded":
        await asyncio.sleep(0.01)
    return analysis


async def test_no_byte_of_a_deleted_analysis_is_left(
    service: Any, analyzer_type: Any, places_of: Callable[..., set[str]]
) -> None:
    async with service(saying(analyzer_type)) as s:
        root = s.app.state.data.root
        analysis = await finished(s)
        assert any(place.startswith("emollama.sqlite3") for place in places_of(MARKER, root))
        assert (await s.client.delete(f"/v1/analyses/{analysis}")).status_code == 200
        # Every byte that the service has stored: files, free pages of the database, its log, what requests left.
        assert places_of(MARKER, root, s.temp_dir) == set()
        # What is left is that it was there, and the proof that it was deleted.
        last = rows(s, subject_id=analysis)[-1]
        assert (last.action, last.status) == ("DELETE /v1/analyses/{analysis_id}", 200)


async def test_no_byte_is_left_when_the_time_is_over(
    service: Any, analyzer_type: Any, places_of: Callable[..., set[str]]
) -> None:
    async with service(saying(analyzer_type), analysis_retention_days=1.5 / 86_400) as s:
        root, store = s.app.state.data.root, s.app.state.store
        analysis = await finished(s)
        assert places_of(MARKER, root)
        with store.read() as connection:
            expires_at = connection.execute(text("SELECT expires_at FROM analyses")).scalar()
        # The key of the request is kept for a day by itself; the analysis takes it along.
        janitor = s.app.state.analyses.janitor
        janitor._clock = lambda: expires_at + 0.001
        await asyncio.to_thread(janitor.clean)
        assert places_of(MARKER, root, s.temp_dir) == set()
        last = rows(s, subject_id=analysis)[-1]
        assert (last.action, last.owner, last.consent_reference) == ("analysis.expired", "local", "study-4/17")
        assert (await s.client.get(f"/v1/analyses/{analysis}")).status_code == 404


async def test_an_erasure_leaves_the_log_and_is_in_it(service: Any, places_of: Callable[..., set[str]]) -> None:
    async with service() as s:
        await finished(s)
        proof = (await s.client.delete("/v1/owners/local")).json()
        assert places_of(MARKER, s.app.state.data.root, s.temp_dir) == set()
        last = rows(s)[-1]
        assert (last.action, last.status, last.subject_id) == ("DELETE /v1/owners/{owner}", 200, proof["id"])
        assert audit.verify(s.app.state.store).is_whole


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_lists_and_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOLLAMA_DATA_DIR", str(tmp_path))
    run = CliRunner().invoke
    made = run(keys_command, ["create", "ann", "--purpose", "research"]).output.split("_")[1]
    run(keys_command, ["revoke", made])
    assert run(keys_command, ["erase", "ann", "--yes"]).exit_code == 0
    listed = json.loads(run(command, ["list", "--json"]).stdout)
    assert [each["action"] for each in listed] == ["keys.erase", "keys.revoke", "keys.create"]
    assert [each["key_id"] for each in listed] == [None, made, made]
    assert listed[2]["purpose"] == "research"
    shown = run(command, ["list", "--limit", "2"], env={"COLUMNS": "200"})
    assert "keys.revoke" in shown.output
    assert f"--after {listed[1]['id']}" in shown.stderr
    only = json.loads(run(command, ["list", "--json", "--after", listed[1]["id"], "--since-days", "1"]).stdout)
    assert [each["number"] for each in only] == [1]
    assert run(command, ["list", "--after", "none"]).exit_code == 2
    checked = run(command, ["verify"])
    assert checked.exit_code == 0
    assert f"3 rows, none changed, none missing; head {listed[0]['hash']}" in checked.output
    monkeypatch.setenv("EMOLLAMA_AUDIT", "false")
    run(keys_command, ["create", "bob"])
    assert len(json.loads(run(command, ["list", "--json"]).stdout)) == 3
