"""``emollama convert``: a published checkpoint becomes a folder that is loaded here, with an account of every key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emollama.converters import CONVERTERS
from emollama.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from emollama.converters.ledger import Report


def convert(
    name: Annotated[str, typer.Argument(help="emotion-llama, eva-clip-g, face-mae, hsemotion, hubert or video-mae.")],
    checkpoint: Annotated[Path, typer.Argument(help="The published file (.pth, .pt).")],
    out: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    layout: Annotated[
        str | None,
        typer.Option(help="emotion-llama: the prompt of answers, train (default) or upstream-eval."),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(help="emotion-llama: the frame that is looked at, first (default) or peak."),
    ] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="emotion-llama: the folder of Llama-2-7b-chat (default: the cache).")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="hsemotion: which model it is (default: what the file is called).")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Read the sizes of the preset's debug build.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Show every key, not only the groups.")] = False,
) -> None:
    """Convert a published checkpoint to a folder that is loaded here; every key is accounted for."""
    from importlib import import_module

    if name not in CONVERTERS:
        raise UnknownNameError("converter", name, CONVERTERS)
    options: dict[str, object] = {"debug": debug}
    if name == "emotion-llama":
        options |= {"layout": layout or "train", "picture": picture or "first", "backbone": backbone}
    elif any(option is not None for option in (layout, picture, backbone)):
        raise InputError(f"--layout, --picture and --backbone belong to emotion-llama, not to {name}", field="layout")
    if name == "hsemotion":
        options["model"] = model
    elif model is not None:
        raise InputError(f"--model belongs to hsemotion, not to {name}", field="model")
    module, function = CONVERTERS[name].split(":")
    _show(getattr(import_module(module), function)(checkpoint, out, **options), out, every=keys)


def _show(report: Report, out: Path, *, every: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if every:
        table = Table("key", "fate", "became", box=None)
        for key in report.keys:
            table.add_row(Text(key.key), key.fate, Text(key.became or key.why or ""))
        console.print(table)
    groups = Table("what", "fate", "keys", "parameters", "why", box=None)
    for group, (fate, count, parameters, why) in report.groups().items():
        groups.add_row(Text(group), fate, str(count), f"{parameters:,}", Text("" if why == group else why))
    console.print(groups)
    console.print(Text(f"{report.source}  sha256 {report.source_sha256}"), soft_wrap=True)
    console.print(Text(f"written: {out}"), soft_wrap=True)
