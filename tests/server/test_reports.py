"""`GET /v1/analyses/{id}/report`: a finished analysis as a file, to its owner and to nobody else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from emollama.reports import FORMATS, write_report
from server.records import analyses

pytestmark = pytest.mark.anyio
URL = "/v1/analyses"


async def finished(s: Any) -> dict[str, Any]:
    answer = await s.client.post(URL, files={"file": ("talk.wav", b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 32)})
    assert answer.status_code == 202, answer.text
    for _ in range(2000):
        found = (await s.client.get(f"{URL}/{answer.json()['id']}")).json()
        if found["status"] in analyses.ENDED:
            return dict(found)
        await asyncio.sleep(0.01)
    raise AssertionError("the analysis does not end")


async def test_every_format_is_what_the_library_writes_of_the_result(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type()) as s:
        found = await finished(s)
        for name, format in FORMATS.items():
            answer = await s.client.get(f"{URL}/{found['id']}/report", params={"format": name})
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == format.media_type
            assert answer.headers["content-disposition"].endswith(f"{found['id']}.{name}")
            assert "script-src" not in answer.headers["content-security-policy"]
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert answer.content == write_report(json.loads(json.dumps(found["result"])), name)
        assert (await s.client.get(f"{URL}/{found['id']}/report")).headers["content-type"].startswith("text/html")


async def test_what_is_not_there_or_not_done_is_said(service: Any, analyzer_type: Any) -> None:
    async with service(analyzer_type(hold=True)) as s:
        answer = await s.client.post(URL, files={"file": ("talk.wav", b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 32)})
        analysis_id = answer.json()["id"]
        waiting = await s.client.get(f"{URL}/{analysis_id}/report")
        assert (waiting.status_code, waiting.json()["error"]["code"]) == (409, "analysis_unfinished")
        missing = await s.client.get(f"{URL}/analysis-none/report")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "analysis_not_found")
        wrong = await s.client.get(f"{URL}/{analysis_id}/report", params={"format": "docx"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "format")
        s.analyzer.release.set()
