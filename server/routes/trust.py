"""`GET /v1/notice`, `/v1/purposes`, `/v1/audit`: what people are told, what is allowed, and what was done."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from server.deps import PrincipalDep, SettingsDep, StoreDep
from server.errors import ApiError, responses
from server.records import audit
from server.schemas.trust import AuditList, AuditOut, NoticeOut, PurposeList, PurposeOut
from server.trust.auditing import handed_out
from server.trust.declared import CONSENT_HEADER, resolve
from server.trust.gate import must_say
from server.trust.notice import make_notice
from server.trust.purposes import HEADER, PURPOSES

router = APIRouter(prefix="/v1", tags=["trust"])


@router.get("/notice", summary="What people must be told", responses=responses("invalid_value", "prohibited_purpose"))
def get_notice(
    settings: SettingsDep,
    language: Annotated[Literal["en", "de"], Query(description="Of the text.")] = "en",
    purpose: Annotated[
        str | None, Query(max_length=64, description="One of several, or where the service declares none.")
    ] = None,
) -> NoticeOut:
    """The notice for people whose expressions are read, as the service is set up. It needs no key."""
    return NoticeOut.of(make_notice(settings, language=language, purpose=purpose))


@router.get("/purposes", summary="What emotions may be read for", responses=responses("prohibited_purpose"))
def list_purposes(settings: SettingsDep, principal: PrincipalDep) -> PurposeList:
    """All purposes that there are, the prohibited ones with their ground."""
    key = principal.purpose
    declared = resolve(server=settings.purpose, key=key, asked=None)
    return PurposeList(
        data=[
            PurposeOut(
                id=name, meaning=purpose.meaning, allowed=purpose.ground is None, ground=purpose.ground,
                operators=purpose.is_exception, usable=_is_usable(name, settings.purpose, key),
            )
            for name, purpose in PURPOSES.items()
        ],
        declared=declared,
        purpose_required=declared is None and must_say(settings, "POST", "/analyze"),
        consent_required=settings.require_consent,
        header=HEADER,
        consent_header=CONSENT_HEADER,
    )  # fmt: skip


def _is_usable(name: str, server: tuple[str, ...], key: str | None) -> bool:
    try:
        resolve(server=server, key=key, asked=name)
    except ApiError:
        return False
    return True


@router.get("/audit", summary="What was done, newest first", responses=responses("invalid_value"))
def list_audit(
    request: Request,
    store: StoreDep,
    after: Annotated[str | None, Query(max_length=64, description="Go on after this event.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    owner: Annotated[str | None, Query(max_length=64)] = None,
    key_id: Annotated[str | None, Query(max_length=64)] = None,
    action: Annotated[str | None, Query(max_length=128, description="Such as `POST /analyze`.")] = None,
    purpose: Annotated[str | None, Query(max_length=64)] = None,
    subject: Annotated[str | None, Query(max_length=64, description="Id of an analysis, a job, a file.")] = None,
    since: Annotated[float | None, Query(description="Unix seconds, included.")] = None,
    until: Annotated[float | None, Query(description="Unix seconds, not included.")] = None,
) -> AuditList:
    """The operator's. It holds nothing of any clip, and cannot be changed."""
    page = audit.page(
        store, after=after, limit=limit, owner=owner, key_id=key_id, action=action, purpose=purpose,
        subject_id=subject, since=since, until=until,
    )  # fmt: skip
    handed_out(request, None)
    ids = [record.id for record in page.items]
    return AuditList(
        data=[AuditOut.of(record) for record in page.items],
        has_more=page.has_more,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
    )
