"""`emollama keys`: API keys in the database of the service, which need not run.

The database is the one that the service uses: ``EMOLLAMA_DATABASE_URL``, or SQLite in ``EMOLLAMA_DATA_DIR``.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from server.records.audit import Event
    from server.store import Store

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="API keys of the service, and their owners."
)

_DEFAULT_SCOPES = "analyze,chat,files,jobs,models:read"
_REFUSED = 2


@app.command()
def create(
    owner: Annotated[str, typer.Argument(help="To whom belongs what is made with the key.")],
    scopes: Annotated[str, typer.Option(help="What the key is for, comma-separated.")] = _DEFAULT_SCOPES,
    per_minute: Annotated[int | None, typer.Option(help="Requests a minute. Default: EMOLLAMA_KEY_RATE.")] = None,
    expires_days: Annotated[float | None, typer.Option(help="Days until it ends. Default: never.")] = None,
    note: Annotated[str, typer.Option(help="A note for yourself.")] = "",
    purpose: Annotated[
        str | None, typer.Option(help="What emotions are read for with it; --note says why an exception holds.")
    ] = None,
) -> None:
    """Make a key and print it. It is shown this once; the database has only a digest of it."""
    from emollama.errors import InputError
    from server.auth import new_key
    from server.cli import read_settings
    from server.records import keys
    from server.records.audit import Event

    if expires_days is not None and expires_days <= 0:
        _refuse(f"expires-days is {expires_days:g}; it must be above 0")
    chosen = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    end = None if expires_days is None else time.time() + expires_days * 86_400
    try:
        text, record = new_key(
            owner=owner, scopes=chosen, note=note, per_minute=per_minute, expires_at=end, purpose=purpose
        )
        allowed = read_settings({}).purpose
        if record.purpose is not None and allowed and record.purpose not in allowed:
            _refuse(f"purpose is {record.purpose!r}; EMOLLAMA_PURPOSE allows: {', '.join(allowed)}")
    except InputError as exc:
        _refuse(str(exc))
    with open_database() as store:
        keys.add(store, record)
        write_down(store, Event(action="keys.create", owner=record.owner, key_id=record.id, purpose=record.purpose))
    typer.echo(text)


@app.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the keys: their ids, owners, scopes and ends; never a key."""
    from server.records import keys

    with open_database() as store:
        found = keys.all_keys(store)
    if as_json:
        rows = [{name: value for name, value in vars(key).items() if name != "digest"} for key in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(
        Column("key", no_wrap=True, min_width=12), "owner", "scopes", "purpose", "a minute", "made",
        Column("state", no_wrap=True), "note", box=None,
    )  # fmt: skip
    for key in found:
        state = "revoked" if key.revoked_at else "valid" if key.is_valid(now=time.time()) else "expired"
        rate = "" if key.per_minute is None else str(key.per_minute)
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(key.created_at))
        table.add_row(
            key.id, Text(key.owner), ",".join(key.scopes), key.purpose or "", rate, made, state, Text(key.note)
        )
    Console().print(table)


@app.command()
def revoke(key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id: what stands after emo_.")]) -> None:
    """End a key at once, in every process on this database."""
    from server.records import keys
    from server.records.audit import Event

    with open_database() as store:
        if not keys.revoke(store, key, now=time.time()):
            _refuse(f"there is no key {key[:60]!r} that could be revoked; `emollama keys list` shows them")
        found = keys.find(store, key)
        write_down(store, Event(action="keys.revoke", owner=found.owner if found else None, key_id=key))
    typer.echo(f"revoked {key}")


@app.command()
def erase(
    owner: Annotated[str, typer.Argument(help="Whose files, jobs, adapters and analyses are to go.")],
    keys: Annotated[bool, typer.Option("--keys", help="Also the owner's API keys.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase everything of an owner, with the service running or not, and print the proof as JSON.

    A running service has clips for chat in memory, too, for EMOLLAMA_CHAT_CACHE_SECONDS; DELETE /v1/owners/OWNER
    forgets those at once.
    """
    from server import erasure
    from server.cli import read_settings
    from server.errors import ApiError
    from server.layout import DataFolder
    from server.records.audit import Event
    from server.schemas.owners import ErasureOut

    with open_database() as store:
        held = erasure.count(store, owner)
        if not yes:
            told = ", ".join(f"{number} {kind}" for kind, number in held.items() if number and kind != "api_keys")
            typer.confirm(f"erase {told or 'what is left'} of {owner!r}? It cannot be undone", abort=True, err=True)
        data = DataFolder(read_settings({}).data_folder().absolute())
        try:
            done = erasure.erase(store, data, owner, with_keys=keys)
        except ApiError as exc:
            _refuse(str(exc))
        write_down(store, Event(action="keys.erase", owner=owner, subject_id=done.id))
    typer.echo(ErasureOut.of(done).model_dump_json(indent=2))


@contextlib.contextmanager
def open_database() -> Iterator[Store]:
    """Open the service's database; what is wrong with it ends the command with one line."""
    from emollama.errors import EmoLlamaError
    from server.app import open_store
    from server.cli import read_settings
    from server.layout import DataFolder

    settings = read_settings({})
    try:
        store = open_store(settings, DataFolder(settings.data_folder().absolute()))
    except EmoLlamaError as exc:
        _refuse(str(exc))
    try:
        yield store
    finally:
        store.close()


def write_down(store: Store, event: Event) -> None:
    """Put what a command did into the audit log, where one is kept."""
    from server.cli import read_settings
    from server.records import audit

    if read_settings({}).audit:
        audit.append(store, [event])


def _refuse(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(_REFUSED)
