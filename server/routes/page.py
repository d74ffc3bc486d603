"""`GET /`: the page, from files that lie in `server/web`; nothing of it is built, and nothing comes from elsewhere.

The files hold no data, so they are given without a key; what the page asks the service for wants one like any request.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from server.deps import SettingsDep
from server.errors import ApiError

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent.parent / "web"
TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".json": "application/json",
        ".svg": "image/svg+xml",
    }
)
# The browser is to run, show and ask nothing but what comes from here; blob: and data: are what the page itself made.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# For so long are analyses kept that the page asks for, unless the service keeps none for so long.
_KEPT_SECONDS = 3600.0
_HEADERS = {
    "content-security-policy": POLICY,
    # Camera and microphone are this page's to ask the person for, and nothing else is.
    "permissions-policy": "camera=(self), microphone=(self), geolocation=(), payment=(), usb=()",
    "cache-control": "no-cache",
}


@functools.cache
def files() -> Mapping[str, Path]:
    """Return the page's files by their names below ``web/``; whatever is not among them does not exist."""
    found = (path for path in FOLDER.rglob("*") if path.is_file() and path.suffix in TYPES)
    return MappingProxyType({path.relative_to(FOLDER).as_posix(): path for path in found})


@router.api_route("/", methods=["GET", "HEAD"])
async def page() -> Response:
    return _file("index.html")


@router.api_route("/web/service.json", methods=["GET", "HEAD"])
async def service(settings: SettingsDep) -> Response:
    """What the page must know before anybody gave a key: how large a clip may be, and what there is here."""
    told = {
        "wants_key": settings.auth == "keys",
        "max_seconds": settings.max_seconds,
        "max_mebibytes": settings.max_upload_mb,
        "long_max_seconds": settings.analysis_max_seconds,
        "long_max_mebibytes": settings.analysis_max_mb,
        "kept_seconds": int(min(_KEPT_SECONDS, settings.analysis_retention_seconds)),
        "chat_seconds": settings.chat_cache_seconds,
        "loads_adapters": settings.adapter_root is not None,
    }
    return JSONResponse(told, headers=_HEADERS)


@router.api_route("/web/{name:path}", methods=["GET", "HEAD"])
async def asset(name: str) -> Response:
    return _file(name)


def _file(name: str) -> Response:
    path = files().get(name)
    if path is None:
        raise ApiError("not_found", f"no such file: {name[:60]!r}")
    return FileResponse(path, headers={**_HEADERS, "content-type": TYPES[path.suffix]})
