"""`/v1/notice`, `/v1/purposes`, `/v1/audit`: what people are told, what is allowed, and what was done."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from server.records.audit import AuditRecord
from server.trust.notice import Notice


class NoticeSectionOut(BaseModel):
    """A paragraph; its `name` is the same in every language."""

    model_config = ConfigDict(title="NoticeSection")

    name: Literal["what", "how", "never", "purpose", "who", "retention", "rights"]
    heading: str
    text: str


class NoticeOut(BaseModel):
    """What people whose expressions are read must be told."""

    model_config = ConfigDict(title="Notice")

    object: Literal["notice"] = "notice"
    language: Literal["en", "de"]
    title: str
    sections: list[NoticeSectionOut]
    text: str = Field(description="The whole of it, to be printed.")
    purposes: list[str] = Field(description="Those that it names, as in `/v1/purposes`.")
    missing: list[Literal["controller", "contact", "purpose"]] = Field(
        description="What the service's settings do not say; it stands in brackets in the text."
    )

    @classmethod
    def of(cls, notice: Notice) -> NoticeOut:
        sections = [vars(section) for section in notice.sections]
        return cls.model_validate(
            {
                "language": notice.language, "title": notice.title, "sections": sections, "text": notice.text,
                "purposes": list(notice.purposes), "missing": list(notice.missing),
            }
        )  # fmt: skip


class PurposeOut(BaseModel):
    model_config = ConfigDict(title="Purpose")

    id: str
    object: Literal["purpose"] = "purpose"
    meaning: str
    allowed: bool = Field(description="Whether anybody may declare it.")
    ground: str | None = Field(description="What prohibits it.")
    operators: bool = Field(
        description="An exception of article 5(1)(f): only a key or the service may declare it, with a reason."
    )
    usable: bool = Field(description="Whether this request's key could be used for it here.")


class PurposeList(BaseModel):
    """The purposes, and what a request of this key has to say."""

    model_config = ConfigDict(title="PurposeList")

    object: Literal["list"] = "list"
    data: list[PurposeOut]
    declared: str | None = Field(description="What a request is for that says nothing; null: nothing was declared.")
    purpose_required: bool = Field(description="Whether a request that says nothing is refused.")
    consent_required: bool = Field(description="Whether a clip must come with a `consent_reference`.")
    header: str = Field(description="The header by which a request says what it is for.")
    consent_header: str = Field(description="The header by which it may name a consent.")


class AuditOut(BaseModel):
    """One thing that was done. It holds nothing of a clip."""

    model_config = ConfigDict(title="AuditEvent")

    id: str
    object: Literal["audit.event"] = "audit.event"
    number: int = Field(description="Its place in the log, from 1.")
    at: float = Field(description="Unix seconds.")
    action: str = Field(
        description="A method and a route; `WS /v1/live`; or what was done without a request: `analysis.succeeded`, "
        "`analysis.failed`, `analysis.cancelled`, `analysis.expired`, `keys.create`, `keys.revoke`, `keys.erase`."
    )
    owner: str | None = Field(description="Whose it was; null when nobody was let in.")
    key_id: str | None = Field(description="The key; `admin`: the operator's; null without keys.")
    status: int | None = Field(description="HTTP's; of a WebSocket the code with which it was closed.")
    code: str | None = Field(description="The error's.")
    model: str | None
    purpose: str | None
    consent_reference: str | None
    subject: str | None = Field(description="The analysis, job, file, session or erasure.")
    hash: str = Field(description="SHA-256 over the row and the hash of the one before it.")

    @classmethod
    def of(cls, record: AuditRecord) -> AuditOut:
        values = {name: getattr(record, name) for name in cls.model_fields if hasattr(record, name)}
        return cls(**values, number=record.seq, subject=record.subject_id)


class AuditList(BaseModel):
    model_config = ConfigDict(title="AuditList")

    object: Literal["list"] = "list"
    data: list[AuditOut]
    has_more: bool
    first_id: str | None
    last_id: str | None
