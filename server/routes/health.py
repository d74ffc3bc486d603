"""`GET /health`: the process is alive. `GET /ready`: the model answers."""

from __future__ import annotations

from fastapi import APIRouter, Response

from emollama import __version__
from server.deps import ModelsDep
from server.errors import responses
from server.schemas.models import HealthOut, ReadyOut

router = APIRouter(tags=["operation"])


@router.get("/health", summary="Is the process alive?")
async def health() -> HealthOut:
    """Answers at once, also while the model is being loaded."""
    return HealthOut(version=__version__)


@router.get("/ready", summary="Does the model answer?", responses=responses("not_ready", "model_load_failed"))
async def ready(models: ModelsDep) -> ReadyOut:
    """503 until the default model has been loaded."""
    models.require_ready()
    return ReadyOut(models=list(models.names))


@router.head("/health", include_in_schema=False)
async def health_head() -> Response:
    return Response()


@router.head("/ready", include_in_schema=False)
async def ready_head(models: ModelsDep) -> Response:
    models.require_ready()
    return Response()
