"""`emollama notice`: print what people whose expressions are read must be told, as the service is set up."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False, help="What people whose expressions are read must be told.")

_REFUSED = 2


@app.command()
def notice(
    language: Annotated[str, typer.Option(help="en or de.")] = "en",
    purpose: Annotated[str | None, typer.Option(help="What for, where EMOLLAMA_PURPOSE names none or several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as GET /v1/notice.")] = False,
) -> None:
    """Print the notice: who reads what, how, what for, how long it is kept, and what rights there are.

    It is made of the service's settings: EMOLLAMA_CONTROLLER, EMOLLAMA_CONTACT, EMOLLAMA_PURPOSE and those of
    retention.
    """
    from emollama.errors import InputError
    from server.cli import read_settings
    from server.schemas.trust import NoticeOut
    from server.trust.notice import make_notice

    settings = read_settings({})
    try:
        made = make_notice(settings, language=language, purpose=purpose)
    except InputError as exc:
        typer.echo(f"error: {exc}", err=True)
        raise typer.Exit(_REFUSED) from exc
    typer.echo(NoticeOut.of(made).model_dump_json(indent=2) if as_json else made.text)
    if made.missing:
        names = ", ".join(f"EMOLLAMA_{name.upper()}" for name in made.missing)
        typer.echo(f"warning: the notice is not complete without {names}", err=True)
