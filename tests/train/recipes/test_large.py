"""The recipes of the large presets: the published numbers, and two whole steps of each at debug size."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from emollama.adapter import AdapterInfo
from emollama.analyze import Analyzer
from emollama.backbones.lora import read_adapter_config
from emollama.config import LORA_TARGETS
from emollama.errors import CheckpointError
from train.config import TrainConfig
from train.loop import RunResult, run
from train.merge import merge
from train.optimizer import learning_rate
from train.recipes import load_recipe


@pytest.fixture
def manifest(tmp_path: Path, media: Any) -> Path:
    """Six clips of two labels, with sound, words and a reason; one of each label is for validation."""
    lines = []
    for index in range(6):
        name, label = f"{index}.wav", ("happy", "sad")[index % 2]
        media.wav(tmp_path / name, samples=media.tone(0.4, hz=200.0 + 60 * index))
        reason = [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": f"The voice is {('high', 'low')[index % 2]}."},
        ]
        split = "valid" if index >= 4 else "train"
        row = {"id": str(index), "clip": name, "label": label, "transcript": "well", "split": split, "messages": reason}
        lines.append(json.dumps(row))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def two_steps(name: str, manifest: Path, **task: object) -> tuple[RunResult, TrainConfig]:
    config = load_recipe(name)
    folder = manifest.parent
    config = dataclasses.replace(
        config,
        run_dir=str(folder / name),
        max_steps=2,
        epochs=2,
        batch_size=min(config.batch_size, 2),
        accumulate_steps=2,
        task=dataclasses.replace(
            config.task, manifest=str(manifest), cache=str(folder / "features"), read_workers=1, **task
        ),
    )
    return run(config, config.task.build(config)), config


def test_qlora_takes_two_steps_through_four_bits(manifest: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="4 bits need the extra 'gpu'")
    result, _ = two_steps("qlora", manifest, debug=True)
    assert result.steps == 2
    assert 0.0 <= result.metrics["macro_f1"] <= 1.0
    assert result.export is not None
    assert read_adapter_config(result.export).targets == LORA_TARGETS
    info = AdapterInfo.load(result.export)
    assert info is not None
    assert (info.base, info.labels, info.recipe) == ("emollama-8b", ("happy", "sad"), "qlora")


def test_what_qlora_exports_is_answered_from_and_merged(manifest: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="4 bits need the extra 'gpu'")
    result, _ = two_steps("qlora", manifest, model="nano")
    assert result.export is not None
    words = "what a wonderful day this is"
    both = Analyzer.load("nano", adapter=result.export).analyze(None, transcript=words)
    one = Analyzer.load(merge(result.export, manifest.parent / "whole")).analyze(None, transcript=words)
    assert set(one.emotion.scores) == {"happy", "sad"}
    assert one.emotion.scores == pytest.approx(dict(both.emotion.scores), abs=1e-5)
    assert one.rationale == both.rationale


def test_emotion_llama_goes_through_both_stages(manifest: Path) -> None:
    first, config = two_steps("emotion_llama_stage1", manifest, debug=True)
    assert first.export is not None
    second, _ = two_steps("emotion_llama_stage2", manifest, debug=True, adapter=str(first.export))
    assert second.steps == 2
    assert second.export is not None
    assert read_adapter_config(second.export) == config.task.lora
    shutil.rmtree(first.export)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        two_steps("emotion_llama_stage2", manifest, debug=True, adapter=str(first.export))


def test_emotion_llama_has_the_published_schedule() -> None:
    first, second = load_recipe("emotion_llama_stage1"), load_recipe("emotion_llama_stage2")
    rates = [learning_rate(first, step=step, total_steps=30_000) for step in (0, 500, 999, 15_500, 29_999)]
    assert rates == pytest.approx([1.009e-6, 5.509e-6, 1e-5, 5.5e-6, 1e-6], rel=1e-3)
    assert {learning_rate(second, step=step, total_steps=30_000) for step in (0, 500, 999, 15_500, 29_999)} == {1e-6}
    for config in (first, second):
        assert (config.max_steps, config.batch_size * config.accumulate_steps) == (30_000, 4)
        assert (config.weight_decay, config.betas, config.clip_norm) == (0.05, (0.9, 0.999), None)
        lora = config.task.lora
        assert (lora.rank, lora.alpha, lora.dropout, lora.targets) == (64, 16.0, 0.05, ("q_proj", "v_proj"))
    assert (first.task.task, second.task.task) == ("emotion", "reason")
    assert second.task.adapter == f"{first.run_dir}/export"


def test_qlora_is_that_of_the_paper() -> None:
    config = load_recipe("qlora")
    assert (config.task.bits, config.task.lora.rank, config.task.lora.alpha) == (4, 64, 16.0)
    assert (config.learning_rate, config.schedule, config.clip_norm) == (2e-4, "constant", 0.3)
    assert config.batch_size * config.accumulate_steps == 16
