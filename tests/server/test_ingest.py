"""What may go wrong with the body of an upload."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.ingest import Inbox, UploadLimits, safe_name
from server.scratch import Scratch

pytestmark = pytest.mark.anyio

CLIP = {"file": ("clip.mp4", b"the clip", "video/mp4")}
FORM = {"content-type": "multipart/form-data; boundary=B"}


def part(name: str, value: bytes, *, filename: str | None = None) -> bytes:
    extra = f'; filename="{filename}"' if filename is not None else ""
    return (
        b'--B\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n' % (name.encode(), extra.encode())
        + value
        + b"\r\n"
    )


END = b"--B--\r\n"


def code_of(response: Any) -> str:
    return response.json()["error"]["code"]


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({}, b"", 400, "missing_file"),
        ({"content-type": "application/x-www-form-urlencoded"}, b"labels=a", 400, "missing_file"),
        ({"content-type": "application/json"}, b"{}", 415, "unsupported_content_type"),
        ({"content-type": "video/mp4"}, b"bytes", 415, "unsupported_content_type"),
        ({"content-type": "multipart/form-data"}, b"", 400, "malformed_multipart"),
        (FORM, b"", 400, "malformed_multipart"),
        (FORM, b"no multipart at all", 400, "malformed_multipart"),
        (FORM, END, 400, "missing_file"),
        (FORM, part("labels", b"a, b") + END, 400, "missing_file"),
        (FORM, part("file", b"text, not a file") + END, 400, "missing_file"),
        (FORM, part("file", b"", filename="") + END, 400, "missing_file"),
        (FORM, part("file", b"", filename="a.mp4") + END, 400, "empty_file"),
        (FORM, part("file", b"bytes", filename="a.mp4"), 400, "malformed_multipart"),
        (FORM, part("file", b"a", filename="a.mp4") + part("file", b"b", filename="b") + END, 400, "duplicate_field"),
        (FORM, part("video", b"a", filename="a.mp4") + END, 400, "unknown_field"),
        (FORM, part("labels", b"a") + part("labels", b"b") + END, 400, "duplicate_field"),
        (FORM, part("labels", b"\xff\xfe") + END, 400, "invalid_value"),
        (FORM, b"".join(part(f"f{i}", b"") for i in range(17)) + END, 400, "too_many_parts"),
        (FORM, b"--B\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END, 400, "malformed_multipart"),
        (FORM, b"--B\r\nContent-Disposition: attachment\r\n\r\nx\r\n" + END, 400, "malformed_multipart"),
    ],
)
async def test_a_wrong_body_is_refused_and_leaves_nothing(
    service: Any, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    async with service() as s:
        response = await s.client.post("/analyze", content=body, headers=headers)
        assert (response.status_code, code_of(response)) == (status, code)
        assert s.analyzer.calls == []
        assert s.uploads() == []


async def test_a_declared_length_over_the_limit_is_refused_unread(service: Any) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b"x" * 65536

    async with service(max_upload_mb=1) as s:
        headers = {**FORM, "content-length": str(10**9), "expect": "100-continue"}
        response = await s.client.post("/analyze", content=body(), headers=headers)
        assert (response.status_code, code_of(response)) == (413, "file_too_large")
        assert response.json()["error"]["message"] == "the file is larger than 1 MiB"
        assert response.headers["connection"] == "close"
        assert read == 0


async def test_a_body_without_length_is_cut_at_the_limit(service: Any) -> None:
    sizes: list[int] = []

    async with service(max_upload_mb=1) as s:

        async def body() -> AsyncIterator[bytes]:
            yield part("file", b"", filename="a.mp4").removesuffix(b"\r\n")
            for _ in range(40):
                sizes.append(sum(path.stat().st_size for path in s.uploads() if path.is_file()))
                sizes.append(sum(file.stat().st_size for path in s.uploads() for file in path.glob("*")))
                yield b"x" * 65536

        response = await s.client.post("/analyze", content=body(), headers=FORM)
        assert (response.status_code, code_of(response)) == (413, "file_too_large")
        assert max(sizes) <= 1024 * 1024
        assert s.uploads() == []


async def test_a_file_just_at_the_limit_is_taken(service: Any) -> None:
    exact = b"y" * (1024 * 1024)
    async with service(max_upload_mb=1) as s:
        assert (await s.client.post("/analyze", files={"file": ("a.mp4", exact)})).status_code == 200
        assert s.analyzer.calls[0]["bytes"] == exact
        over = {"file": ("a.mp4", exact + b"y")}
        assert (await s.client.post("/analyze", files=over)).status_code == 413


async def test_many_small_parts_cannot_make_the_body_long(service: Any) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield part("file", b"x", filename="a.mp4") + END
        for _ in range(10_000):
            yield b"epilogue" * 8192

    async with service(max_upload_mb=1) as s:
        response = await s.client.post("/analyze", content=body(), headers=FORM)
        assert response.status_code == 413


async def test_bytes_survive_every_cut_of_the_stream(service: Any) -> None:
    payload = b"\r\n--B\r\n--\r\n\x00--B-" * 3
    whole = part("transcript", "Grüße".encode()) + part("file", payload, filename="a.MP4") + END
    whole = whole.replace(b"B\r\nContent", b"BOUND\r\nContent").replace(END, b"--BOUND--\r\n")

    async def body() -> AsyncIterator[bytes]:
        for index in range(len(whole)):
            yield whole[index : index + 1]

    async with service() as s:
        headers = {"content-type": "multipart/form-data; boundary=BOUND"}
        response = await s.client.post("/analyze", content=body(), headers=headers)
        assert response.status_code == 200, response.text
        assert s.analyzer.calls[0]["bytes"] == payload
        assert s.analyzer.calls[0]["transcript"] == "Grüße"
        assert s.analyzer.calls[0]["path"].name == "upload.mp4"


async def test_an_upload_that_never_ends_is_given_up(service: Any) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield part("labels", b"a, b")
        await asyncio.sleep(60)
        yield END

    async with service(upload_timeout_seconds=0.1) as s:
        async with asyncio.timeout(20):
            response = await s.client.post("/analyze", content=body(), headers=FORM)
        assert (response.status_code, code_of(response)) == (408, "upload_timeout")
        assert s.uploads() == []


async def test_uploads_at_once_are_bounded(service: Any, eventually: Any) -> None:
    go = asyncio.Event()
    begun = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield part("file", b"x", filename="a.mp4")
        begun.set()
        await go.wait()
        yield END

    async with service(max_uploads=1) as s:
        slow = asyncio.create_task(s.client.post("/analyze", content=body(), headers=FORM))
        await begun.wait()
        refused = await s.client.post("/analyze", files=CLIP)
        assert (refused.status_code, code_of(refused)) == (429, "busy")
        assert refused.headers["retry-after"] == "2"
        go.set()
        assert (await slow).status_code == 200
        assert (await s.client.post("/analyze", files=CLIP)).status_code == 200


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_full_disk_is_said(service: Any, number: int) -> None:
    async with service() as s:
        inbox = s.app.state.inbox
        scratch = inbox._scratch

        class Full(type(scratch)):  # type: ignore[misc]
            def __init__(self) -> None:
                pass

            def new_folder(self) -> Any:
                return _FullFolder(scratch.new_folder(), number)

            def discard(self, folder: Any) -> None:
                scratch.discard(folder.path)

        s.app.state.inbox = Inbox(Full(), limits=UploadLimits(max_file_bytes=1000), max_uploads=1)
        response = await s.client.post("/analyze", files=CLIP)
        assert response.status_code == (507 if number == errno.ENOSPC else 500)
        assert s.uploads() == []


class _FullFolder:
    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number

    def __truediv__(self, name: str) -> Any:
        return self

    def open(self, mode: str) -> Any:
        raise OSError(self.number, "no room")


async def test_a_client_that_leaves_in_mid_upload_leaves_nothing(service: Any) -> None:
    async with service() as s:
        sent: list[Any] = []
        messages = iter(
            [
                {
                    "type": "http.request",
                    "body": part("file", b"half a clip", filename="a.mp4")[:-2],
                    "more_body": True,
                },
                {"type": "http.disconnect"},
            ]
        )

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        await s.app(scope(s), receive, send)
        assert sent[0]["status"] == 499
        assert s.analyzer.calls == []
        assert s.uploads() == []


async def test_a_client_that_leaves_while_its_clip_is_analysed_stops_the_work(
    service: Any, analyzer_type: Any, eventually: Any
) -> None:
    async with service(analyzer_type(hold=True)) as s:
        left = asyncio.Event()
        body = [{"type": "http.request", "body": part("file", b"clip", filename="a.mp4") + END, "more_body": False}]

        async def receive() -> Any:
            if body:
                return body.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            assert message.get("status", 499) == 499

        request = asyncio.create_task(s.app(scope(s), receive, send))
        await eventually(s.analyzer.started.is_set)
        left.set()
        await request
        assert s.uploads() == []
        await eventually(s.analyzer.was_cancelled.is_set)
        await eventually(lambda: s.app.state.gate.num_running == 0)


async def test_a_cancelled_request_leaves_nothing(service: Any, analyzer_type: Any, eventually: Any) -> None:
    async with service(analyzer_type(hold=True)) as s:
        request = asyncio.create_task(s.client.post("/analyze", files=CLIP))
        await eventually(s.analyzer.started.is_set)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert s.uploads() == []
        await eventually(s.analyzer.was_cancelled.is_set)


def scope(s: Any) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/analyze", "raw_path": b"/analyze", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"multipart/form-data; boundary=B"), (b"transfer-encoding", b"chunked")],
        "server": ("test", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("clip.mp4", "clip.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\clip.mov", "clip.mov"),
        ("a\x00b\n.mp4", "ab.mp4"),
        ("", ""),
        ("x" * 300 + ".mp4", "x" * 116 + ".mp4"),
    ],
)
def test_a_file_name_is_a_name_only(given: str, kept: str) -> None:
    assert safe_name(given) == kept


@pytest.mark.in_process(reason="only an encoder has the file")
async def test_the_name_of_the_client_is_never_a_path(service: Any) -> None:
    async with service() as s:
        files = {"file": ("../../../tmp/evil.sh;rm", b"x")}
        assert (await s.client.post("/analyze", files=files)).status_code == 200
        call = s.analyzer.calls[0]
        assert call["name"] == "evil.sh;rm"
        assert call["path"].name == "upload"
        assert s.temp_dir in call["path"].parents


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="max_file_bytes is 0"):
        UploadLimits(max_file_bytes=0)


def test_scratch_is_private_and_goes_away(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "new")
    folder = scratch.new_folder()
    assert scratch.root.stat().st_mode & 0o077 == 0
    (folder / "upload").write_bytes(b"x")
    scratch.discard(folder)
    scratch.discard(folder)
    assert not folder.exists()
    scratch.close()
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_process_left_is_swept_and_a_living_one_is_spared(tmp_path: Path) -> None:
    import os

    killed, living = Scratch(tmp_path), Scratch(tmp_path)
    (killed.new_folder() / "upload").write_bytes(b"x")
    killed._lock.close()
    young = Scratch(tmp_path)
    assert killed.root.exists()
    for folder in (killed.root, living.root):
        os.utime(folder, (0, 0))
    fresh = Scratch(tmp_path)
    assert not killed.root.exists()
    assert living.root.exists()
    for scratch in (living, young, fresh):
        scratch.close()


def test_a_folder_that_cannot_be_removed_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scratch = Scratch(tmp_path)
    stray = tmp_path / "a file, not a folder"
    stray.write_bytes(b"")
    scratch.discard(stray)
    assert "could not remove an upload" in caplog.text
    scratch.close()
