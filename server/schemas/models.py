"""`/v1/models` in OpenAI's shape, with vLLM's ``root`` and ``parent`` for adapters; `/health` and `/ready`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ModelOut(BaseModel):
    """A model or a LoRA adapter that requests may name in ``model``."""

    model_config = ConfigDict(title="Model")

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds when this process took it up.")
    owned_by: str = "emollama"
    root: str = Field(description="The model itself, or the name of the adapter's folder.")
    parent: str | None = Field(description="The model that an adapter sits on; null for a model.")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelOut]


class ModelDeletedOut(BaseModel):
    """A fine-tuned model that is gone, with its files."""

    model_config = ConfigDict(title="ModelDeleted")

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class HealthOut(BaseModel):
    """The process is alive; says nothing about the model."""

    model_config = ConfigDict(title="Health")

    status: Literal["ok"] = "ok"
    version: str


class ReadyOut(BaseModel):
    """The service takes requests."""

    model_config = ConfigDict(title="Ready")

    status: Literal["ready"] = "ready"
    models: list[str]
