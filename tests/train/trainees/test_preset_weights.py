"""A large preset from folders: the tokenizer's file, a backbone in 16 and 4 bits, an encoder, the cache's key.

The folders are laid out as the published ones are; only their sizes are small.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from emollama.adapter import AdapterInfo, base_digest
from emollama.analyze import Analyzer
from emollama.backbones.llama import build_llama, save_llama
from emollama.backbones.quantize import is_quantized
from emollama.chat_prompt import chat_template
from emollama.config import EMOLLAMA_8B, LlamaShape, LoraSettings, ProjectorConfig
from emollama.encoders.whisper import WhisperShape, WhisperShapedEncoder
from emollama.errors import CheckpointError, DependencyError
from emollama.manifest import Sample
from emollama.tensors import write_tensors
from emollama.types import Audio, Clip
from train.clip_batch import collate
from train.clip_task import ClipOptions
from train.merge import merge
from train.trainees import Outcome
from train.trainees.preset import PresetTrainee

LORA = LoraSettings(rank=2, alpha=4.0, dropout=0.0, targets=("q_proj", "down_proj"))
LABELS = ("calm", "bored")
WIDTH = 16


def write_tokenizer(path: Path) -> int:
    """Bytes, the special tokens of Llama 3, and no merges; returns the size of the vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [*chat_template("llama-3").specials, *(f"<|reserved_special_token_{index}|>" for index in range(24))]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    tokenizer.save(str(path))
    return tokenizer.get_vocab_size()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Folders of a backbone and a voice encoder, ``emollama-8b`` of these sizes, and the option that names them."""
    llama, whisper = tmp_path / "llama", tmp_path / "whisper"
    llama.mkdir()
    size = write_tokenizer(llama / "tokenizer.json")
    shape = LlamaShape(
        vocab_size=size, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=4, num_kv_heads=2,
        max_positions=1024,
    )  # fmt: skip
    save_llama(build_llama(shape, seed=0), llama, shape=shape)
    encoder = EMOLLAMA_8B.encoders[2]
    sizes = {"num_mels": 80, "width": WIDTH, "num_heads": 2, "num_layers": 1}
    write_tensors(whisper / "encoder.safetensors", WhisperShapedEncoder(WhisperShape(**sizes)).state_dict())
    voice = dataclasses.replace(
        EMOLLAMA_8B.stream("voice"),
        width=WIDTH,
        projector=ProjectorConfig(kind="resampler", num_queries=4, num_heads=2, depth=1),
    )
    small = dataclasses.replace(
        EMOLLAMA_8B,
        backbone=shape,
        encoders=(dataclasses.replace(encoder, options={"model": "large-v3", **sizes}),),
        streams=(voice,),
    )
    for place in ("emollama.presets", "emollama.preset_parts", "train.trainees.preset"):
        monkeypatch.setattr(f"{place}.preset", lambda name: small)
    return f"llama-3.1-8b-instruct={llama},whisper-large-v3={whisper}"


def make(weights: str, **changes: object) -> PresetTrainee:
    return PresetTrainee(ClipOptions(model="emollama-8b", weights=weights, **changes), LABELS)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [0, 4])
def test_published_folders_are_read_trained_on_and_merged(weights: str, bits: int, tmp_path: Path) -> None:
    if bits:
        pytest.importorskip("bitsandbytes", reason="4 bits need the extra 'gpu'")
    trainee = make(weights, bits=bits)
    sound = Audio(samples=np.sin(np.arange(8_000) / 9).astype(np.float32))
    reading = trainee.read(Clip(name="made", seconds=0.5, audio=sound))
    assert reading.tokens["voice"].shape == (25, WIDTH)  # 50 a second, not those of the padding to 30 s
    model = trainee.build_model(lora=LORA, train_projectors=True, seed=0)
    assert is_quantized(model.backbone) == bool(bits)
    assert next(model.backbone.get_base_model().model.norm.parameters()).dtype == torch.bfloat16
    given = Sample(id="a", clip="a.wav", label="bored", transcript="well")
    example = trainee.examples(given, reading, present=("voice", "words"), rng=Random(0), training=True)[0]
    assert example.ids.count(trainee.renderer.placeholder_ids["voice"]) == 4  # the resampler's, not the encoder's 25
    batch = collate([example, example], pad_id=trainee.pad_id, label_token_ids=())
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss, _ = model.train().answer_loss(batch.inputs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02
    prompt = trainee.examples(given, reading, present=("voice", "words"), rng=Random(0), training=False)
    assert np.isfinite(trainee.label_scores(model.eval(), prompt)).all()
    trainee.export(model, tmp_path / "ft", outcome=Outcome(recipe="debug"))
    info = AdapterInfo.load(tmp_path / "ft")
    assert info is not None
    llama = tmp_path / "llama"
    assert info.base_sha256 == base_digest(llama, llama / "tokenizer.json")
    out = merge(tmp_path / "ft", tmp_path / "whole", base=str(llama))
    assert (out / "backbone" / "tokenizer.json").is_file()
    (llama / "tokenizer.json").write_text((llama / "tokenizer.json").read_text() + "\n")
    with pytest.raises(CheckpointError, match="was trained on emollama-8b"):
        make(weights, adapter=str(tmp_path / "ft")).build_model(lora=LORA, train_projectors=True, seed=0)


def test_the_caches_key_changes_with_an_encoder_and_not_with_the_backbone(weights: str, tmp_path: Path) -> None:
    before = make(weights).version
    (tmp_path / "llama" / "config.json").touch()
    save_llama(build_llama(make(weights).config.backbone, seed=9), tmp_path / "llama",
               shape=make(weights).config.backbone)  # fmt: skip
    assert make(weights).version == before
    shape = WhisperShape(num_mels=80, width=WIDTH, num_heads=2, num_layers=1)
    write_tensors(tmp_path / "whisper" / "encoder.safetensors", WhisperShapedEncoder(shape).state_dict())
    assert make(weights).version != before


def test_a_backbone_without_its_tokenizer_is_refused(weights: str, tmp_path: Path) -> None:
    (tmp_path / "llama" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        make(weights)


def test_a_merged_folder_and_an_adapter_with_its_weights_beside_it_answer_alike(weights: str, tmp_path: Path) -> None:
    """Neither is told where the encoders are: they lie, or are linked to, in the folder's ``weights``."""
    trainee = make(weights)
    model = trainee.build_model(lora=LORA, train_projectors=True, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
    adapter, llama = tmp_path / "ft", tmp_path / "llama"
    trainee.export(model, adapter, outcome=Outcome(recipe="debug"))
    whole = merge(adapter, tmp_path / "whole", base=str(llama))
    with pytest.raises(DependencyError, match="whisper-large-v3"):
        Analyzer.load(whole)
    for folder in (adapter, whole):
        (folder / "weights").mkdir()
        (folder / "weights" / "whisper-large-v3").symlink_to(tmp_path / "whisper")
    (adapter / "weights" / "llama-3.1-8b-instruct").symlink_to(llama)
    time = np.arange(16_000) / 16_000
    voice = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 20)) * (0.2 + 0.1 * np.sin(8 * np.pi * time))
    clip = Clip(name="made", seconds=1.0, audio=Audio(samples=(0.3 * voice).astype(np.float32)))
    answers = [Analyzer.load(folder).analyze(clip, transcript="well") for folder in (adapter, whole)]
    assert all(answer.modalities.audio.used for answer in answers)
    one, other = (dict(answer.emotion.scores) for answer in answers)
    assert set(one) == set(LABELS)
    assert one == pytest.approx(other, abs=1e-3)
    assert [answer.adapter for answer in answers] == ["ft", None]
    assert [answer.model for answer in answers] == ["emollama-8b", "whole"]
    (llama / "tokenizer.json").write_text((llama / "tokenizer.json").read_text() + "\n")
    with pytest.raises(CheckpointError, match="was trained on another 'emollama-8b'"):
        Analyzer.load(adapter)
