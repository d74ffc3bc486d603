"""The error envelope, in the shape of OpenAI's API."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ProblemOut(BaseModel):
    """One thing that is wrong with a file for fine-tuning."""

    model_config = ConfigDict(title="Problem")

    file: str = Field(description="The file in the bundle.")
    line: int | None = Field(description="Line of that file, counted from 1, when one line is at fault.")
    field: str | None = Field(description="The field of that line.")
    code: str = Field(description="For programs; listed in docs/data.md.")
    severity: Literal["error", "warning"] = Field(description="A warning alone does not refuse a file.")
    message: str
    value: str | None = Field(description="What stands there.")
    allowed: str | None = Field(description="What may stand there.")
    remedy: str = Field(description="What to do about it.")


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str = Field(description="For people; the wording may change.")
    type: str = Field(description="`invalid_request_error`, `rate_limit_error` or `server_error`.")
    param: str | None = Field(description="The form field or path parameter at fault, when there is one.")
    code: str = Field(description="For programs; stable, listed in docs/api.md.")
    problems: list[ProblemOut] = Field(
        [], description="Only with `invalid_training_file` and `invalid_validation_file`: all that is wrong."
    )


class ErrorOut(BaseModel):
    """Every error of the service."""

    model_config = ConfigDict(title="Error")

    error: ErrorBody
