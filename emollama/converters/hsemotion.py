"""A pickled face model of HSEmotion (or of the public DDAMFN code) -> ``face.safetensors`` that `FaceEncoder` loads.

The published ``.pt`` files are whole modules; only their tensors are read (`emollama.converters.pickled_module`).
Files of state dicts are taken, too, bare or below ``model_state_dict``. Where the head sits differs by backbone:
``classifier`` or ``classifier.0`` of EfficientNet, ``head.fc`` of MobileViT, ``fc`` of MobileFaceNet and DDAMFN.

A state dict without any head, as the face recognisers that the models were trained from are published
(``state_vggface2_enet0_new.pt``), becomes ``backbone.safetensors``, which ``emollama train hsemotion_stage1`` begins
with; the caller says which model it is to become.

Which model a file is, its name says (``enet_b0_8_best_vgaf.pt``) or the caller; the shape of the head and of every
other tensor must then be that model's. ONNX files need no conversion (`emollama.encoders.onnx_face`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emollama.converters.ledger import Checkpoint, Ledger, Report, read_checkpoint, refuse_existing, written_whole
from emollama.errors import CheckpointError, InputError, UnknownNameError

if TYPE_CHECKING:
    from emollama.encoders.face import FaceModel

# Modules outside torch and timm whose classes the published files name: MobileFaceNet, and upstream's DDAMFN.
_THEIR_MODULES = (
    "mobilefacenet", "emotiefflib.backbones.mobilefacenet", "networks.DDAM", "networks.MixedFeatureNet", "DDAM",
    "MixedFeatureNet", "__main__",
)  # fmt: skip
_HEADS = re.compile(r"(classifier(\.0)?|head\.fc|fc)\.(weight|bias)")
_WRAPPED = re.compile(r"(module|backbone|model|features|base|net)\.")


def convert_hsemotion(checkpoint: Path, out: Path, *, model: str | None = None, debug: bool = False) -> Report:
    """Convert a file to a folder of ``face.safetensors`` and ``face.json``, or ``backbone.safetensors``, and
    ``conversion.json``.

    ``model`` is a name of `FACE_MODELS` (default: the file's). ``debug`` changes nothing but is what every converter
    takes. Raises `CheckpointError` that names every key which is missing, unknown or damaged; nothing is written then.
    """
    import torch

    from emollama.encoders.face import FaceEncoder, FaceModel
    from emollama.encoders.face_models import FACE_MODELS
    from emollama.tensors import write_tensors

    name = model or checkpoint.stem
    if name not in FACE_MODELS or name == "nano-face":
        known = [known for known in FACE_MODELS if known != "nano-face"]
        if model is None:
            raise InputError(
                f"the name {checkpoint.name} says no model; give one with --model, of: {', '.join(known)}",
                field="model",
            )
        raise UnknownNameError("face model", name, known)
    refuse_existing(out)
    file, kind = _read(checkpoint)
    config = FACE_MODELS[name]
    with torch.device("meta"):
        face = FaceModel(config)
    ledger = Ledger(file)
    has_head = _place(ledger, face, config.backbone, wants_head=model is None or kind != "state dict")
    ledger.close()
    state = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in ledger.kept.items()}
    # counters of batches seen are no weights; a module wants them all the same
    state |= {key: torch.zeros((), dtype=torch.int64) for key in face.state_dict() if key.endswith("batches_tracked")}
    report = file.report("hsemotion", ledger.fates, model=name, pickled=kind)
    with written_whole(out, report) as folder:
        if not has_head:
            write_tensors(folder / "backbone.safetensors", state)
            return report
        face.load_state_dict(state, strict=True, assign=True)
        FaceEncoder(face, name=name).save(folder / "face.safetensors", dtype=torch.float32)
    return report


def _read(path: Path) -> tuple[Checkpoint, str]:
    """Return the tensors of a file and what it was: the name of a pickled class, or ``state dict``."""
    from emollama.checkpoint import sha256_of
    from emollama.converters.pickled_module import read_module

    try:
        return read_checkpoint(path, entry="model_state_dict", is_flat=True), "state dict"
    except CheckpointError as error:
        if "more than tensors" not in str(error):
            raise
    module = read_module(path, extra=_THEIR_MODULES)
    return Checkpoint(path=path, sha256=sha256_of(path), tensors=module.tensors, beside=()), module.kind


def _place(ledger: Ledger, face: FaceModel, backbone: str, *, wants_head: bool) -> bool:
    """Decide what becomes of every key; return whether the file has a head (or ought to)."""
    from emollama.encoders.ddamfn import DEAD, upstream_name
    from emollama.encoders.face_models import DDAMFN

    expected = {key: tuple(tensor.shape) for key, tensor in face.state_dict().items()}
    wrapper = _wrapper(ledger.checkpoint.tensors, expected, is_ddamfn=backbone == DDAMFN)
    has_head = wants_head
    for key in ledger.checkpoint.tensors:
        bare = key.removeprefix(wrapper)
        if backbone == DDAMFN and DEAD.fullmatch(bare):
            ledger.drop(key, group="unused", why="a module that upstream's forward pass never calls")
            continue
        head = _HEADS.fullmatch(key) or _HEADS.fullmatch(bare)
        has_head = has_head or head is not None
        ours = f"head.{head[3]}" if head else f"backbone.{upstream_name(bare) if backbone == DDAMFN else bare}"
        if key.endswith("num_batches_tracked") and ours in expected:
            ledger.drop(key, group="batches seen", why="a counter of training")
        elif ours in expected:
            ledger.keep(key, group="head" if head else "backbone", name=ours, shape=expected[ours])
        else:
            ledger.unknown(key)
    wanted = [key for key in expected if not key.endswith("num_batches_tracked")]
    ledger.require({key: key.removeprefix("backbone.") for key in wanted if has_head or not key.startswith("head.")})
    return has_head


def _wrapper(tensors: Mapping[str, object], expected: Mapping[str, object], *, is_ddamfn: bool) -> str:
    """Return the prefix of the module that wraps the network, or nothing where it stands at the top."""
    from emollama.encoders.ddamfn import upstream_name

    def fits(prefix: str) -> int:
        bare = (key.removeprefix(prefix) for key in tensors if key.startswith(prefix))
        return sum(f"backbone.{upstream_name(key) if is_ddamfn else key}" in expected for key in bare)

    found = {match[0] for match in map(_WRAPPED.match, tensors) if match}
    return max(("", *sorted(found)), key=fits)
