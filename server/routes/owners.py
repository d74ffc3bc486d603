"""`/v1/owners/{owner}`: what is kept of an owner, and erasing all of it."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request

from server import erasure
from server.auth import Principal
from server.deps import DataDep, MemoryDep, PrincipalDep, StoreDep
from server.errors import ApiError, responses
from server.schemas.owners import ErasureOut, HoldingsOut, OwnerOut
from server.trust.auditing import about

router = APIRouter(prefix="/v1/owners", tags=["owners"])


@router.get("/{owner}", summary="How much is kept of an owner", responses=responses("owner_not_found"))
def get_owner(owner: str, store: StoreDep, principal: PrincipalDep) -> OwnerOut:
    """A key sees its own owner, the operator's key any."""
    _require_own(owner, principal)
    return OwnerOut(owner=owner, holdings=HoldingsOut(**erasure.count(store, owner)))


@router.delete(
    "/{owner}",
    summary="Erase everything of an owner",
    responses=responses("owner_not_found", "erasure_incomplete", "internal_error", "storage_full"),
)
async def erase_owner(
    request: Request,
    owner: str,
    store: StoreDep,
    data: DataDep,
    memory: MemoryDep,
    principal: PrincipalDep,
    keys: Annotated[bool, Query(description="Also the owner's API keys, the one of this request included.")] = False,
) -> ErasureOut:
    """Analyses, files, jobs, adapters, webhooks, idempotency keys and clips held for chat: rows, files and what the
    database keeps of deleted rows. What runs is stopped first. It cannot be undone."""
    _require_own(owner, principal)
    done = await asyncio.to_thread(erasure.erase, store, data, owner, with_keys=keys, memory=memory)
    about(request, subject=done.id)
    return ErasureOut.of(done)


def _require_own(owner: str, principal: Principal) -> None:
    if principal.sees not in (None, owner):
        raise ApiError("owner_not_found", f"no owner {owner[:64]!r}", param="owner")
