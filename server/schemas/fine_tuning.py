"""`/v1/fine_tuning/jobs` in OpenAI's shape: what may be asked for, and the job, event and checkpoint objects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from emollama.errors import InputError
from server.errors import ApiError, invalid_value
from server.jobs.names import check_suffix
from server.records.jobs import CheckpointRecord, EventRecord, JobRecord

MAX_SEED = 2**31 - 1

_Auto = Literal["auto"]
_NO_NUL = r"^[^\x00]*$"  # which Postgres cannot hold
MetadataKey = Annotated[str, Field(min_length=1, max_length=64, pattern=_NO_NUL)]
MetadataValue = Annotated[str, Field(max_length=512, pattern=_NO_NUL)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HyperparametersIn(_In):
    """Each is chosen from the data when it is "auto"."""

    model_config = ConfigDict(title="HyperparametersRequest")

    n_epochs: _Auto | Annotated[int, Field(ge=1, le=50, strict=True)] = "auto"
    batch_size: _Auto | Annotated[int, Field(ge=1, le=256, strict=True)] = "auto"
    learning_rate_multiplier: _Auto | Annotated[float, Field(ge=1e-3, le=100)] = "auto"


class SupervisedIn(_In):
    hyperparameters: HyperparametersIn = HyperparametersIn()


class MethodIn(_In):
    """Only `supervised` is supported."""

    model_config = ConfigDict(title="MethodRequest", extra="allow")

    type: str = "supervised"
    supervised: SupervisedIn = SupervisedIn()


class JobIn(_In):
    """A fine-tuning job that is asked for."""

    model_config = ConfigDict(
        title="FineTuningJobRequest",
        json_schema_extra={
            "examples": [
                {
                    "model": "nano",
                    "training_file": "file-4k1xq0m3c8zt5n2b7v9d6w1y",
                    "suffix": "bored",
                    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
                }
            ]
        },
    )

    model: str = Field(min_length=1, max_length=200, description="The base model; a name of `/v1/models`.")
    training_file: str = Field(min_length=1, max_length=64, description="Id of an uploaded file.")
    validation_file: str | None = Field(
        None, max_length=64, description="Id of another one; without it, a part of the training file is held out."
    )
    suffix: str | None = Field(None, description="A word of yours in the new model's name.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Makes a run repeatable; drawn if left out.")
    method: MethodIn = MethodIn()
    hyperparameters: HyperparametersIn | None = Field(
        None, description="The old place of `method.supervised.hyperparameters`."
    )
    integrations: list[dict[str, Any]] | None = Field(None, description="Not supported; an entry is refused.")
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16)

    @field_validator("suffix")
    @classmethod
    def _check_suffix(cls, value: str | None) -> str | None:
        return check_suffix(value) if value else None

    @classmethod
    def from_json(cls, body: bytes) -> JobIn:
        """Read a request's body; an error names the field, also that of an option that is not supported."""
        try:
            request = cls.model_validate_json(body)
        except ValidationError as exc:
            raise _refusal(exc) from exc
        if request.method.type != "supervised":
            message = f"method.type is {request.method.type[:60]!r}; supported: supervised"
            raise ApiError("unsupported_option", message, param="method.type")
        for name in request.method.model_extra or {}:
            message = f"method.{name[:60]} is not supported; supported: method.supervised"
            raise ApiError("unsupported_option", message, param=f"method.{name[:60]}")
        for index, integration in enumerate(request.integrations or ()):
            kind = str(integration.get("type", ""))[:60]
            message = f"integrations[{index}] is {kind!r}; this service sends nothing elsewhere: leave it out"
            raise ApiError("unsupported_option", message, param=f"integrations.{index}.type")
        if request.hyperparameters is not None and request.method.supervised != SupervisedIn():
            message = "hyperparameters and method.supervised.hyperparameters exclude each other; use the latter"
            raise ApiError("invalid_value", message, param="hyperparameters")
        return request

    def chosen_hyperparameters(self) -> dict[str, Any]:
        return (self.hyperparameters or self.method.supervised.hyperparameters).model_dump()


def _refusal(exc: ValidationError) -> ApiError:
    problems = exc.errors(include_url=False, include_input=False)
    first: dict[str, Any] = {**problems[0]}
    # Of "auto" or a number, pydantic reports both alternatives; the path up to the field is what a client knows.
    first["loc"] = tuple(part for part in problems[0]["loc"] if not _is_alternative(part))
    if len(problems) > 1 and first["type"] == "literal_error":
        first["msg"] = f'{problems[1]["msg"]}, or "auto"'
    if first["type"] == "json_invalid":
        return ApiError("invalid_value", "the body is not JSON")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return ApiError("invalid_value", str(cause), param=cause.field)
    return invalid_value([first])


def _is_alternative(part: str | int) -> bool:
    return isinstance(part, str) and part.startswith(("literal[", "constrained-", "int", "float"))


def request_schemas() -> dict[str, Any]:
    """Return the schemas of a request's body for OpenAPI's components, the body's own under its title."""
    schema = JobIn.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), schema["title"]: schema}


REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/FineTuningJobRequest"}}},
}


class HyperparametersOut(BaseModel):
    model_config = ConfigDict(title="Hyperparameters")

    n_epochs: int | _Auto
    batch_size: int | _Auto
    learning_rate_multiplier: float | _Auto


class SupervisedOut(BaseModel):
    hyperparameters: HyperparametersOut


class MethodOut(BaseModel):
    model_config = ConfigDict(title="Method")

    type: Literal["supervised"] = "supervised"
    supervised: SupervisedOut


class JobErrorOut(BaseModel):
    """Why a job failed."""

    model_config = ConfigDict(title="FineTuningJobError")

    code: str
    message: str
    param: str | None = None
    problems: list[dict[str, Any]] | None = Field(None, description="With `invalid_training_file`: all that is wrong.")


class JobOut(BaseModel):
    """A fine-tuning job."""

    model_config = ConfigDict(title="FineTuningJob")

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    model: str
    training_file: str
    validation_file: str | None
    created_at: int
    finished_at: int | None
    estimated_finish: int | None = Field(description="Unix seconds; null unless the job runs and its speed is known.")
    error: JobErrorOut | None
    fine_tuned_model: str | None = Field(description="Name of the new model; null until the job has succeeded.")
    organization_id: str
    result_files: list[str] = Field(description="Ids of files: the curves as CSV, the adapter's card.")
    trained_tokens: int | None = Field(description="Tokens seen in training so far.")
    seed: int
    hyperparameters: HyperparametersOut
    method: MethodOut
    integrations: list[dict[str, Any]] = []
    metadata: dict[str, str]
    user_provided_suffix: str | None

    @classmethod
    def of(cls, job: JobRecord, *, org: str) -> JobOut:
        chosen = HyperparametersOut(**job.hyperparameters)
        return cls.model_validate(
            {
                "id": job.id,
                "status": job.status,
                "model": job.base,
                "training_file": job.training_file,
                "validation_file": job.validation_file,
                "created_at": int(job.created_at),
                "finished_at": None if job.finished_at is None else int(job.finished_at),
                "estimated_finish": None if job.estimated_finish is None else int(job.estimated_finish),
                "error": job.error,
                "fine_tuned_model": job.model_name if job.status == "succeeded" else None,
                "organization_id": org,
                "result_files": list(job.result_files),
                "trained_tokens": job.trained_tokens,
                "seed": job.seed,
                "hyperparameters": chosen,
                "method": MethodOut(supervised=SupervisedOut(hyperparameters=chosen)),
                "metadata": dict(job.metadata),
                "user_provided_suffix": job.suffix,
            }
        )


class EventOut(BaseModel):
    model_config = ConfigDict(title="FineTuningJobEvent")

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None

    @classmethod
    def of(cls, event: EventRecord) -> EventOut:
        values = {**vars(event), "created_at": int(event.created_at)}
        return cls.model_validate(values)


class CheckpointOut(BaseModel):
    """A state of the adapter that answers under a name of its own."""

    model_config = ConfigDict(title="FineTuningJobCheckpoint")

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float | None]

    @classmethod
    def of(cls, checkpoint: CheckpointRecord, *, job_id: str) -> CheckpointOut:
        return cls(
            id=checkpoint.id,
            created_at=int(checkpoint.created_at),
            fine_tuned_model_checkpoint=checkpoint.model_name,
            fine_tuning_job_id=job_id,
            step_number=checkpoint.step,
            metrics=dict(checkpoint.metrics),
        )


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobOut]
    has_more: bool
    first_id: str | None
    last_id: str | None


class EventList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EventOut]
    has_more: bool
    first_id: str | None
    last_id: str | None


class CheckpointList(BaseModel):
    object: Literal["list"] = "list"
    data: list[CheckpointOut]
    has_more: bool
    first_id: str | None
    last_id: str | None
