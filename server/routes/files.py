"""`/v1/files`: what jobs are trained on, and what they leave; in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from emollama.sniff import HEAD_BYTES, sniff
from server.auth import Principal
from server.deps import BundleInboxDep, DataDep, IdempotencyDep, PrincipalDep, SettingsDep, StoreDep
from server.errors import ApiError, responses
from server.idempotency import PARAMETER, REPLAYED, Claim
from server.idempotency import fingerprint as fingerprint_of
from server.ingest import Upload
from server.layout import DataFolder
from server.records import files
from server.records.files import FileRecord
from server.records.ids import new_id
from server.schemas.files import REQUEST_BODY, FileDeletedOut, FileForm, FileList, FileOut
from server.settings import Settings
from server.store import Store
from server.trust.auditing import about, handed_out

router = APIRouter(prefix="/v1/files", tags=["files"])

_SLACK_SECONDS = 60.0  # what a request takes beyond receiving its file


@router.post(
    "",
    summary="Upload a bundle of clips and labels, or a clip to chat about or to analyse",
    responses=responses(
        "missing_file", "empty_file", "malformed_multipart", "too_many_parts", "unknown_field", "duplicate_field",
        "invalid_value", "upload_timeout", "idempotency_in_flight", "file_too_large", "field_too_large",
        "unsupported_content_type", "unsupported_file", "unsupported_media", "idempotency_key_reused", "busy",
        "internal_error", "storage_full",
    ),
    openapi_extra={"requestBody": REQUEST_BODY, "parameters": [PARAMETER]},
)  # fmt: skip
async def upload_file(
    request: Request,
    response: Response,
    inbox: BundleInboxDep,
    store: StoreDep,
    data: DataDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    idempotency: IdempotencyDep,
) -> FileOut:
    """It is kept until it is deleted or expires. What is in it is checked when a job is made of it."""
    seconds = settings.bundle_timeout_seconds + _SLACK_SECONDS
    async with idempotency.claim(request, principal.owner, seconds=seconds) as claim:
        async with inbox.receive(request) as upload:
            form = FileForm.from_fields(upload.fields)
            record, is_new = await asyncio.to_thread(_keep, upload, form, store, data, settings, principal, claim)
    about(request, subject=record.id)
    if not is_new:
        response.headers.update(REPLAYED)
    return FileOut.of(record)


def _keep(
    upload: Upload,
    form: FileForm,
    store: Store,
    data: DataFolder,
    settings: Settings,
    principal: Principal,
    claim: Claim,
) -> tuple[FileRecord, bool]:
    """Return the file's record, and whether this request made it."""
    fingerprint = ""
    if claim.key is not None:
        fields = {**upload.fields, "filename": upload.file.name}
        fingerprint = fingerprint_of("POST /v1/files", fields, file=upload.file.path)
    made = claim.replays(fingerprint)
    if made is not None:
        return find_file(store, made, owner=principal.sees), False
    if form.purpose == "fine-tune":
        kind = _kind_of_bundle(upload)
    else:
        kind = _kind_of_clip(upload, settings.analysis_max_bytes)
    now = time.time()
    seconds = form.expires_seconds or settings.file_expire_seconds
    record = FileRecord(
        id=new_id("file-"),
        filename=upload.file.name,
        purpose=form.purpose,
        kind=kind,
        num_bytes=upload.file.num_bytes,
        created_at=now,
        expires_at=None if seconds is None else now + seconds,
        owner=principal.owner,
    )
    target = data.file(record.id)
    os.replace(upload.file.path, target)
    try:
        files.add(store, record, also=claim.completes(fingerprint, record.id))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return record, True


def _kind_of_bundle(upload: Upload) -> str:
    from train.data.bundle import BundleError, kind_of
    from train.data.codes import CODES

    try:
        return kind_of(upload.file.path)
    except BundleError as exc:
        raise ApiError("unsupported_file", f"{exc} ({CODES[exc.code].remedy})", param="file") from exc


def _kind_of_clip(upload: Upload, max_bytes: int) -> str:
    """Return what a clip is, told from its first bytes; who reads it may want a smaller one."""
    if upload.file.num_bytes > max_bytes:
        message = f"a clip may have {max_bytes / 2**20:g} MiB"
        raise ApiError("file_too_large", message, param="file")
    with upload.file.path.open("rb") as file:
        return sniff(file.read(HEAD_BYTES)).family


@router.get("", summary="Files that are kept", responses=responses("invalid_value"))
def list_files(
    store: StoreDep,
    principal: PrincipalDep,
    after: Annotated[str | None, Query(max_length=64, description="Go on after this file.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> FileList:
    newest_first = order == "desc"
    page = files.page(
        store, now=time.time(), purpose=purpose, after=after, limit=limit, newest_first=newest_first,
        owner=principal.sees,
    )  # fmt: skip
    ids = [record.id for record in page.items]
    return FileList(
        data=[FileOut.of(record) for record in page.items],
        has_more=page.has_more,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
    )


@router.get("/{file_id}", summary="One file", responses=responses("file_not_found"))
def get_file(file_id: str, store: StoreDep, principal: PrincipalDep) -> FileOut:
    return FileOut.of(find_file(store, file_id, owner=principal.sees))


@router.get("/{file_id}/content", summary="The bytes of a file", responses=responses("file_not_found"))
def get_content(
    request: Request, file_id: str, store: StoreDep, data: DataDep, principal: PrincipalDep
) -> FileResponse:
    record = find_file(store, file_id, owner=principal.sees)
    path = data.file(record.id)
    if not path.is_file():
        raise _not_found(file_id)
    handed_out(request, record.id)
    return FileResponse(path, media_type="application/octet-stream", filename=record.filename)


@router.delete("/{file_id}", summary="Delete a file", responses=responses("file_not_found"))
def delete_file(file_id: str, store: StoreDep, data: DataDep, principal: PrincipalDep) -> FileDeletedOut:
    """A job that was made of it keeps its own copy until it has ended."""
    record = find_file(store, file_id, owner=principal.sees)
    data.file(record.id).unlink(missing_ok=True)
    files.remove(store, record.id)
    return FileDeletedOut(id=record.id)


def find_file(store: Store, file_id: str, *, owner: str | None, param: str = "file_id") -> FileRecord:
    """Return a file of ``owner`` (None: of anybody) or raise; ``param`` is how the request called it."""
    record = files.find(store, file_id, now=time.time(), owner=owner)
    if record is None:
        raise _not_found(file_id, param=param)
    return record


def _not_found(file_id: str, *, param: str = "file_id") -> ApiError:
    return ApiError("file_not_found", f"no file {file_id[:64]!r}", param=param)
