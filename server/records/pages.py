"""Cursor pages: a list is read in order of creation, and goes on after an identifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Select, Table, select

from emollama.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """A stretch of a list, and whether there is more of it."""

    items: tuple[T, ...]
    has_more: bool


def read_page(
    connection: Connection, query: Select[Any], table: Table, *, after: str | None, limit: int, newest_first: bool
) -> tuple[Sequence[Any], bool]:
    """Return at most ``limit`` rows of a query that follow the row ``after``, and whether there are more.

    The row that ``after`` names must be one of the query's own, or `InputError` says so.
    """
    seq = table.c.seq
    if after is not None:
        anchor = connection.execute(query.with_only_columns(seq).where(table.c.id == after)).scalar()
        if anchor is None:
            raise InputError(f"after is {after[:64]!r}, which is not in this list", field="after")
        query = query.where(seq < anchor if newest_first else seq > anchor)
    rows = connection.execute(query.order_by(seq.desc() if newest_first else seq).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def all_of(table: Table, *conditions: Any) -> Select[Any]:
    return select(table).where(*conditions)
