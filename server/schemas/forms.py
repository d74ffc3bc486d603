"""What the forms with a clip have in common: the text fields beside the file, read strictly, and its consent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from server.errors import ApiError, invalid_value
from server.trust.declared import check_consent


class ClipForm(BaseModel):
    """Text fields of a form; an empty field counts as not sent, as browsers send it."""

    model_config = ConfigDict(frozen=True)

    @field_validator("consent_reference", check_fields=False)
    @classmethod
    def _check_consent(cls, value: str) -> str:
        return check_consent(value)

    @classmethod
    def from_fields(cls, fields: Mapping[str, str]) -> Self:
        """Read the form's text fields; an error names the field."""
        for name in fields:
            if name not in cls.model_fields:
                allowed = ", ".join(("file", *cls.model_fields))
                raise ApiError("unknown_field", f"unknown field {name[:60]!r}; allowed: {allowed}", param=name[:60])
        try:
            return cls.model_validate({name: value.strip() for name, value in fields.items() if value.strip()})
        except ValidationError as exc:
            raise invalid_value(exc.errors(include_url=False, include_context=False, include_input=False)) from exc
