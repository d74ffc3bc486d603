"""One table from what went wrong to what the client is told.

Every error leaves the service in the shape that OpenAI's API uses, ``{"error": {"message", "type", "param", "code"}}``,
with a fitting status; ``code`` is stable and documented, ``message`` is for people. The library's own errors
(`emollama.errors`) carry no status: `EXCEPTIONS` gives them one. An error that nobody planned is ``internal_error``
with the request's id, and never a stack trace.
"""

from __future__ import annotations

import errno
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from emollama import errors as library
from server.schemas.errors import ErrorBody, ErrorOut, ProblemOut

logger = logging.getLogger("server.errors")

_INVALID = "invalid_request_error"
_LIMIT = "rate_limit_error"
_AUTHENTICATION = "authentication_error"
_PERMISSION = "permission_error"
_SERVER = "server_error"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class ErrorCode:
    """What a code means: its status, the OpenAI error type, one line of documentation, and an example."""

    status: int
    type: str
    meaning: str
    example: str
    param: str | None = None


CODES: Mapping[str, ErrorCode] = MappingProxyType(
    {
        "missing_file": ErrorCode(
            400, _INVALID, "The request has no file.",
            "the request has no file; send one as multipart/form-data, field 'file'", "file",
        ),
        "empty_file": ErrorCode(400, _INVALID, "The file has no bytes.", "the file is empty", "file"),
        "malformed_multipart": ErrorCode(
            400, _INVALID, "The multipart body is damaged or cut short.", "the multipart body ends too early"
        ),
        "too_many_parts": ErrorCode(
            400, _INVALID, "The multipart body has more parts than allowed.", "the body has more than 16 parts"
        ),
        "unknown_field": ErrorCode(
            400, _INVALID, "A field that the route does not know.",
            "unknown field 'label'; allowed: file, transcript, labels, language, model, timeline", "label",
        ),
        "duplicate_field": ErrorCode(
            400, _INVALID, "A form field was sent twice.", "field 'labels' was sent twice", "labels"
        ),
        "invalid_value": ErrorCode(
            400, _INVALID, "A value is outside what is allowed; `param` names it.",
            "labels holds 1 names; allowed: 2 to 64", "labels",
        ),
        "unsupported_option": ErrorCode(
            400, _INVALID, "An option of OpenAI's API that this service does not have; `param` names it.",
            "method.type is 'dpo'; supported: supervised", "method.type",
        ),
        "live_unsupported": ErrorCode(
            400, _INVALID, "The model, or the service, takes no live sessions.",
            "this model is not read live; allowed: nano, its adapters, in the service itself", "model",
        ),
        "unsupported_parameter": ErrorCode(
            400, _INVALID, "A parameter of a chat that this service does not have; `param` names it.",
            "'tools' is not supported", "tools",
        ),
        "clip_not_cached": ErrorCode(
            400, _INVALID, "A clip that is named by its `uuid` alone is not held (any more); send it again.",
            "no clip is held under the uuid 'a'; send the clip again", "messages",
        ),
        "invalid_training_file": ErrorCode(
            400, _INVALID, "The training file cannot be trained on; `problems` lists everything that is wrong.",
            "manifest.jsonl, line 3, clip: clips/a.wav is not in the archive (add the file, or correct the path)",
            "training_file",
        ),
        "invalid_validation_file": ErrorCode(
            400, _INVALID, "The validation file cannot be used; `problems` lists everything that is wrong.",
            "manifest.jsonl, line 1, label: there is no label (give a label or a distribution)", "validation_file",
        ),
        "invalid_job_state": ErrorCode(
            400, _INVALID, "The job is in a state in which that cannot be done.",
            "job ftjob-4k1x cannot pause: it has succeeded", "fine_tuning_job_id",
        ),
        "model_not_deletable": ErrorCode(
            400, _INVALID, "The model belongs to the service's set-up, not to a job.",
            "model 'nano' is part of the service and cannot be deleted", "model",
        ),
        "url_not_allowed": ErrorCode(
            400, _INVALID, "The service does not fetch from that address.",
            "host 'media.example' is not one that this service fetches from", "messages",
        ),
        "url_fetch_failed": ErrorCode(
            400, _INVALID, "The clip could not be fetched from its address.",
            "the clip could not be fetched: its host answered with status 404", "messages",
        ),
        "adapter_exists": ErrorCode(
            400, _INVALID, "There is a model or adapter of that name.", "there is a model 'nano' already", "lora_name"
        ),
        "invalid_adapter": ErrorCode(
            400, _INVALID, "The adapter's folder cannot be used.",
            "the adapter's folder has no adapter_model.safetensors", "lora_path",
        ),
        "webhook_not_allowed": ErrorCode(
            400, _INVALID, "The service does not send webhooks to that address.",
            "webhook_url is http; allowed: https", "webhook_url",
        ),
        "purpose_required": ErrorCode(
            400, _INVALID, "The request does not say what it is for, and must.",
            "say what the request is for by EmoLLaMA-Purpose", "EmoLLaMA-Purpose",
        ),
        "consent_required": ErrorCode(
            400, _INVALID, "The clip comes without a reference to a consent, and must not.",
            "this service reads only clips with a consent_reference", "consent_reference",
        ),
        "missing_api_key": ErrorCode(
            401, _AUTHENTICATION, "The request has no API key.",
            "the request has no API key; send one as Authorization: Bearer",
        ),
        "invalid_api_key": ErrorCode(
            401, _AUTHENTICATION, "The API key is unknown, revoked or expired.", "the API key is not valid"
        ),
        "insufficient_scope": ErrorCode(
            403, _PERMISSION, "The API key has not the scope that the request needs.",
            "this key has not the scope 'jobs' that the request needs",
        ),
        "origin_not_allowed": ErrorCode(
            403, _PERMISSION, "The WebSocket is opened by a page of another place than the service's own.",
            "origin is 'https://elsewhere.example'; allowed: this service's own", "Origin",
        ),
        "prohibited_purpose": ErrorCode(
            403, _PERMISSION, "Emotions are not read for that purpose.",
            "the request has the purpose 'social_scoring', which is prohibited by Regulation (EU) 2024/1689, "
            "article 5(1)(c)",
            "EmoLLaMA-Purpose",
        ),
        "purpose_not_declared": ErrorCode(
            403, _PERMISSION, "The request, or its key, is for something else than what is declared above it.",
            "EmoLLaMA-Purpose is 'media'; declared: research", "EmoLLaMA-Purpose",
        ),
        "adapter_not_allowed": ErrorCode(
            403, _PERMISSION, "Adapters are loaded from the service's adapter root alone, when it has one.",
            "lora_path is not a folder under the service's adapter root", "lora_path",
        ),
        "not_found": ErrorCode(404, _INVALID, "No such route.", "no route GET /analyse"),
        "model_not_found": ErrorCode(
            404, _INVALID, "The service has no such model or adapter.", "unknown model 'mega'; known: nano", "model"
        ),
        "file_not_found": ErrorCode(404, _INVALID, "There is no such file.", "no file 'file-4k1x'", "file_id"),
        "job_not_found": ErrorCode(
            404, _INVALID, "There is no such fine-tuning job.", "no fine-tuning job 'ftjob-4k1x'", "fine_tuning_job_id"
        ),
        "analysis_unfinished": ErrorCode(
            409, _INVALID, "The analysis has no result: it waits, runs, failed or was cancelled.",
            "analysis 'analysis-4k1x' has no result: it is queued", "analysis_id",
        ),
        "analysis_not_found": ErrorCode(
            404, _INVALID, "There is no such analysis, or its time is over.", "no analysis 'analysis-4k1x'",
            "analysis_id",
        ),
        "owner_not_found": ErrorCode(
            404, _INVALID, "There is no such owner, or it is not yours.", "no owner 'bob'", "owner"
        ),
        "method_not_allowed": ErrorCode(
            405, _INVALID, "The route does not take that method; `Allow` lists those it takes.",
            "GET is not allowed here; allowed: POST",
        ),
        "live_session_over": ErrorCode(
            408, _INVALID, "A live session lasted as long as one may, or nothing came for too long.",
            "nothing came for 30 s",
        ),
        "upload_timeout": ErrorCode(
            408, _INVALID, "The upload did not end in time.", "the upload was not complete after 120 s"
        ),
        "idempotency_in_flight": ErrorCode(
            409, _INVALID, "A request with the same `Idempotency-Key` is still being answered.",
            "a request with this Idempotency-Key is still being answered; try again in 5 s", "Idempotency-Key",
        ),
        "erasure_incomplete": ErrorCode(
            409, _INVALID, "A trainer of the owner's still runs, so nothing was erased yet; ask again.",
            "job ftjob-4k1x is still being stopped; nothing was erased: ask again in 5 s", "owner",
        ),
        "file_too_large": ErrorCode(
            413, _INVALID, "The file is larger than the service takes.", "the file is larger than 100 MiB", "file"
        ),
        "field_too_large": ErrorCode(
            413, _INVALID, "A text field is larger than the service takes.",
            "field 'transcript' is larger than 64 KiB", "transcript",
        ),
        "body_too_large": ErrorCode(
            413, _INVALID, "The JSON body is larger than the service takes.", "the body is larger than 256 KiB"
        ),
        "url_too_large": ErrorCode(
            413, _INVALID, "The clip at that address is larger than the service takes.",
            "the clip is larger than 100 MiB", "messages",
        ),
        "unsupported_content_type": ErrorCode(
            415, _INVALID, "The body is of another type than the route takes.",
            "the body is 'application/json'; allowed: multipart/form-data", "file",
        ),
        "unsupported_media": ErrorCode(
            415, _INVALID, "The file is not a video, audio file or image that is read here.",
            "notes.pdf is not a video, audio or image file that this project reads", "file",
        ),
        "unsupported_file": ErrorCode(
            415, _INVALID, "The file is not JSONL, zip, tar or tar.gz.",
            "the file is a 7-zip archive (use zip with deflate, tar or tar.gz)", "file",
        ),
        "undecodable_media": ErrorCode(
            422, _INVALID, "The file is media, but nothing in it can be decoded.",
            "clip.mp4 holds nothing to read", "file",
        ),
        "media_limit_exceeded": ErrorCode(
            422, _INVALID, "The clip exceeds a limit on seconds, pixels, frames or streams.",
            "clip.mp4 lasts 912.0 s; allowed: 300.0 s", "file",
        ),
        "idempotency_key_reused": ErrorCode(
            422, _INVALID, "The `Idempotency-Key` was used for another request.",
            "the Idempotency-Key was used for another request; take another key for this one", "Idempotency-Key",
        ),
        "analysis_queue_full": ErrorCode(
            429, _LIMIT, "Too many analyses of yours wait; come back after `Retry-After` seconds.",
            "100 of your analyses wait; allowed: 100. Try again in 40 s",
        ),
        "busy": ErrorCode(
            429, _LIMIT, "All places are taken; come back after `Retry-After` seconds.",
            "2 clips are being analysed and 16 wait; try again in 9 s",
        ),
        "rate_limit_exceeded": ErrorCode(
            429, _LIMIT, "The API key has asked too often; come back after `Retry-After` seconds.",
            "this key may ask 60 times a minute; try again in 3 s",
        ),
        "client_closed_request": ErrorCode(
            499, _INVALID, "The client went away; nobody reads this answer, but the log does.", "the client went away"
        ),
        "internal_error": ErrorCode(
            500, _SERVER, "A fault of the service.", "internal error; the log has the details under request id 6f1c0a"
        ),
        "analysis_crashed": ErrorCode(
            500, _SERVER, "The clip ended the process that analysed it, several times.",
            "the process that analysed the clip ended, 3 times",
        ),
        "dependency_missing": ErrorCode(
            501, _SERVER, "The request needs an optional part that this service was installed without.",
            "this service was installed without a part that the request needs",
        ),
        "not_ready": ErrorCode(503, _SERVER, "The model is still being loaded.", "the model is still being loaded"),
        "model_load_failed": ErrorCode(
            503, _SERVER, "The model could not be loaded; the service's log says why.", "the model could not be loaded"
        ),
        "deadline_exceeded": ErrorCode(
            504, _SERVER, "The analysis did not end in time; its work was cancelled.",
            "the analysis was not complete after 120 s",
        ),
        "storage_full": ErrorCode(507, _SERVER, "The service has no room for the upload.", "no room for the upload"),
        "http_error": ErrorCode(400, _INVALID, "Another error of the HTTP protocol.", "Bad Request"),
    }
)  # fmt: skip

EXCEPTIONS: Mapping[type[Exception], str] = MappingProxyType(
    {
        library.InputError: "invalid_value",
        library.UnsupportedMediaError: "unsupported_media",
        library.UndecodableMediaError: "undecodable_media",
        library.MediaLimitError: "media_limit_exceeded",
        library.MediaError: "undecodable_media",
        library.BusyError: "busy",
        library.DependencyError: "dependency_missing",
        library.CancelledError: "client_closed_request",
        library.DeadlineError: "deadline_exceeded",
        library.EmoLlamaError: "internal_error",
    }
)


class ApiError(Exception):
    """An error of the service itself; ``code`` is a key of `CODES`, ``headers`` go out with the answer."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        param: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        problems: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        entry = CODES[code]
        super().__init__(message or entry.example)
        self.code = code
        self.message = message or entry.example
        self.param = param
        self.status = status or entry.status
        self.type = _SERVER if self.status >= 500 else entry.type
        self.headers = dict(headers or {})
        self.problems = [ProblemOut(**problem) for problem in problems]

    def response(self) -> JSONResponse:
        body = ErrorBody(message=self.message, type=self.type, param=self.param, code=self.code)
        document = {"error": body.model_dump(exclude={"problems"})}
        if self.problems:
            document["error"]["problems"] = [problem.model_dump() for problem in self.problems]
        return JSONResponse(document, status_code=self.status, headers=self.headers)


def from_library(exc: library.EmoLlamaError) -> ApiError:
    """Return what a client is told about an error of the library.

    What is the service's own fault (a damaged checkpoint, a missing package) is told without the message, which
    may name files of the machine.
    """
    if isinstance(exc, library.UnknownNameError) and exc.field == "model":
        return ApiError("model_not_found", str(exc), param="model")
    code = next(EXCEPTIONS[kind] for kind in type(exc).__mro__ if kind in EXCEPTIONS)
    if CODES[code].status >= 500 and not isinstance(exc, library.DeadlineError):
        return ApiError(code)
    headers = {}
    if isinstance(exc, library.BusyError):
        headers["Retry-After"] = str(max(1, math.ceil(exc.retry_after_seconds)))
    # What the library calls the source is the form's file.
    param = "file" if exc.field == "source" else exc.field or CODES[code].param
    return ApiError(code, str(exc), param=param, headers=headers)


def envelope(code: str) -> dict[str, dict[str, str | None]]:
    """Return the example of a code as a client would get it."""
    entry = CODES[code]
    return {"error": {"message": entry.example, "type": entry.type, "param": entry.param, "code": code}}


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's ``responses`` for these codes, one example a code, and the envelope for everything else."""
    documented: dict[int | str, dict[str, Any]] = {
        "default": {"model": ErrorOut, "description": "Any other error, in the same envelope."}
    }
    for code in codes:
        entry = CODES[code]
        slot = documented.setdefault(
            entry.status,
            {
                "model": ErrorOut,
                "description": HTTPStatus(entry.status).phrase if entry.status != 499 else "Client Closed Request",
                "content": {"application/json": {"examples": {}}},
            },
        )
        slot["content"]["application/json"]["examples"][code] = {"summary": entry.meaning, "value": envelope(code)}
        if entry.status == HTTPStatus.TOO_MANY_REQUESTS:
            slot["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return documented


def install(app: FastAPI) -> None:
    """Register the handlers that turn every planned error into the envelope."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(library.EmoLlamaError, _on_library_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(OSError, _on_os_error)


def note(request: HTTPConnection, error: ApiError) -> JSONResponse:
    """Put the error's code into the request's log line and return the answer."""
    request.scope.setdefault("state", {}).setdefault("log", {})["error_code"] = error.code
    return error.response()


def told_of(request: HTTPConnection, exc: Exception) -> ApiError:
    """Return what the client is told of an error, and log what the operator has to know of it.

    One that nobody planned is told with the request's id alone.
    """
    if isinstance(exc, ApiError):
        return exc
    if isinstance(exc, library.EmoLlamaError):
        error = from_library(exc)
        error.message = without_paths(error.message, getattr(request.app.state, "scratch_root", None))
        if error.status >= 500:
            # The message is the operator's: it names a file or a package, never what a request held.
            logger.error("request failed", extra={"fields": {"kind": type(exc).__name__, "reason": str(exc)}})
        return error
    if isinstance(exc, OSError) and exc.errno in _NO_ROOM:
        logger.error("the disk is full")
        return ApiError("storage_full")
    request_id = getattr(request.state, "request_id", "")
    logger.error("unplanned error", extra={"fields": {"request_id": request_id}}, exc_info=exc)
    return ApiError("internal_error", f"internal error; the log has the details under request id {request_id}")


def without_paths(text: str, root: str | None) -> str:
    """Return the text with every path under ``root`` (where uploads lie) replaced by "the file"."""
    return re.sub(re.escape(root) + r"[^\s'\":,;)\]]*", "the file", text) if root else text


async def _on_api_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, ApiError)
    return note(request, exc)


async def _on_library_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, library.EmoLlamaError)
    return note(request, told_of(request, exc))


async def _on_os_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, OSError)
    if exc.errno not in _NO_ROOM:
        raise exc
    return note(request, told_of(request, exc))


async def _on_validation_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    return note(request, invalid_value(exc.errors()))


async def _on_http_exception(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    route = f"{request.method} {request.url.path[:200]}"
    if exc.status_code == HTTPStatus.NOT_FOUND:
        return note(request, ApiError("not_found", f"no route {route}"))
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (exc.headers or {}).get("Allow", "")
        message = f"{request.method} is not allowed here; allowed: {allowed}"
        return note(request, ApiError("method_not_allowed", message, headers=exc.headers))
    return note(request, ApiError("http_error", str(exc.detail), status=exc.status_code, headers=exc.headers))


def invalid_value(problems: Any) -> ApiError:
    """Return the error for pydantic's list of problems: the first one, with its field."""
    first = problems[0]
    location = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    param = ".".join(location) or None
    if first["type"] == "extra_forbidden":
        return ApiError("unknown_field", f"unknown field {(param or '')[:60]!r}", param=param and param[:60])
    message = str(first["msg"]).removeprefix("Value error, ")
    if param is None or message.startswith(param):
        return ApiError("invalid_value", message, param=param)
    value = first.get("input")
    is_shown = isinstance(value, (str, int, float, bool)) and first["type"] != "missing"
    shown = f"{param} is {str(value)[:60]!r}: " if is_shown else f"{param}: "
    return ApiError("invalid_value", shown + message[:1].lower() + message[1:], param=param)
