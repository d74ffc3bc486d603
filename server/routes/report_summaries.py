"""`GET /v1/reports/summary`: many kept analyses as one page, document or table."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from emollama.reports import SUMMARY_FORMATS, write_summary
from server.deadline import Deadline
from server.deps import PrincipalDep, ReportDeskDep, SettingsDep, StoreDep
from server.errors import responses
from server.reports.selection import MAX_IDS, Chosen, Selection, choose, results
from server.routes.analyze import until_gone
from server.routes.reports import POLICY
from server.store import Store
from server.trust.auditing import handed_out

router = APIRouter(prefix="/v1/reports", tags=["analysis"])

_METADATA = re.compile(r"metadata\[(.{1,64})\]")


@router.get(
    "/summary",
    summary="Many analyses as a page, a document or a table",
    response_class=Response,
    responses={
        200: {"content": {"text/html": {}, "application/pdf": {}, "text/csv": {}}},
        **responses(
            "invalid_value", "purpose_required", "prohibited_purpose", "purpose_not_declared", "analysis_not_found",
            "analysis_unfinished", "busy", "internal_error", "not_ready", "deadline_exceeded",
        ),
    },
)  # fmt: skip
async def get_summary(
    request: Request,
    desk: ReportDeskDep,
    store: StoreDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    format: Literal["html", "pdf", "csv"] = "html",
    title: Annotated[str, Query(min_length=1, max_length=120, description="What stands at its head.")] = "Summary",
    analysis_id: Annotated[
        tuple[str, ...], Query(max_length=MAX_IDS, description="The analyses; without it, all that fit the rest.")
    ] = (),
    created_after: Annotated[float | None, Query(ge=0, le=1e11, description="Unix seconds.")] = None,
    created_before: Annotated[float | None, Query(ge=0, le=1e11, description="Unix seconds.")] = None,
) -> Response:
    """`metadata[key]=value` keeps the analyses that have it."""
    wanted = {match[1]: value for name, value in request.query_params.items() if (match := _METADATA.fullmatch(name))}
    selection = Selection(
        ids=tuple(dict.fromkeys(analysis_id)), metadata=wanted, created_after=created_after,
        created_before=created_before,
    )  # fmt: skip
    chosen = await asyncio.to_thread(choose, store, selection, now=time.time(), owner=principal.sees)
    # Only now: what was asked for by name may have been any text.
    handed_out(request, selection.ids[0] if len(selection.ids) == 1 else None)
    outcome = await desk.gate.run(
        lambda stop: _written(store, chosen, title, format),
        gone=functools.partial(until_gone, request),
        deadline=Deadline(settings.report_seconds),
    )
    return Response(
        outcome.value,
        media_type=SUMMARY_FORMATS[format].media_type,
        headers={
            "content-disposition": f"inline; filename=summary.{format}",
            "content-security-policy": POLICY,
        },
    )


def _written(store: Store, chosen: Chosen, title: str, format: str) -> bytes:
    from emollama.reports.summary import summary_of

    return write_summary(summary_of(results(store, chosen.succeeded), chosen.failures, title=title), format)
