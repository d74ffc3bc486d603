"""`GET /docs`: Swagger UI on the service's own OpenAPI document, without a request to anywhere else.

The framework's page loads its script from a content delivery network; the same files come here from the package
fastapi-offline, of which nothing else is used.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, Response

from emollama.errors import DependencyError
from server.errors import ApiError

router = APIRouter(prefix="/docs", include_in_schema=False)

_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Addresses are relative to the page, so that they hold behind a proxy's path prefix.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>EmoLLaMA API</title>
<link rel="icon" href="docs/assets/favicon.png">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<noscript>This page needs JavaScript; the same document is at <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/assets/start.js"></script>
</body>
</html>
"""
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null});\n'


@functools.cache
def asset_folder() -> Path:
    """Return the folder of Swagger UI's files without importing the package that holds them."""
    found = importlib.util.find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise DependencyError("the API page needs the package fastapi-offline: pip install fastapi-offline")
    return Path(found.origin).parent / "static"


@router.get("")
async def page() -> HTMLResponse:
    return HTMLResponse(_PAGE, headers={"content-security-policy": _POLICY})


@router.get("/assets/{name}")
async def asset(name: str) -> Response:
    if name == "start.js":
        return Response(_START, media_type="text/javascript")
    if name not in _ASSETS:
        raise ApiError("not_found", f"no such file: {name[:60]!r}")
    headers = {"cache-control": "public, max-age=86400"}
    return FileResponse(asset_folder() / name, media_type=_ASSETS[name], headers=headers)
