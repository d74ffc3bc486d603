"""Checkpoints of the three vision transformers -> ``model.safetensors`` that their encoders load strictly.

``eva_vit_g.pth`` (LAVIS BLIP-2) is a bare state dict of 40 blocks, of which the last is not used. The checkpoints of
MAE and VideoMAE pretraining hold an encoder and a decoder; only the encoder is kept. VideoMAE's encoder stands below
``encoder.`` in a pretraining checkpoint; its final norm is not used (`emollama.encoders.video_mae`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emollama.converters.ledger import Ledger, Report, read_checkpoint, refuse_existing, written_whole

if TYPE_CHECKING:
    from torch import Tensor

    from emollama.encoders.vit import VitShape

_DECODER = "the decoder of pretraining"
_HEAD = "a head or norm that the encoder does not use"
_MAE_DEAD = {r"decoder_\w+(\.\d+)?\..+|decoder_pos_embed|mask_token": _DECODER, r"head\..+": _HEAD}
_VIDEO_DEAD = {
    r"decoder\..+|encoder_to_decoder\.weight|mask_token": _DECODER,
    r"(encoder\.)?norm\.(weight|bias)|(fc_norm|head)\.(weight|bias)": _HEAD,
}
_EVA_DEAD = {r"(norm|fc_norm|head)\.(weight|bias)": _HEAD}


def convert_eva(checkpoint: Path, out: Path, *, debug: bool = False) -> Report:
    """Convert ``eva_vit_g.pth``; its positions may be of any square, the encoder resizes them."""
    from emollama.encoders.eva import EVA_G
    from emollama.encoders.vit import shrink

    shape = shrink(EVA_G, image_size=56) if debug else EVA_G
    dead = {**_EVA_DEAD, rf"blocks\.{shape.depth}\..+": "the last block, which Emotion-LLaMA leaves out"}
    return _convert("eva-clip-g", checkpoint, out, shape=shape, dead=dead)


def convert_face_mae(checkpoint: Path, out: Path, *, debug: bool = False) -> Report:
    """Convert a checkpoint of Facebook's MAE code (``mae_checkpoint-340.pth``)."""
    from emollama.encoders.face_mae import MAE_LARGE
    from emollama.encoders.vit import shrink

    shape = shrink(MAE_LARGE, image_size=32) if debug else MAE_LARGE
    return _convert("face-mae", checkpoint, out, shape=shape, dead=_MAE_DEAD)


def convert_video_mae(checkpoint: Path, out: Path, *, debug: bool = False) -> Report:
    """Convert a checkpoint of MCG-NJU's VideoMAE code (``maeVideo_ckp199``), of pretraining or fine-tuning."""
    from emollama.encoders.video_mae import VIDEO_MAE_LARGE
    from emollama.encoders.vit import shrink

    shape = shrink(VIDEO_MAE_LARGE, image_size=32) if debug else VIDEO_MAE_LARGE
    return _convert("video-mae", checkpoint, out, shape=shape, dead=_VIDEO_DEAD, prefix="encoder.")


def _convert(
    name: str, checkpoint: Path, out: Path, *, shape: VitShape, dead: Mapping[str, str], prefix: str = ""
) -> Report:
    from emollama.tensors import write_tensors

    refuse_existing(out)
    file = read_checkpoint(checkpoint, is_flat=True)
    ledger = Ledger(file)
    begins = prefix if any(key.startswith(f"{prefix}blocks.") for key in file.tensors) else ""
    for key in file.tensors:
        why = next((why for pattern, why in dead.items() if re.fullmatch(pattern, key)), None)
        if why is None and key.startswith(begins):
            take_vit(ledger, key, key.removeprefix(begins), shape=shape)
        elif why is not None:
            ledger.drop(key, group=why, why=why)
        else:
            ledger.unknown(key)
    ledger.require({mine: f"{begins}{mine}" for mine in expected_vit(shape)})
    ledger.close()
    report = file.report(name, ledger.fates)
    with written_whole(out, report) as folder:
        write_tensors(folder / "model.safetensors", ledger.kept)
    return report


def expected_vit(shape: VitShape) -> dict[str, Tensor]:
    """Return the tensors of a vision transformer of this shape, without memory."""
    import torch

    from emollama.encoders.vit import VisionTransformer

    with torch.device("meta"):
        return dict(VisionTransformer(shape).state_dict())


def take_vit(ledger: Ledger, key: str, name: str, *, shape: VitShape, group: str = "encoder", prefix: str = "") -> None:
    """Take a key of upstream's file as the tensor ``name`` of the encoder; positions may be of another square."""
    expected = expected_vit(shape)
    if name not in expected:
        ledger.unknown(key)
        return
    wanted = tuple(expected[name].shape)
    found = tuple(ledger.checkpoint.tensors[key].shape)
    if name == "pos_embed" and len(found) == 3 and math.isqrt(found[1] - 1) ** 2 == found[1] - 1:
        wanted = (1, found[1], wanted[2])
    ledger.keep(key, group=group, name=f"{prefix}{name}", shape=wanted)
