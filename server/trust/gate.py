"""The second door of every route, behind that of keys: what is this request for, and may it be?

Plain ASGI, for HTTP and WebSockets alike. `/health`, the page's files and the API's pages read nobody and have no
purpose; everything else is refused for a prohibited one. A request that only looks after the service, shows a notice or
deletes need not say what it is for, also where others must.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from server.auth import Principal, is_open
from server.errors import ApiError, note
from server.settings import Settings
from server.trust.declared import CONSENT_FIELD, asked_consent, asked_purpose, resolve
from server.trust.purposes import HEADER

NOTICE_PATH = "/v1/notice"
_WITHOUT = ("/docs", "/openapi.json")  # no purpose is looked at
_NEED_NOT_SAY = ("/ready", "/metrics", NOTICE_PATH, "/v1/purposes", "/v1/audit", "/v1/owners")


def has_no_purpose(path: str) -> bool:
    """Whether a path is answered whatever purpose was declared: it reads nobody, and tells nothing of anybody."""
    return (is_open(path) and path != NOTICE_PATH) or _is_below(path, _WITHOUT)


def must_say(settings: Settings, method: str, path: str) -> bool:
    """Whether a request has to have a purpose."""
    is_asked = settings.require_purpose or len(settings.purpose) > 1
    return is_asked and method not in ("DELETE", "OPTIONS") and not _is_below(path, _NEED_NOT_SAY)


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == each or path.startswith(each + "/") for each in folders)


def declare(connection: HTTPConnection, principal: Principal | None) -> None:
    """Put the purpose and the consent of a request into its state, or raise `ApiError`.

    ``principal`` None: who asks is told later, and then this is to be called again.
    """
    settings: Settings = connection.scope["app"].state.settings
    state = connection.scope.setdefault("state", {})
    scope = connection.scope
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    state.setdefault("purpose", None)
    state.setdefault(CONSENT_FIELD, None)
    if has_no_purpose(path):
        return
    key = None if principal is None else principal.purpose
    purpose = resolve(server=settings.purpose, key=key, asked=asked_purpose(connection))
    if purpose is None and principal is not None and must_say(settings, scope.get("method", "GET"), path):
        among = f": one of {', '.join(settings.purpose)}" if settings.purpose else ""
        raise ApiError("purpose_required", f"say what the request is for by {HEADER}{among}", param=HEADER)
    state["purpose"] = purpose
    state.setdefault("log", {})["purpose"] = purpose
    state[CONSENT_FIELD] = asked_consent(connection)


class PurposeMiddleware:
    """Lets a request through with ``state.purpose`` set, or answers it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        try:
            declare(connection, scope["state"].get("principal"))
        except ApiError as error:
            await note(connection, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)
