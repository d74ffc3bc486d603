"""Reports of finished analyses: the page, the document, the table and the subtitles that `emollama report` writes."""

from __future__ import annotations

import json
from typing import Literal
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from emollama.reports import format_named
from server.deps import PrincipalDep, StoreDep
from server.errors import ApiError, responses
from server.routes.analyses import find_analysis
from server.trust.auditing import handed_out

router = APIRouter(prefix="/v1/analyses", tags=["analysis"])

# The page runs nothing and loads nothing: what a caller named cannot become a script where somebody opens it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


@router.get(
    "/{analysis_id}/report",
    summary="An analysis as a page, a document, a table or subtitles",
    response_class=Response,
    responses={
        200: {"content": {"text/html": {}, "application/pdf": {}, "text/csv": {}, "text/vtt": {}}},
        **responses("analysis_not_found", "analysis_unfinished"),
    },
)
def get_report(
    request: Request,
    analysis_id: str,
    store: StoreDep,
    principal: PrincipalDep,
    format: Literal["html", "pdf", "csv", "srt", "vtt"] = "html",
) -> Response:
    record = find_analysis(store, analysis_id, principal)
    if record.result is None:
        raise ApiError(
            "analysis_unfinished", f"analysis {record.id} has no result: it is {record.status}", param="analysis_id"
        )
    handed_out(request, record.id)
    chosen = format_named(format)
    return Response(
        chosen.write(json.loads(record.result)),
        media_type=chosen.media_type,
        headers={
            "content-disposition": f"inline; filename*=UTF-8''{quote(record.id)}.{format}",
            "content-security-policy": POLICY,
        },
    )
