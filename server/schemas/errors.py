"""The error envelope, in the shape of OpenAI's API."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str = Field(description="For people; the wording may change.")
    type: str = Field(description="`invalid_request_error`, `rate_limit_error` or `server_error`.")
    param: str | None = Field(description="The form field or path parameter at fault, when there is one.")
    code: str = Field(description="For programs; stable, listed in docs/api.md.")


class ErrorOut(BaseModel):
    """Every error of the service."""

    model_config = ConfigDict(title="Error")

    error: ErrorBody
