"""``emollama train RECIPE key=value ...``: run a recipe, with scalars of its config overridden."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from emollama.errors import EmoLlamaError, InputError

CALIBRATE, CARD, DATA_CARD = "nano_calibrate", "nano_card", "nano_data_card"

app = typer.Typer(help="Train an adapter on your own clips, or a part of nano, by a recipe.")


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="Name of a recipe; without one they are listed.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. epochs=3 task.mixup=0.2")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the raw data. Default: $EMOLLAMA_DATA, then ../shared/data.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest of your own clips, for the recipes that fine-tune.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run directory's last checkpoint.")] = False,
) -> None:
    """Run a recipe to its end; Ctrl-C saves a checkpoint, and --resume goes on from it."""
    from train.recipes import RECIPES, load_recipe

    if recipe is None:
        typer.echo("on your own clips: " + ", ".join(name for name in RECIPES if not name.startswith("nano_")))
        typer.echo(
            "nano from raw data: "
            + ", ".join((*(n for n in RECIPES if n.startswith("nano_")), CALIBRATE, CARD, DATA_CARD))
        )
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    from train.config import override
    from train.loop import run

    try:
        if recipe == CALIBRATE:
            _calibrate(overrides or [], data)
            return
        if recipe == CARD:
            from train.card import write_card

            typer.echo(f"written to {write_card()}")
            return
        if recipe == DATA_CARD:
            from train.config import data_dir
            from train.data_card import write_data_card

            typer.echo(f"written to {write_data_card(data_dir(data))}")
            return
        config = override(load_recipe(recipe), overrides or ())
        if data is not None:
            config = override(config, [f"task.data={data}"])
        if manifest is not None:
            if not hasattr(config.task, "manifest"):
                raise InputError(
                    f"--manifest is {str(manifest)!r}, but {recipe} learns from raw data; name its folder by --data",
                    field="manifest",
                )
            config = override(config, [f"task.manifest={manifest}"])
        task = config.task.build(config)
        if hasattr(task, "prepare"):
            _read_clips(task)
            config = task.config
        result = run(config, task, resume=resume)
    except EmoLlamaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if os.environ.get("RANK", "0") != "0":  # of several processes one says how it went
        return
    figures = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    if result.interrupted:
        typer.echo(f"stopped at step {result.steps}; go on with --resume  {figures}")
        raise typer.Exit(130)
    typer.echo(f"{result.steps} steps  {figures}\nexported to {result.export}")


def _read_clips(task: Any) -> None:
    """Let a task run the encoders over its clips, with a bar; what was read before comes from the cache."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("reading clips", total=None)
        task.prepare(on_progress=lambda done, total: progress.update(bar, completed=done, total=total))


def _calibrate(overrides: list[str], data: Path | None) -> None:
    """The last step of making nano: no loop, so no recipe, but asked for in the same way."""
    from train.calibrate import CalibrateOptions, calibrate
    from train.config import override

    options = override(CalibrateOptions(), [*overrides, *([f"data={data}"] if data is not None else [])])
    report = calibrate(options)["reliability"]["all"]["after"]
    typer.echo(f"{report['count']} held-out answers  accuracy {report['accuracy']:.4f}  ece {report['ece']:.4f}")
    typer.echo(f"exported to {options.output}")


if __name__ == "__main__":
    app()
