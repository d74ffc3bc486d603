"""``emollama merge ADAPTER OUT``: an adapter and its base become one whole model folder that needs neither.

For nano, and any model folder of its layout, the result is such a folder again: `emollama analyze --model OUT` and the
server answer from it as they would from base and adapter, and another adapter can be trained on it. For a large preset
it holds the merged backbone with its tokenizer, and the projectors; the encoders' weights stay where they are, because
no adapter changes them. The folder appears whole or not at all, and nothing is overwritten.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from emollama.adapter import INFO, AdapterInfo, base_digest
from emollama.config import PRESETS
from emollama.errors import CheckpointError, EmoLlamaError, InputError
from emollama.peak_frame import FOLDER as PEAK_FOLDER

DTYPES = ("auto", "float32", "bfloat16", "float16")
_CARD, _MODEL_CARD = "ADAPTER_CARD.md", "MODEL_CARD.md"
# Up to this many bytes of backbone, "auto" stores float32: rounding the sum would cost more than the space.
_SMALL = 1 << 30

app = typer.Typer(help="Merge an adapter into its base: one model folder that needs neither.")


@app.command()
def merge_command(
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter.")],
    out: Annotated[Path, typer.Argument(help="Folder to be written; must not be there yet.")],
    base: Annotated[str, typer.Option(help="nano, or the folder of the base. Default: what the adapter names.")] = "",
    dtype: Annotated[str, typer.Option(help=f"How weights are stored: {', '.join(DTYPES)}.")] = "auto",
) -> None:
    """Write the merged model and say where it lies."""
    try:
        merge(adapter, out, base=base or None, dtype=dtype)
    except EmoLlamaError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"merged into {out}")


def merge(adapter: Path, out: Path, *, base: str | None = None, dtype: str = "auto") -> Path:
    """Merge an adapter folder into its base and return ``out``.

    ``base`` is "nano", a model folder of nano's layout, or the folder of a large preset's backbone; without it, the
    base that ``emollama.json`` names. A base that the adapter was not trained on is refused by name
    (`CheckpointError`), and so is an ``out`` that is there (`InputError`). ``dtype`` "auto" stores float32 for a small
    backbone and otherwise what the base has.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; allowed: {', '.join(DTYPES)}", field="dtype")
    if out.exists():
        raise InputError(f"out is {str(out)!r}, which is there already; allowed: a folder that is not", field="out")
    if not (adapter / "adapter_config.json").is_file():
        raise CheckpointError(f"{adapter} is not an adapter folder: adapter_config.json is missing", field="adapter")
    info = AdapterInfo.load(adapter)
    found = _base(base, info)
    is_whole = found == "nano" or (Path(found) / "backbone").is_dir()
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.mkdir()
        fill: Callable[..., None] = _fill_whole if is_whole else _fill_backbone
        fill(found, adapter, info, partial, dtype=dtype)
        _finish(partial, adapter, info, base=found)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _base(given: str | None, info: AdapterInfo | None) -> str:
    """The base to merge into: a known name or a folder."""
    if given is not None and given != "nano" and not Path(given).is_dir():
        raise InputError(f"base is {given!r}; allowed: nano, or the folder of a model or a backbone", field="base")
    if given is not None:
        return given
    if info is None:
        raise InputError(f"the adapter has no {INFO} that names its base; give --base", field="base")
    if info.base == "nano":
        return info.base
    kind = "backbone" if info.base in PRESETS else "model"
    raise InputError(
        f"the adapter was trained on {info.base!r}, whose {kind} does not come with the package; give its folder as "
        "--base",
        field="base",
    )


def _fill_whole(base: str, adapter: Path, info: AdapterInfo | None, target: Path, *, dtype: str) -> None:
    """A model folder of nano's layout, with what the adapter brings in place of the base's."""
    from emollama.checkpoint import load_assets

    own = load_assets("nano" if base == "nano" else Path(base))
    brought = load_assets("nano" if base == "nano" else Path(base), adapter=adapter)
    _check(info, own.backbone, own.tokenizer, adapter=adapter, base=base)
    _merge_backbone(own.backbone, adapter, target / "backbone", dtype=dtype)
    for name in ("tokenizer.json", "face.safetensors", "face.json", "voice.safetensors", "voice.json"):
        if (own.folder / name).is_file():
            shutil.copyfile(own.folder / name, target / name)
    shutil.copyfile(brought.projectors, target / "projectors.safetensors")
    shutil.copyfile(brought.calibration, target / "calibration.json")


def _fill_backbone(base: str, adapter: Path, info: AdapterInfo | None, target: Path, *, dtype: str) -> None:
    """The merged backbone of a large preset with its tokenizer, and the adapter's projectors."""
    folder = Path(base)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise CheckpointError(f"{folder} holds no tokenizer.json", field="base")
    _check(info, folder, tokenizer, adapter=adapter, base=base)
    _merge_backbone(folder, adapter, target / "backbone", dtype=dtype)
    if (adapter / "projectors.safetensors").is_file():
        shutil.copyfile(adapter / "projectors.safetensors", target / "projectors.safetensors")
    if (adapter / PEAK_FOLDER).is_dir():
        shutil.copytree(adapter / PEAK_FOLDER, target / PEAK_FOLDER)


def _check(info: AdapterInfo | None, backbone: Path, tokenizer: Path, *, adapter: Path, base: str) -> None:
    """Refuse a base that the adapter was not trained on. One of a foreign PEFT folder is only held to its shape."""
    if info is None:
        return
    found = base_digest(backbone, tokenizer)
    if found != info.base_sha256:
        raise CheckpointError(
            f"{adapter} was trained on {info.base!r} with the sha256 {info.base_sha256[:12]}...; {base!r} has "
            f"{found[:12]}...: it is another model or another version",
            field="base",
        )


def _merge_backbone(source: Path, adapter: Path, target: Path, *, dtype: str) -> None:
    import torch

    from emollama.backbones.merge import merge_backbone

    if dtype == "auto":
        size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
        merge_backbone(source, adapter, target, dtype=torch.float32 if size < _SMALL else None)
    else:
        merge_backbone(source, adapter, target, dtype=getattr(torch, dtype))


def _finish(folder: Path, adapter: Path, info: AdapterInfo | None, *, base: str) -> None:
    """The card, what the adapter said of itself, and the checksums."""
    from emollama.checkpoint import write_manifest

    if info is not None:
        info.save(folder)
    card = adapter / _CARD
    told = card.read_text(encoding="utf-8") if card.is_file() else "The adapter came without a card.\n"
    name = info.base if info is not None else Path(base).name
    (folder / _MODEL_CARD).write_text(
        f"# {name}, with an adapter merged into it\n\nThe weights of the adapter are part of the backbone here. "
        "Nothing else of the base was changed, but for what the adapter brought of its own (projectors, calibration). "
        f"Licence and limits of the base hold. What follows is the adapter's own card.\n\n{told}",
        encoding="utf-8",
    )
    write_manifest(folder)


if __name__ == "__main__":
    app()
