"""``emollama train RECIPE key=value ...``: run a recipe, with scalars of its config overridden."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import typer

from emollama.errors import EmoLlamaError

app = typer.Typer(help="Train a part of nano or an adapter by a recipe.", no_args_is_help=True)


@app.callback(invoke_without_command=False)
def _group() -> None:
    """Train a part of nano or an adapter by a recipe."""


@app.command("train")
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; an unknown one lists them.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. epochs=3 task.mixup=0.2")] = None,
    data: Annotated[Path | None, typer.Option(envvar="EMOLLAMA_DATA", help="Folder of the raw data.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run directory's last checkpoint.")] = False,
) -> None:
    """Run a recipe to its end; Ctrl-C saves a checkpoint, and --resume goes on from it."""
    from train.config import override
    from train.loop import run
    from train.recipes import load_recipe

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        config = override(load_recipe(recipe), overrides or ())
        if data is not None:
            config = dataclasses.replace(config, task=dataclasses.replace(config.task, data=str(data)))
        result = run(config, config.task.build(config), resume=resume)
    except EmoLlamaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    figures = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    if result.interrupted:
        typer.echo(f"stopped at step {result.steps}; go on with --resume  {figures}")
        raise typer.Exit(130)
    typer.echo(f"{result.steps} steps  {figures}\nexported to {result.export}")


if __name__ == "__main__":
    app()
