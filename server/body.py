"""A request's JSON body, read under a limit: the framework's own reader takes a body of any length."""

from __future__ import annotations

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from server.errors import ApiError

MAX_BODY_BYTES = 256 * 1024


async def read_json_body(request: Request, *, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the body, or raise `ApiError` for one that is too long or of another type."""
    content_type, _ = parse_options_header(request.headers.get("content-type"))
    kind = content_type.decode("latin-1")
    if kind != "application/json":
        raise ApiError("unsupported_content_type", f"the body is {kind[:60]!r}; allowed: application/json")
    declared = request.headers.get("content-length", "")
    body = bytearray()
    too_large = ApiError("body_too_large", f"the body is larger than {_size(max_bytes)}")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise too_large
    except ClientDisconnect as exc:
        raise ApiError("client_closed_request") from exc
    return bytes(body)


def _size(num_bytes: int) -> str:
    return f"{num_bytes // 1024} KiB" if num_bytes < 1024 * 1024 else f"{num_bytes // (1024 * 1024)} MiB"
