"""Which kept analyses a summary is of, and their lines one after the other, so that many fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from emollama.reports.summary import Failure
from server.errors import ApiError
from server.store import Store
from server.store import analyses as table

MAX_IDS = 200  # what a query's length has room for
MAX_CLIPS = 500


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Ids, or what must be true of an analysis: metadata that it has, and when it was asked for (Unix seconds)."""

    ids: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: float | None = None
    created_before: float | None = None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What was selected, in the order of asking: ids of those with a result, and those that failed."""

    succeeded: tuple[str, ...]
    failures: tuple[Failure, ...]


def choose(store: Store, selection: Selection, *, now: float, owner: str | None) -> Chosen:
    """Return what a summary is of; blocks.

    Raises `ApiError` when a named analysis is not there or not done, and when there are none, or too many.
    """
    rows: list[Any] = []
    statuses: dict[str, str] = {}  # of the ids that are asked for
    num_fitting = 0
    for row in _rows(store, selection, now=now, owner=owner):
        if selection.ids:
            statuses[row.id] = row.status
        if selection.metadata.items() <= (row.metadata or {}).items():
            num_fitting += 1
            if num_fitting <= MAX_CLIPS:  # what is refused is counted, not held
                rows.append(row)
    _require_all(selection.ids, statuses)
    if not rows:
        raise ApiError("analysis_not_found", "no analysis with a result fits", param="analysis_id")
    if num_fitting > MAX_CLIPS:
        message = f"{num_fitting} analyses fit; allowed: {MAX_CLIPS}. Choose by metadata, created_after, created_before"
        raise ApiError("invalid_value", message, param="created_after")
    return Chosen(
        succeeded=tuple(row.id for row in rows if row.status == "succeeded"),
        failures=tuple(_failure(row) for row in rows if row.status == "failed"),
    )


def results(store: Store, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the results of analyses, each under the id by which the service knows it; one that is gone is left out."""
    for analysis_id in ids:
        with store.read() as connection:
            found = connection.execute(select(table.c.result).where(table.c.id == analysis_id)).scalar()
        if found is not None:
            yield {**json.loads(found), "id": analysis_id}


def _rows(store: Store, selection: Selection, *, now: float, owner: str | None) -> Iterator[Any]:
    query = select(table.c.id, table.c.status, table.c.filename, table.c.metadata, table.c.error)
    query = query.where(table.c.expires_at.is_(None) | (table.c.expires_at > now)).order_by(table.c.seq)
    if owner is not None:
        query = query.where(table.c.owner == owner)
    if selection.ids:
        query = query.where(table.c.id.in_(selection.ids))
    else:
        query = query.where(table.c.status.in_(("succeeded", "failed")))
    if selection.created_after is not None:
        query = query.where(table.c.created_at >= selection.created_after)
    if selection.created_before is not None:
        query = query.where(table.c.created_at < selection.created_before)
    with store.read() as connection:
        yield from connection.execution_options(yield_per=MAX_CLIPS).execute(query)


def _require_all(ids: Sequence[str], known: Mapping[str, str]) -> None:
    for analysis_id in ids:
        status = known.get(analysis_id)
        if status is None:
            raise ApiError("analysis_not_found", f"no analysis {analysis_id[:64]!r}", param="analysis_id")
        if status not in ("succeeded", "failed"):
            message = f"analysis {analysis_id} has no result: it is {status}"
            raise ApiError("analysis_unfinished", message, param="analysis_id")


def _failure(row: Any) -> Failure:
    error = row.error or {}
    return Failure(
        id=row.id, clip=row.filename, error=str(error.get("code", "failed")), message=str(error.get("message", ""))
    )
