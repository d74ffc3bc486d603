"""Recipes align and instruct on pools the test makes: what is trained, what is masked, and that two steps run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

import train.loop
from emollama.backbones.llama import build_llama, save_llama
from emollama.config import LlamaShape
from emollama.labels import EMODB_6, NANO_LABELS
from emollama.model import EmoLlama
from emollama.prompt import Renderer
from train.builders.cues import SUBSETS
from train.builders.instruct import Composer, Pools
from train.builders.pools import FacePool, VoicePool, WordsPool
from train.composed_task import ComposedOptions, ComposedTask
from train.recipes import load_recipe

TOKENIZER = Path("emollama/assets/nano/tokenizer.json")
COMMENTS = {
    "anger": "I hate this so much", "disgust": "that is revolting", "fear": "I am scared of it",
    "happiness": "I love it",
    "sadness": "I miss her", "surprise": "wow, really?", "neutral": "it is on the table",
}  # fmt: skip
FINE = {"happiness": "joy"}


def make_pools(seed: int = 0) -> Pools:
    """Pools in which every token says its class plainly, so that a few steps can learn something."""
    rng = np.random.default_rng(seed)
    eye = np.eye(len(NANO_LABELS), dtype=np.float32)
    faces = np.repeat(np.arange(8), 4)
    opinion = 0.9 * eye[faces] + 0.1 / 8
    face = FacePool(
        tokens=np.concatenate([rng.normal(size=(32, 4)), np.log(opinion)], axis=1).astype(np.float32),
        probabilities=opinion,
        targets=opinion,
    )
    voices = np.repeat(np.arange(6), 3)
    heard = 0.9 * np.eye(6, dtype=np.float32)[voices] + 0.1 / 6
    voice = VoicePool(
        names=tuple(f"clip{i}" for i in range(18)),
        tokens=np.concatenate([np.log(heard), rng.normal(size=(18, 5))], axis=1).astype(np.float32),
        probabilities=heard,
        emotions=tuple(EMODB_6[i] for i in voices),
        speakers=("03",) * 18,
        spans=np.tile(np.array([[0.2, 1.9]], np.float32), (18, 1)),
        levels=({"pitch": "high", "loudness": "medium", "rate": "low"},) * 18,
    )
    names = [name for name in COMMENTS for _ in range(2)]
    words = WordsPool(
        texts=tuple(COMMENTS[name] for name in names),
        fine=tuple((FINE.get(name, name),) for name in names),
        targets=np.stack([eye[NANO_LABELS.index(name)] for name in names]),
    )
    return Pools(face=face, voice=voice, words=words)


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    vocabulary = Renderer.load(TOKENIZER).tokenizer.get_vocab_size()
    shape = LlamaShape(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2, num_kv_heads=2,
        tie_embeddings=True,
    )  # fmt: skip
    save_llama(build_llama(shape, seed=0), tmp_path / "backbone", shape=shape)
    return tmp_path / "backbone"


def make_task(recipe: str, backbone: Path, tmp_path: Path, **options: object) -> ComposedTask:
    config = load_recipe(recipe)
    assert isinstance(config.task, ComposedOptions)
    task = dataclasses.replace(
        config.task,
        backbone=str(backbone),
        tokenizer=str(TOKENIZER),
        projectors="",
        samples=16,
        valid_samples=14,
        **options,
    )
    config = dataclasses.replace(
        config,
        run_dir=str(tmp_path / recipe),
        export_dir=None,
        task=task,
        batch_size=8,
        epochs=1,
        warmup_steps=0,
        threads=1,
    )
    return ComposedTask(config, task, pools=(make_pools(), make_pools(1)))


@pytest.mark.parametrize("subset", SUBSETS)
def test_an_absent_modality_has_no_bracket_no_tokens_and_no_cue(subset: tuple[str, ...]) -> None:
    sample = Composer(make_pools()).draw(Random(3), subset=subset)  # type: ignore[arg-type]
    assert (sample.face_tokens is not None) == ("face" in subset)
    assert (sample.voice_token is not None) == ("voice" in subset)
    assert (sample.transcript is not None) == ("words" in subset)
    assert [name for name, there in sample.cues.present.items() if there] == list(subset)
    assert sample.target.sum() == pytest.approx(1.0)


def test_the_same_seed_draws_the_same_batches_and_any_batch_by_itself(backbone: Path, tmp_path: Path) -> None:
    task = make_task("nano_instruct", backbone, tmp_path)
    whole = [batch.inputs.input_ids for batch in task.batches(epoch=0, seed=5)]
    again = task.batches(epoch=0, seed=5)
    assert torch.equal(again[1].inputs.input_ids, whole[1])
    other = task.batches(epoch=1, seed=5)
    assert not torch.equal(other[0].inputs.input_ids, whole[0])


def test_only_answers_and_the_label_carry_loss(backbone: Path, tmp_path: Path) -> None:
    task = make_task("nano_instruct", backbone, tmp_path, dialogue_share=1.0, open_share=0.0)
    row = task.row(task.train, Random(1), training=True)
    answered = [token for token, is_answer in zip(row.ids, row.answer, strict=True) if is_answer]
    assert answered[-1] == task.renderer.stop_id
    assert row.ids[row.label_at] == task.renderer.token_id("<|label|>")
    assert not any(row.answer[: row.label_at + 1])


def test_align_trains_projectors_alone_and_instruct_adds_lora(backbone: Path, tmp_path: Path) -> None:
    aligned = make_task("nano_align", backbone, tmp_path).build_model()
    assert all(name.startswith("projectors.") for name, p in aligned.named_parameters() if p.requires_grad)
    tuned = make_task("nano_instruct", backbone, tmp_path).build_model()
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert any("lora_" in name for name in trained)
    assert all("lora_" in name or name.startswith("projectors.") for name in trained)


@pytest.mark.parametrize("recipe", ["nano_align", "nano_instruct"])
def test_two_steps_run_and_export_what_the_next_stage_reads(recipe: str, backbone: Path, tmp_path: Path) -> None:
    task = make_task(recipe, backbone, tmp_path)
    result = train.loop.run(task.config, task)
    assert result.steps == 2
    assert result.export is not None
    assert np.isfinite(result.metrics["nll"])
    model = task.build_model()
    assert isinstance(model, EmoLlama)
    model.load_projectors(result.export / "projectors.safetensors")
    assert (result.export / "adapter" / "adapter_model.safetensors").is_file() == (recipe == "nano_instruct")
