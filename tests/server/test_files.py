"""`/v1/files` through the official client, and what an upload leaves behind when something goes wrong."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.jobs.housekeeping import Housekeeper
from server.records import files
from server.store import Store

openai = pytest.importorskip("openai")


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("manifest.jsonl", content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("manifest.jsonl")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def kept(data: Path) -> list[Path]:
    """Every file of somebody's that lies in the data folder."""
    inside = [path for name in ("files", "jobs") for path in (data / name).rglob("*") if path.is_file()]
    return inside + [path for path in (data / "incoming").rglob("*") if path.is_file() and path.name != "lock"]


def test_a_file_is_kept_listed_read_and_deleted(
    fine_tuning: Callable[..., Any], manifest: Callable[..., bytes]
) -> None:
    t = fine_tuning(jobs=False)
    content = manifest()
    file = t.client.files.create(file=("my clips.jsonl", content), purpose="fine-tune")
    assert (file.object, file.bytes, file.filename) == ("file", len(content), "my clips.jsonl")
    assert abs(file.created_at - time.time()) < 60
    assert t.client.files.retrieve(file.id) == file
    answer = t.client.files.content(file.id)
    assert answer.read() == content
    assert [each.id for each in t.client.files.list()] == [file.id]
    gone = t.client.files.delete(file.id)
    assert (gone.id, gone.object, gone.deleted) == (file.id, "file", True)
    assert kept(t.data) == []
    for call in (t.client.files.retrieve, t.client.files.content, t.client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(file.id)
        assert (caught.value.code, caught.value.param) == ("file_not_found", "file_id")


def test_files_are_listed_page_by_page(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning(jobs=False)
    ids = [t.upload() for _ in range(5)]
    assert [file.id for file in t.client.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in t.client.files.list(limit=2, order="asc")] == ids
    page = t.client.files.list(limit=2)
    assert (page.has_more, len(page.data)) == (True, 2)
    assert [file.id for file in t.client.files.list(after=ids[1])] == [ids[0]]
    assert t.client.files.list(purpose="fine-tune-results").data == []
    assert len(t.client.files.list(purpose="fine-tune").data) == 5
    for wrong in ({"limit": 0}, {"order": "up"}, {"after": "file-none"}):
        with pytest.raises(openai.BadRequestError) as caught:
            t.client.files.list(**wrong)
        assert caught.value.param == next(iter(wrong))


@pytest.mark.parametrize("pack", [bytes, zipped, tarred, lambda content: gzip.compress(tarred(content))])
def test_every_kind_of_bundle_can_be_trained_on(
    fine_tuning: Callable[..., Any], manifest: Callable[..., bytes], pack: Callable[[bytes], bytes]
) -> None:
    t = fine_tuning(jobs=False)
    file = t.upload(pack(manifest()), name="whatever.bin")
    unheard = manifest(rows=1, transcript="another word")
    job = t.create(training_file=file, validation_file=t.upload(pack(unheard)))
    assert job.status == "queued"
    folder = t.run_dir(job.id) / "data"
    assert (folder / "training" / "manifest.jsonl").read_bytes() == manifest()
    assert (folder / "validation" / "manifest.jsonl").read_bytes() == unheard


@pytest.mark.parametrize(
    ("content", "fields", "status", "code", "param"),
    [
        (b"%PDF-1.7\x00\x01 no bundle", {}, 415, "unsupported_file", "file"),
        (b"7z\xbc\xaf\x27\x1c", {}, 415, "unsupported_file", "file"),
        (b"", {}, 400, "empty_file", "file"),
        (b"{}\n" * 600_000, {}, 413, "file_too_large", "file"),
        (b"{}\n", {"purpose": "assistants"}, 400, "invalid_value", "purpose"),
        (b"{}\n", {"purpose": None}, 400, "invalid_value", "purpose"),
        (b"{}\n", {"color": "red"}, 400, "unknown_field", "color"),
        (b"{}\n", {"expires_after[anchor]": "now"}, 400, "invalid_value", "expires_after.anchor"),
        (b"{}\n", {"expires_after[anchor]": "created_at"}, 400, "invalid_value", "expires_after.seconds"),
        (b"{}\n", {"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}, 400, "invalid_value",
         "expires_after.seconds"),
    ],
)  # fmt: skip
def test_an_upload_that_is_refused_leaves_nothing(
    fine_tuning: Callable[..., Any], content: bytes, fields: dict[str, str | None], status: int, code: str, param: str
) -> None:
    t = fine_tuning(jobs=False, max_bundle_mb=1)
    form = {name: value for name, value in {"purpose": "fine-tune", **fields}.items() if value is not None}
    answer = httpx.post(f"{t.url}/v1/files", files={"file": ("a.jsonl", content)}, data=form)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert kept(t.data) == []
    assert t.client.files.list().data == []


def test_a_file_expires(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning(jobs=False, file_expire_days=2)
    by_setting = t.client.files.retrieve(t.upload())
    assert by_setting.expires_at - by_setting.created_at == 2 * 86_400
    file = t.client.files.create(
        file=("a.jsonl", b"{}\n"), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at - file.created_at == 3600
    store, data = t.service.app.state.store, t.service.app.state.data
    late = file.created_at + 3601.0
    assert files.find(store, file.id, now=late) is None
    assert [each.id for each in files.page(
        store, now=late, purpose=None, after=None, limit=9, newest_first=True).items] == [by_setting.id]  # fmt: skip
    with store.write() as connection:
        connection.exec_driver_sql(f"UPDATE files SET expires_at = 1 WHERE id = '{file.id}'")
    with pytest.raises(openai.NotFoundError):
        t.client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        t.create(training_file=file.id)
    Housekeeper(store, data).clean()
    assert [path.name for path in kept(t.data)] == [by_setting.id]


def test_without_room_nothing_is_left(fine_tuning: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    t = fine_tuning(jobs=False)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "add", full)
        with pytest.raises(openai.APIStatusError) as caught:
            t.upload()
        assert (caught.value.status_code, caught.value.code) == (507, "storage_full")
        assert kept(t.data) == []
    file = t.upload()
    with monkeypatch.context() as patched:
        patched.setattr("server.records.jobs.add", full)
        with pytest.raises(openai.APIStatusError) as caught:
            t.create(training_file=file)
        assert (caught.value.status_code, caught.value.code) == (507, "storage_full")
    assert [path.name for path in kept(t.data)] == [file]
    assert list((t.data / "jobs").iterdir()) == []


def test_what_a_killed_process_left_is_removed(fine_tuning: Callable[..., Any]) -> None:
    t = fine_tuning(jobs=False)
    file = t.upload()
    job = t.create(training_file=file)
    (t.data / "files" / "file-orphan").write_bytes(b"x")
    (t.data / "jobs" / "ftjob-orphan" / "data").mkdir(parents=True)
    store, data = t.service.app.state.store, t.service.app.state.data
    Housekeeper(store, data).clean()
    assert (t.data / "files" / "file-orphan").exists()  # young: its row may be on its way
    old = time.time() - 7200
    for path in (*(t.data / "files").iterdir(), *(t.data / "jobs").iterdir()):
        os.utime(path, (old, old))
    Housekeeper(store, data).clean()
    assert [path.name for path in (t.data / "files").iterdir()] == [file]
    assert [path.name for path in (t.data / "jobs").iterdir()] == [job.id]
    # A job that ended while its process was killed still has its clips.
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE jobs SET status = 'failed'")
    Housekeeper(store, data).clean()
    assert not (t.run_dir(job.id) / "data").exists()


def test_the_data_folder_is_nobody_elses(fine_tuning: Callable[..., Any], tmp_path: Path) -> None:
    t = fine_tuning(jobs=False, data=tmp_path / "new" / "data")
    assert (t.data.stat().st_mode & 0o777) == 0o700
    t.upload()
    assert isinstance(t.service.app.state.store, Store)


def test_a_number_out_of_range_is_told_with_its_value(queueing: Any) -> None:
    answer = httpx.get(f"{queueing.url}/v1/files", params={"limit": 0})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "limit is '0': input should be greater than or equal to 1"
    assert answer.json()["error"]["param"] == "limit"
