"""``emollama bench faces``: how many faces a second a face model reads, beside a plain loop over frames.

The plain loop is what people write first: one crop at a time through the network in evaluation, resized by PIL and
normalised by torchvision, as EmotiEffLib's torch engine does (timm's network; ours where timm has none). Ours is
`FaceEncoder` in torch (pictures by channels last) and `OnnxFaceEncoder` (batch norms folded, onnxruntime), both without
the mirrored view, so that every side computes each face once. All have the same weights, crops and threads, take turns
and are measured from crops to numbers; medians are reported with every single time. Whether they say the same is told.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from emollama.errors import EmoLlamaError, InputError, UnknownNameError

if TYPE_CHECKING:
    from emollama.encoders.face import FaceEncoder

app = typer.Typer(help="Measure faces per second beside a plain loop over frames.", add_completion=False)

CROP = 160  # pixels of the crops that are read
# Crops [T, S, S, 3] uint8 -> outputs [T, K]: logits, and valence and arousal where the model has them.
Read = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of every repetition of reading ``num_faces`` crops in batches of ``batch_size``."""

    name: str
    batch_size: int
    num_faces: int
    seconds: tuple[float, ...]

    @property
    def faces_per_second(self) -> float:
        return self.num_faces / statistics.median(self.seconds)

    def to_json_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "batch_size": self.batch_size,
            "num_faces": self.num_faces,
            "faces_per_second": round(self.faces_per_second, 2),
            "seconds": [round(value, 5) for value in self.seconds],
        }


@app.command()
def bench_faces(
    model: Annotated[str, typer.Option(help="A name of the face models, or X.safetensors.")] = "enet_b0_8_va_mtl",
    faces: Annotated[int, typer.Option(min=1, help="Faces of a repetition.")] = 32,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Faces at once; may be repeated.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Repetitions of each; medians are reported.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every side.")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write figures and origin here.")] = None,
) -> None:
    """Read the same faces by a plain loop, by torch and by onnxruntime, and compare faces per second."""
    from rich.console import Console
    from rich.table import Table

    from eval.report import provenance, write_json

    console = Console()
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    try:
        encoder = load(model)
        with console.status("reading faces"):
            found, difference = compare(
                encoder, num_faces=faces, batches=tuple(batch or (1, 32)), runs=runs, threads=threads
            )
    except EmoLlamaError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False)
        raise typer.Exit(2) from error
    table = Table(
        "reader", "faces at once", "faces/s", title=f"{encoder.name}, {threads} threads", title_justify="left"
    )
    for each in found:
        table.add_row(each.name, str(each.batch_size), f"{each.faces_per_second:.1f}")
    console.print(table)
    console.print(f"largest difference between any two answers: {difference:.2g}")
    if json_path is not None:
        document = {
            "model": encoder.name,
            "size": encoder.config.size,
            "crop": CROP,
            **provenance(),
            "threads": threads,
            "load_average_before": None if load_before is None else round(load_before, 2),
            "largest_difference": difference,
            "readers": [each.to_json_dict() for each in found],
        }
        write_json(json_path, document)
        console.print(f"written to {json_path}")


def load(model: str) -> FaceEncoder:
    """Return a named model at random weights (speed does not depend on them), or the model of a file."""
    import torch

    from emollama.encoders.face import FACE_MODELS, FaceEncoder

    if model.endswith(".safetensors"):
        return FaceEncoder.load(model, flip=False)
    if model not in FACE_MODELS:
        raise UnknownNameError("face model", model, FACE_MODELS)
    torch.manual_seed(0)
    return FaceEncoder.build(model, flip=False)


def compare(
    encoder: FaceEncoder, *, num_faces: int, batches: tuple[int, ...], runs: int, threads: int
) -> tuple[list[Measured], float]:
    """Measure every reader at every batch size, in turns; return the times and the largest difference of answers."""
    import torch

    if num_faces < max(batches):
        raise InputError(f"faces is {num_faces}; allowed: {max(batches)} or more", field="faces")
    torch.set_num_threads(threads)
    crops = np.random.default_rng(0).integers(0, 256, (num_faces, CROP // 8, CROP // 8, 3), np.uint8)
    crops = crops.repeat(8, axis=1).repeat(8, axis=2)
    readers: dict[tuple[str, int], Read] = {("plain loop", 1): plain_loop(encoder)}
    for size in batches:
        readers |= {(name, size): read for name, read in ours(encoder, batch_size=size, threads=threads).items()}
    answers = [read(crops) for read in readers.values()]  # also what warms up
    difference = max(float(np.abs(answer - answers[0]).max()) for answer in answers)
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in readers}
    for run in range(runs):
        order = list(readers.items())
        for key, read in order[run % len(order) :] + order[: run % len(order)]:
            started = time.perf_counter()
            read(crops)
            seconds[key].append(time.perf_counter() - started)
    return [
        Measured(name=name, batch_size=size, num_faces=num_faces, seconds=tuple(times))
        for (name, size), times in seconds.items()
    ], difference


def ours(encoder: FaceEncoder, *, batch_size: int, threads: int) -> Mapping[str, Read]:
    """Return our two readers of a model."""
    import torch

    from emollama.encoders.face import preprocess
    from emollama.encoders.onnx_face import OnnxFaceEncoder

    def reader(network: FaceEncoder) -> Read:
        @torch.inference_mode()
        def read(crops: np.ndarray) -> np.ndarray:
            rows = []
            for start in range(0, len(crops), batch_size):
                output = network.look(preprocess(crops[start : start + batch_size], network.config))
                rows.append(output.logits if output.affect is None else torch.cat((output.logits, output.affect), 1))
            return torch.cat(rows).numpy()

        return read

    return {"torch": reader(encoder), "onnxruntime": reader(OnnxFaceEncoder.of(encoder, threads=threads))}


def plain_loop(encoder: FaceEncoder) -> Read:
    """Return the loop that is written first: a crop at a time, PIL, torchvision's transforms, the network as built."""
    import copy

    import torch
    from PIL import Image
    from torchvision import transforms

    config = encoder.config
    if config.colour == "grey":
        raise InputError(f"{encoder.name} reads grey pictures; allowed: a model of colour", field="model")
    mean, deviation = (
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if config.colour == "imagenet" else ((0.5,) * 3,) * 2
    )
    transform = transforms.Compose(
        [
            transforms.Resize((config.size, config.size)),
            transforms.ToTensor(),
            transforms.Normalize(mean=mean, std=deviation),
        ]
    )
    network = copy.deepcopy(encoder.model).to(memory_format=torch.contiguous_format).eval()

    @torch.no_grad()
    def read(crops: np.ndarray) -> np.ndarray:
        rows = []
        for crop in crops:
            picture = transform(Image.fromarray(crop))
            rows.append(network.head(network.backbone(picture.unsqueeze(0))).numpy())
        return np.concatenate(rows)

    return read
