"""`/v1/owners/{owner}`: how much is kept of an owner, and the proof that it was erased."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from server.erasure import Erasure


class HoldingsOut(BaseModel):
    """How many of each there are."""

    model_config = ConfigDict(title="Holdings")

    analyses: int
    files: int
    jobs: int
    adapters: int
    webhook_deliveries: int
    idempotency_keys: int
    api_keys: int


class OwnerOut(BaseModel):
    """What is kept of an owner."""

    model_config = ConfigDict(title="Owner")

    owner: str
    object: Literal["owner"] = "owner"
    holdings: HoldingsOut


class ErasedOut(HoldingsOut):
    model_config = ConfigDict(title="Erased")

    chat_clips: int = Field(description="Clips held in this process's memory for further questions.")


class ErasureOut(BaseModel):
    """What was erased, and when."""

    model_config = ConfigDict(title="Erasure")

    id: str
    object: Literal["erasure"] = "erasure"
    owner: str
    erased_at: int = Field(description="Unix seconds.")
    erased: ErasedOut
    bytes: int = Field(description="Size of the files that were removed.")
    database_rewritten: bool = Field(
        description="Whether the database's file was written anew without what was deleted; false on Postgres, where "
        "that is the operator's to do, and when somebody was reading: ask again."
    )

    @classmethod
    def of(cls, erasure: Erasure) -> ErasureOut:
        return cls(
            id=erasure.id,
            owner=erasure.owner,
            erased_at=int(erasure.erased_at),
            erased=ErasedOut(**erasure.counts),
            bytes=erasure.num_bytes,
            database_rewritten=erasure.is_scrubbed,
        )
