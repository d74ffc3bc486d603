"""`emollama audit`: read and check the audit log in the database of the service, which need not run."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from server.keys_cli import open_database

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="The audit log: who, when, what and why."
)

_BROKEN, _REFUSED = 1, 2
_COLUMNS = ("number", "time", "owner", "key", "action", "status", "model", "purpose", "consent", "subject")


@app.command("list")
def list_events(
    owner: Annotated[str | None, typer.Option(help="Only this owner's.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key's, by its id.")] = None,
    action: Annotated[str | None, typer.Option(help='Only this action, such as "POST /analyze".')] = None,
    purpose: Annotated[str | None, typer.Option(help="Only this purpose.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only what was done to this analysis, job or file.")] = None,
    since_days: Annotated[float | None, typer.Option(help="Only the last so many days.")] = None,
    after: Annotated[str | None, typer.Option(help="Go on after the row of this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what was done, newest first."""
    from emollama.errors import InputError
    from server.records import audit
    from server.schemas.trust import AuditOut

    since = None if since_days is None else time.time() - since_days * 86_400
    with open_database() as store:
        try:
            page = audit.page(
                store, after=after, limit=limit, owner=owner, key_id=key, action=action, purpose=purpose,
                subject_id=subject, since=since,
            )  # fmt: skip
        except InputError as exc:
            typer.echo(f"error: {exc}", err=True)
            raise typer.Exit(_REFUSED) from exc
    if as_json:
        typer.echo(json.dumps([AuditOut.of(record).model_dump() for record in page.items], indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*_COLUMNS, box=None)
    for record in page.items:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.at))
        status = f"{record.status or ''} {record.code or ''}".strip()
        cells = (
            str(record.seq), at, record.owner, record.key_id, record.action, status, record.model, record.purpose,
            record.consent_reference, record.subject_id,
        )  # fmt: skip
        table.add_row(*(Text(cell or "") for cell in cells))
    Console().print(table)
    if page.has_more:
        typer.echo(f"there are more: --after {page.items[-1].id}", err=True)


@app.command()
def verify(
    head: Annotated[
        str | None, typer.Option(help="A hash that this command, or the service's log, once named: it must be there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that no row was changed or removed, and print the log's head. Exit code 1: it is not whole.

    Whoever can write to the database's file can make a whole log of other rows. Note the head elsewhere, and give it
    with --head the next time.
    """
    from server.records import audit

    with open_database() as store:
        verdict = audit.verify(store, known_head=head)
    if as_json:
        told = {
            "whole": verdict.is_whole, "rows": verdict.head.num_rows, "head": verdict.head.hash,
            "broken_at": verdict.broken_at, "has_known_head": verdict.has_known_head,
        }  # fmt: skip
        typer.echo(json.dumps(told, indent=2))
    elif verdict.broken_at is not None:
        typer.echo(
            f"row {verdict.broken_at} was changed, or removed, or put in; the {verdict.head.num_rows} before fit"
        )
    elif verdict.has_known_head is False:
        typer.echo(
            f"{verdict.head.num_rows} rows fit together, but none has the hash {head}: the end was cut off, or all"
        )
    else:
        typer.echo(f"{verdict.head.num_rows} rows, none changed, none missing; head {verdict.head.hash}")
    if not verdict.is_whole:
        raise typer.Exit(_BROKEN)
