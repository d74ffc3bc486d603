"""`/v1/load_lora_adapter` and `/v1/unload_lora_adapter` in vLLM's shapes."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.errors import ApiError, invalid_value

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$"
T = TypeVar("T", bound=BaseModel)


class LoadAdapterIn(BaseModel):
    """An adapter that is to answer under a name."""

    model_config = ConfigDict(title="LoadAdapterRequest", extra="forbid", frozen=True)

    lora_name: str = Field(pattern=_NAME, description="The name that requests will use in `model`.")
    lora_path: str = Field(
        min_length=1, max_length=1000, description="The adapter's folder, under the service's adapter root."
    )
    base_model_name: str | None = Field(
        None, max_length=200, description="The model it sits on. Default: the service's model."
    )


class UnloadAdapterIn(BaseModel):
    """An adapter that is to be dropped."""

    model_config = ConfigDict(title="UnloadAdapterRequest", extra="forbid", frozen=True)

    lora_name: str = Field(pattern=_NAME)


def read(kind: type[T], body: bytes) -> T:
    """Read a request's body; an error names the field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        problems = exc.errors(include_url=False, include_context=False, include_input=False)
        if problems[0]["type"] == "json_invalid":
            raise ApiError("invalid_value", "the body is not JSON") from exc
        raise invalid_value(problems) from exc


def request_body(kind: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAPI's description of a body."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
