"""The options that every command about clips has, in one wording: annotations for typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TranscriptOption = Annotated[
    str | None, typer.Option(help="The words of the clip, or a file with them (.txt, .srt, .vtt, .json).")
]
LabelsOption = Annotated[
    str | None, typer.Option(help="The labels to choose from, comma-separated, or a set's name such as mer.")
]
LanguageOption = Annotated[str | None, typer.Option(help="Language of the words, e.g. en.")]
ModelOption = Annotated[str, typer.Option(help="A name of `emollama models`, or a folder.")]
AdapterOption = Annotated[Path | None, typer.Option(help="A LoRA adapter folder to use instead of the model's own.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]
