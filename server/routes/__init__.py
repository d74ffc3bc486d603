"""The routes, one file each; `server.app` includes every router of `ROUTERS`."""

from collections.abc import Mapping
from types import MappingProxyType

from fastapi import APIRouter

from server.routes import (
    adapters,
    analyses,
    analyze,
    chat,
    files,
    fine_tuning,
    health,
    live,
    metrics,
    models,
    owners,
    page,
    report_summaries,
    report_videos,
    reports,
    trust,
)

ROUTERS: Mapping[str, APIRouter] = MappingProxyType(
    {
        "analyze": analyze.router,
        "analyses": analyses.router,
        "reports": reports.router,
        "report_videos": report_videos.router,
        "report_summaries": report_summaries.router,
        "live": live.router,
        "chat": chat.router,
        "models": models.router,
        "adapters": adapters.router,
        "files": files.router,
        "fine_tuning": fine_tuning.router,
        "owners": owners.router,
        "trust": trust.router,
        "health": health.router,
        "page": page.router,
        "metrics": metrics.router,
    }
)
