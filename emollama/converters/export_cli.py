"""``emollama export onnx``: a trained face model as an ONNX graph, compared with torch before it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emollama.errors import InputError

FORMS = ("onnx",)


def export(
    form: Annotated[str, typer.Argument(help="onnx.")],
    model: Annotated[Path, typer.Argument(help="A face model, X.safetensors with X.json beside it.")],
    out: Annotated[Path, typer.Argument(help="The file to write, X.onnx; it must not exist.")],
) -> None:
    """Write a trained face model as one ONNX file that says what torch says, to 1e-4."""
    from emollama.encoders.face import FaceEncoder
    from emollama.encoders.onnx_face import export_onnx

    if form not in FORMS:
        raise InputError(f"form is {form!r}; allowed: {', '.join(FORMS)}", field="form")
    if out.suffix != ".onnx":
        raise InputError(f"out is {str(out)!r}; allowed: a file X.onnx", field="out")
    if out.exists():
        raise InputError(f"{out} exists; name a new file", field="out")
    encoder = FaceEncoder.load(model)
    difference = export_onnx(encoder, out)
    typer.echo(f"{out}: {encoder.name}, within {difference:.1e} of torch")
