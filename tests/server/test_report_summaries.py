"""`GET /v1/reports/summary`: many kept analyses on one page, of their owner alone."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from typing import Any

import pytest

from server.records import analyses, audit
from server.records.analyses import AnalysisRecord
from server.reports import selection

pytestmark = pytest.mark.anyio
URL = "/v1/reports/summary"
NOW = time.time()


@pytest.fixture
def keep(analysis: Any) -> Any:
    """Put analyses into a service's database as a worker leaves them."""

    def put(s: Any, name: str, **changes: Any) -> None:
        document = {**dataclasses.replace(analysis, clip=f"{name}.mp4").to_json_dict(), "kind": "clip"}
        record = AnalysisRecord(
            id=f"analysis-{name}", owner="local", filename=f"{name}.mp4", num_bytes=1, options={},
            retention_seconds=1e6, created_at=NOW, status="succeeded", result=json.dumps(document),
        )  # fmt: skip
        with s.app.state.store.write() as connection:
            analyses.add_within(connection, dataclasses.replace(record, **changes))

    return put


def clips(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [row["clip"] for row in csv.DictReader(io.StringIO(answer.text))]


def code(answer: Any) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def test_every_format_holds_what_succeeded_and_what_failed(service: Any, keep: Any) -> None:
    async with service(analysis_workers=0) as s:
        keep(s, "a")
        keep(s, "b")
        keep(s, "c", status="failed", result=None, error={"code": "undecodable_media", "message": "no picture"})
        keep(s, "waits", status="queued", result=None)
        keep(s, "old", expires_at=NOW - 1)
        table = await s.client.get(URL, params={"format": "csv"})
        assert clips(table) == ["a.mp4", "b.mp4", "c.mp4"]
        assert "undecodable_media: no picture" in table.text
        assert "analysis-a" in table.text
        page = await s.client.get(URL, params={"title": "Case <17>"})
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "Case &lt;17&gt;" in page.text
        assert "How the people in 2 clips appear; 1 more could not be read" in page.text
        document = await s.client.get(URL, params={"format": "pdf"})
        assert document.content.startswith(b"%PDF-")
        assert document.headers["content-type"] == "application/pdf"


async def test_they_are_chosen_by_id_by_metadata_and_by_time(service: Any, keep: Any) -> None:
    async with service(analysis_workers=0) as s:
        keep(s, "a", metadata={"case": "17"}, created_at=NOW - 100)
        keep(s, "b", metadata={"case": "17", "room": "2"}, created_at=NOW - 50)
        keep(s, "c", metadata={"case": "18"})

        async def chosen(**params: Any) -> list[str]:
            return clips(await s.client.get(URL, params={"format": "csv", **params}))

        assert await chosen(analysis_id=["analysis-c", "analysis-a", "analysis-c"]) == ["a.mp4", "c.mp4"]
        assert await chosen(**{"metadata[case]": "17"}) == ["a.mp4", "b.mp4"]
        assert await chosen(**{"metadata[case]": "17", "metadata[room]": "2"}) == ["b.mp4"]
        assert await chosen(created_after=NOW - 60, created_before=NOW - 10) == ["b.mp4"]


async def test_what_is_missing_unfinished_or_too_much_is_said(
    service: Any, keep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(analysis_workers=0) as s:
        assert code(await s.client.get(URL)) == (404, "analysis_not_found", "analysis_id")
        keep(s, "a")
        keep(s, "waits", status="running", result=None)
        keep(s, "b")
        given = {"analysis_id": ["analysis-a", "analysis-none"]}
        assert code(await s.client.get(URL, params=given)) == (404, "analysis_not_found", "analysis_id")
        given = {"analysis_id": ["analysis-a", "analysis-waits"]}
        assert code(await s.client.get(URL, params=given)) == (409, "analysis_unfinished", "analysis_id")
        assert code(await s.client.get(URL, params={"format": "srt"})) == (400, "invalid_value", "format")
        assert code(await s.client.get(URL, params={"analysis_id": ["x"] * 201}))[:2] == (400, "invalid_value")
        monkeypatch.setattr(selection, "MAX_CLIPS", 1)
        answer = await s.client.get(URL)
        assert code(answer) == (400, "invalid_value", "created_after")
        assert "2 analyses fit; allowed: 1" in answer.json()["error"]["message"]


async def test_the_audit_log_has_no_text_of_a_request(service: Any, keep: Any) -> None:
    async with service(analysis_workers=0) as s:
        keep(s, "a")
        for name in ("Ann's clip", "analysis-a"):
            await s.client.get(URL, params={"analysis_id": name})
        found = audit.page(s.app.state.store, after=None, limit=9).items
        assert [row.subject_id for row in found] == ["analysis-a"]


async def test_nobody_reads_another_owners(service: Any, keep: Any) -> None:
    from server.auth import new_key
    from server.records import keys

    async with service(auth="keys") as s:
        text, record = new_key(owner="ann", scopes=["analyze"])
        keys.add(s.app.state.store, record)
        keep(s, "hers", owner="ann")
        keep(s, "his", owner="bob")
        mine = {"authorization": f"Bearer {text}"}
        assert clips(await s.client.get(URL, params={"format": "csv"}, headers=mine)) == ["hers.mp4"]
        given = {"analysis_id": ["analysis-his"]}
        assert code(await s.client.get(URL, params=given, headers=mine))[1] == "analysis_not_found"
