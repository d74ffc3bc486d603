"""What a request is for, out of what was declared by the service, by the key, and by the request itself.

The service may declare several purposes, a key one, a request one. Each may only choose among what stands above it:
a key one of the service's, a request the key's, or without one one of the service's. Where nothing stands above it, a
request may name any purpose that is allowed but the exceptions of article 5(1)(f), which are the operator's to declare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.requests import HTTPConnection

from server.errors import ApiError
from server.trust.purposes import ALLOWED, HEADER, PURPOSES, as_name

CONSENT_HEADER = "EmoLLaMA-Consent"
CONSENT_FIELD = "consent_reference"
MAX_CONSENT_CHARS = 100
_CONSENT = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/#-]{{0,{MAX_CONSENT_CHARS - 1}}}", re.ASCII)
CONSENT_PATTERN = f"^{_CONSENT.pattern}$"


def resolve(*, server: Sequence[str], key: str | None, asked: str | None) -> str | None:
    """Return the purpose of a request, None where none was declared.

    Raises `ApiError`: ``prohibited_purpose``, ``purpose_not_declared``, or ``invalid_value`` for a word that is none.
    """
    if key is not None:
        _require_allowed(key, of="this key")
    name = None if asked is None else _asked(asked)
    if key is not None and server and key not in server:
        raise _not_declared(f"this key is for {key!r}", server)
    above = (key,) if key is not None else tuple(server)
    if name is None:
        return above[0] if len(above) == 1 else None
    if above and name not in above:
        raise _not_declared(f"{HEADER} is {name!r}", above)
    if not above and PURPOSES[name].is_exception:
        message = f"{HEADER} is {name!r}, which a key or the service must declare, with its reason"
        raise ApiError("purpose_not_declared", message, param=HEADER)
    return name


def _asked(text: str) -> str:
    name = as_name(text)
    if name not in PURPOSES:
        raise ApiError("invalid_value", f"{HEADER} is {text[:60]!r}; allowed: {', '.join(ALLOWED)}", param=HEADER)
    _require_allowed(name, of="the request", param=HEADER)
    return name


def _require_allowed(name: str, *, of: str, param: str | None = None) -> None:
    purpose = PURPOSES.get(name)
    if purpose is None:
        message = f"{of} has the purpose {name[:60]!r}, which is none that is allowed: {', '.join(ALLOWED)}"
        raise ApiError("prohibited_purpose", message, param=param)
    if purpose.ground is not None:
        message = f"{of} has the purpose {name!r}, which is prohibited by {purpose.ground}"
        raise ApiError("prohibited_purpose", message, param=param)


def _not_declared(what: str, above: Sequence[str]) -> ApiError:
    return ApiError("purpose_not_declared", f"{what}; declared: {', '.join(above)}", param=HEADER)


def asked_purpose(connection: HTTPConnection) -> str | None:
    """Return what a request itself declares; a WebSocket, with which browsers send no headers, by ``?purpose=``."""
    return _sent_once(connection, HEADER, "purpose")


def asked_consent(connection: HTTPConnection) -> str | None:
    """Return the consent that a request refers to by a header (a WebSocket: ``?consent_reference=``), checked."""
    value = _sent_once(connection, CONSENT_HEADER, CONSENT_FIELD)
    if value is None:
        return None
    try:
        return check_consent(value)
    except ValueError as exc:
        raise ApiError("invalid_value", f"{CONSENT_HEADER}: {exc}", param=CONSENT_HEADER) from exc


def _sent_once(connection: HTTPConnection, header: str, field: str) -> str | None:
    values = connection.headers.getlist(header)
    if connection.scope["type"] == "websocket":
        values = values + connection.query_params.getlist(field)
    if len(values) > 1:
        raise ApiError("invalid_value", f"{header} was sent {len(values)} times; allowed: once", param=header)
    return values[0].strip() or None if values else None


def check_consent(value: str) -> str:
    """Return a reference as it is kept; raises `ValueError` for what could hold more than a reference."""
    if not _CONSENT.fullmatch(value):
        raise ValueError(
            f"{value[:60]!r} is no reference; allowed: 1 to {MAX_CONSENT_CHARS} letters, digits and . _ : / # -, "
            "a letter or digit first"
        )
    return value


def consent_of(connection: HTTPConnection, field: str | None, *, is_required: bool) -> str | None:
    """Return the consent that a request refers to, by its form or by the header, and note it for the audit log.

    Raises `ApiError`: ``consent_required`` where there must be one, ``invalid_value`` where there are two.
    """
    header: str | None = connection.scope["state"].get(CONSENT_FIELD)
    if None not in (field, header) and field != header:
        raise ApiError("invalid_value", f"{CONSENT_FIELD} and {CONSENT_HEADER} differ", param=CONSENT_FIELD)
    found = header if field is None else field
    if found is None and is_required:
        message = f"this service reads only clips with a {CONSENT_FIELD}: a form field, or the header {CONSENT_HEADER}"
        raise ApiError("consent_required", message, param=CONSENT_FIELD)
    connection.scope["state"][CONSENT_FIELD] = found
    return found
