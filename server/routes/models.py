"""`GET /v1/models` and `GET /v1/models/{model}` in OpenAI's shape."""

from __future__ import annotations

from fastapi import APIRouter

from server.deps import ModelsDep
from server.errors import responses
from server.schemas.models import ModelList, ModelOut

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="Models and adapters that requests may name", responses=responses())
async def list_models(models: ModelsDep) -> ModelList:
    """An adapter has the model it sits on as `parent`."""
    return ModelList(data=models.describe_all())


@router.get("/{model}", summary="One model or adapter", responses=responses("model_not_found"))
async def get_model(model: str, models: ModelsDep) -> ModelOut:
    return models.describe(model)
