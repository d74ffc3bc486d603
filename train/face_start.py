"""What a face model's training begins with: another's weights, strictly."""

from __future__ import annotations

import json
from pathlib import Path

from emollama.encoders.face import FaceModel
from emollama.encoders.face_models import FaceModelConfig
from emollama.errors import CheckpointError
from emollama.tensors import read_tensors

BACKBONE = "backbone.safetensors"


def find_start(place: Path, *, model: str) -> Path:
    """Return a file, or the one that a folder holds: a trained model's, a converted one's, a recogniser's."""
    if not place.is_dir():
        return place
    names = (f"{model}.safetensors", "face.safetensors", BACKBONE)
    found = next((place / name for name in names if (place / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{place} holds none of {', '.join(names)}", field="start")
    return found


def load_start(model: FaceModel, path: Path) -> bool:
    """Copy a file's backbone into ``model``, and its head where it gives the same outputs; return whether it did.

    The file is a face model's ``X.safetensors`` with ``X.json``, or ``backbone.safetensors`` alone. Raises
    `CheckpointError` that names what is missing, left over or of another shape.
    """
    tensors = read_tensors(path)
    document = path.with_suffix(".json")
    config = None
    if document.is_file():
        try:
            config = FaceModelConfig.from_json_dict(json.loads(document.read_text("utf-8"))["model"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{document} is damaged: {error}", field="start") from error
    own = model.state_dict()
    has_same_outputs = config is not None and (config.labels, config.has_affect, config.action_units) == (
        model.config.labels, model.config.has_affect, model.config.action_units,
    )  # fmt: skip
    given = {name: tensor for name, tensor in tensors.items() if has_same_outputs or not name.startswith("head.")}
    wanted = {name for name in own if has_same_outputs or not name.startswith("head.")}
    for what, names in (("lacks", wanted - given.keys()), ("has unknown", given.keys() - wanted)):
        if names:
            shown = ", ".join(sorted(names)[:4])
            raise CheckpointError(
                f"{path.name} does not fit backbone {model.config.backbone}: it {what} {shown} ({len(names)} in all)",
                field="start",
            )
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{path.name} does not fit: {name} is {tuple(tensor.shape)}; expected {tuple(own[name].shape)}",
                field="start",
            )
        own[name].copy_(tensor)
    return has_same_outputs
