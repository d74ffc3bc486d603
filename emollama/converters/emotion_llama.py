"""A checkpoint of the public Emotion-LLaMA code -> a folder that the preset ``emotion-llama-7b`` answers with.

The file's ``model`` holds what was trained and the buffers: LoRA of q and v in the names of peft 0.2.0, five linear
projectors, the rotary frequencies, and a classifier (``attention``) that nothing calls any more. Upstream loads it with
``strict=False`` and throws the report away, so that with a newer peft no LoRA is loaded and nobody is told; here every
key is accounted for. The same pairs in the names of newer releases (``lora_A.default``) are taken, too.

``visual_encoder`` (older files) becomes ``weights/eva-clip-g``, where loading looks first. ``ln_vision`` is computed
with gain 1 and bias 0, as upstream leaves it; a file that says otherwise is refused.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from emollama.adapter import AdapterInfo, base_digest
from emollama.config import EMOTION_LLAMA_7B, LlamaShape, ModelConfig
from emollama.converters.ledger import Ledger, Report, read_checkpoint, refuse_existing, written_whole
from emollama.converters.vision import expected_vit, take_vit
from emollama.errors import CheckpointError, InputError
from emollama.peak_frame import check_picture

if TYPE_CHECKING:
    from emollama.encoders.vit import VitShape

LAYOUTS = ("train", "upstream-eval")
# Upstream's words and order (its prompt of the task [emotion]).
LABELS = ("happy", "sad", "neutral", "angry", "worried", "surprise", "fear", "contempt", "doubt")
QUESTION = "Please determine which emotion label in the video represents: {labels}."
_PROJECTORS = {
    "llama_proj": "patches",
    "feats_llama_proj1": "face",
    "feats_llama_proj2": "temporal",
    "feats_llama_proj3": "audio",
    "cls_tk_llama_proj": "cls",
}
_LAYER = r"llama_model\.(base_model\.model\.model\.layers\.(\d+)\.self_attn)"
_LORA = re.compile(_LAYER + r"\.(q_proj|v_proj)\.(lora_[AB])(?:\.default)?\.weight")
_ROTARY = re.compile(_LAYER + r"\.rotary_emb\.inv_freq")
_DEAD = re.compile(r"attention\.(feats_prep\.[0-6]\.[03]|attention_mlp\.[03]|fc_att|fc_out)\.(weight|bias)")


def convert_emotion_llama(
    checkpoint: Path,
    out: Path,
    *,
    layout: str = "train",
    picture: str = "first",
    backbone: Path | None = None,
    debug: bool = False,
) -> Report:
    """Convert a checkpoint to a folder of adapter, projectors, ``emollama.json`` and ``conversion.json``.

    ``layout`` is the prompt that answers are asked by, ``picture`` the frame that is looked at. ``backbone`` is the
    folder of Llama-2-7b-chat, which the adapter is bound to by its sha256 (default: the Hugging Face cache). ``debug``
    reads the sizes of the preset's debug build.
    Raises `CheckpointError` that names every key which is missing, unknown or damaged; nothing is written then.
    """
    from emollama.presets import build_encoders, debug_digest

    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; allowed: {', '.join(LAYOUTS)}", field="layout")
    check_picture(picture, EMOTION_LLAMA_7B)
    refuse_existing(out)
    if debug:
        config = build_encoders(EMOTION_LLAMA_7B.name, debug=True)[0]
        digest = debug_digest(config)
    else:
        config = EMOTION_LLAMA_7B
        digest = _digest_of(config, backbone)
    file = read_checkpoint(checkpoint)
    ledger = Ledger(file)
    shape = _eva_shape(debug=debug)
    for key in file.tensors:
        _place(ledger, key, config, shape)
    wanted = expected_keys(config)
    if any(name.startswith("eva/") for name in ledger.kept):
        wanted |= {f"eva/{name}": f"visual_encoder.{name}" for name in expected_vit(shape)}
    ledger.require(wanted)
    ledger.close()
    report = file.report(
        "emotion-llama", ledger.fates, layout=layout, picture=picture, base=config.name, base_sha256=digest
    )
    info = AdapterInfo(
        base=config.name,
        base_sha256=digest,
        labels=LABELS,
        answers="own",
        recipe="convert emotion-llama",
        created=int(time.time()),
        license="EULA of MER2023 (academic)",
        layout=layout,
        question=QUESTION,
        picture=picture,
    )
    with written_whole(out, report) as folder:
        _write(folder, ledger, config)
        info.save(folder)
    return report


def expected_keys(config: ModelConfig) -> dict[str, str]:
    """Return our tensor's name -> upstream's key, for everything that a checkpoint must hold."""
    keys = {}
    for layer in range(config.backbone.num_layers):
        for target in config.lora.targets:
            for pair in ("lora_A", "lora_B"):
                name = f"base_model.model.model.layers.{layer}.self_attn.{target}.{pair}.weight"
                keys[f"lora/{name}"] = f"llama_model.{name}"
    for theirs, stream in _PROJECTORS.items():
        for part in ("weight", "bias"):
            keys[f"projectors/{stream}.proj.{part}"] = f"{theirs}.{part}"
    return keys


def _place(ledger: Ledger, key: str, config: ModelConfig, vit: VitShape) -> None:
    """Decide what becomes of one key."""
    module, _, part = key.rpartition(".")
    shape, rank = config.backbone, config.lora.rank
    lora, rotary = _LORA.fullmatch(key), _ROTARY.fullmatch(key)
    if lora and int(lora[2]) < shape.num_layers:
        heads = shape.num_heads if lora[3] == "q_proj" else shape.num_kv_heads
        size: tuple[int, ...] = (rank, shape.hidden_size) if lora[4] == "lora_A" else (heads * shape.size_of_head, rank)
        ledger.keep(key, group="LoRA", name=f"lora/{lora[1]}.{lora[3]}.{lora[4]}.weight", shape=size)
    elif module in _PROJECTORS and part in ("weight", "bias"):
        stream = config.stream(_PROJECTORS[module])
        size = (shape.hidden_size, stream.width) if part == "weight" else (shape.hidden_size,)
        ledger.keep(key, group=f"{module} -> {stream.name}", name=f"projectors/{stream.name}.proj.{part}", shape=size)
    elif rotary and int(rotary[2]) < shape.num_layers:
        ledger.drop(key, group="rotary inv_freq", why="computed from the configuration")
    elif _DEAD.fullmatch(key):
        ledger.drop(key, group="attention", why="an abandoned classifier that nothing calls")
    elif key.startswith("visual_encoder."):
        name = key.removeprefix("visual_encoder.")
        take_vit(ledger, key, name, shape=vit, group="visual_encoder", prefix="eva/")
    elif module == "ln_vision" and part in ("weight", "bias"):
        tensor = ledger.checkpoint.tensors[key]
        if tuple(tensor.shape) == (vit.width,) and bool((tensor == float(part == "weight")).all()):
            ledger.confirm(key, group="ln_vision", why="gain 1 and bias 0, which is what is computed")
        else:
            ledger.problems.append(f"{key}: is not the identity; the encoder computes ln_vision without gain and bias")
    else:
        ledger.unknown(key)


def _write(folder: Path, ledger: Ledger, config: ModelConfig) -> None:
    import torch

    from emollama.tensors import write_json, write_tensors

    def below(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): t for name, t in ledger.kept.items() if name.startswith(prefix)}

    write_tensors(folder / "adapter_model.safetensors", below("lora/"), dtype=torch.float32)
    write_tensors(folder / "projectors.safetensors", below("projectors/"), dtype=torch.float32)
    lora = config.lora
    write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": config.name, "r": lora.rank,
            "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "target_modules": list(lora.targets),
            "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        },
    )  # fmt: skip
    if eva := below("eva/"):
        write_tensors(folder / "weights" / "eva-clip-g" / "model.safetensors", eva)


def _digest_of(config: ModelConfig, backbone: Path | None) -> str:
    from emollama.checkpoint import resolve_weights

    place = resolve_weights(config.backbone_weights or "", folder=backbone)
    found = LlamaShape.load(place)
    for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads"):
        if getattr(found, name) != getattr(config.backbone, name):
            raise CheckpointError(
                f"{place} has {name} {getattr(found, name)}; {config.name} stands on "
                f"{config.backbone_weights} with {getattr(config.backbone, name)}",
                field="backbone",
            )
    return base_digest(place, place / "tokenizer.json")


def _eva_shape(*, debug: bool) -> VitShape:
    from emollama.encoders.eva import EVA_G
    from emollama.encoders.vit import shrink

    return shrink(EVA_G, image_size=56) if debug else EVA_G
