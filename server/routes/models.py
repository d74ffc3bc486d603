"""`/v1/models` in OpenAI's shape: the models and adapters that requests may name, and the end of one."""

from __future__ import annotations

from fastapi import APIRouter

from server.deps import DataDep, ModelsDep, PrincipalDep, StoreDep
from server.errors import ApiError, responses
from server.records import adapters, jobs
from server.schemas.models import ModelDeletedOut, ModelList, ModelOut

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="Models and adapters that requests may name", responses=responses())
def list_models(models: ModelsDep, principal: PrincipalDep) -> ModelList:
    """An adapter has the model it sits on as `parent`."""
    return ModelList(data=models.describe_all(owner=principal.sees))


@router.get("/{model}", summary="One model or adapter", responses=responses("model_not_found"))
def get_model(model: str, models: ModelsDep, principal: PrincipalDep) -> ModelOut:
    return models.describe(model, owner=principal.sees)


@router.delete(
    "/{model}", summary="Delete a fine-tuned model", responses=responses("model_not_found", "model_not_deletable")
)
def delete_model(
    model: str, models: ModelsDep, store: StoreDep, data: DataDep, principal: PrincipalDep
) -> ModelDeletedOut:
    """Its files are removed; with a finished model go the checkpoints of its job and the job's log and metrics."""
    if models.is_part_of_service(model):
        message = f"model {model[:100]!r} is part of the service and cannot be deleted"
        raise ApiError("model_not_deletable", message, param="model")
    models.describe(model, owner=principal.sees)  # raises for one that is not there, or not for this owner
    gone = adapters.remove(store, model)
    for record in gone:
        models.forget(record.name)
        data.remove_tree(data.absolute(record.folder))
    job = jobs.find(store, gone[0].job_id) if gone else None
    if job is not None and job.has_ended and not adapters.has_any(store, job.id):
        data.remove_tree(data.job(job.id))  # log and metrics, which may speak of somebody's clips
    return ModelDeletedOut(id=model)
