"""A HuBERT that is published as ``pytorch_model.bin`` -> the folder that `emollama.encoders.hubert` loads strictly.

Its ``config.json`` lies beside the file and says which tensors there must be. The weight of the convolution of
positions is kept in two parts, whose names torch has changed since; both are taken. Keys below ``hubert.`` (of a model
tuned to recognise speech) are those of the encoder, and its output layer is left, by name.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from emollama.converters.ledger import Ledger, Report, read_checkpoint, refuse_existing, written_whole
from emollama.errors import CheckpointError

_PREFIX = "hubert."
_RENAMED = {".weight_g": ".parametrizations.weight.original0", ".weight_v": ".parametrizations.weight.original1"}


def convert_hubert(checkpoint: Path, out: Path, *, debug: bool = False) -> Report:
    """Convert ``pytorch_model.bin``; ``debug`` changes nothing, since the sizes are those of ``config.json``."""
    from emollama.encoders.hubert import expected_tensors
    from emollama.tensors import write_tensors

    refuse_existing(out)
    place = checkpoint.with_name("config.json")
    try:
        document = json.loads(place.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {place}, which says the sizes", field="checkpoint") from error
    except ValueError as error:
        raise CheckpointError(f"{place} is damaged: {error}", field="checkpoint") from error
    file = read_checkpoint(checkpoint, is_flat=True)
    expected = expected_tensors(document, where=str(place))
    ledger = Ledger(file)
    upstream: dict[str, str] = {}
    for key in file.tensors:
        name = key.removeprefix(_PREFIX)
        for old, new in _RENAMED.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        upstream[name] = key
        if name in expected:
            ledger.keep(key, group="encoder", name=name, shape=expected[name])
        elif key.startswith("lm_head."):
            ledger.drop(key, group="lm_head", why="the layer that recognises speech")
        else:
            ledger.unknown(key)
    ledger.require({name: upstream.get(name, name) for name in expected})
    ledger.close()
    report = file.report("hubert", ledger.fates, architecture=document.get("architectures"))
    with written_whole(out, report) as folder:
        write_tensors(folder / "model.safetensors", ledger.kept)
        shutil.copyfile(place, folder / "config.json")
    return report
