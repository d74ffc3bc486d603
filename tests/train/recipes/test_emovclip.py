"""The two recipes of EmoVCLIP on a tiny FER+ and on a manifest, the clips made of stills, and the captions."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from emollama.datasets import ferplus
from emollama.encoders.clip_backbone import ClipBackbone, ClipShape, build_clip, save_clip
from emollama.encoders.clip_prompts import PromptSettings
from emollama.encoders.emovclip import EmoVclipEncoder
from emollama.errors import DatasetError, InputError
from train.config import TrainConfig
from train.loop import run
from train.recipes import load_recipe
from train.recipes.emovclip_clip import EmoVclipClipOptions
from train.recipes.face_captions import caption
from train.recipes.face_clips import LABELS, SHARES, equalised, make_clips, moved, rows_of

SHAPE = ClipShape(
    embed_dim=16, image_size=48, patch_size=12, vision_width=32, vision_layers=2, text_width=32, text_layers=2,
    head_width=16, context_length=20,
)  # fmt: skip
PROMPTS = PromptSettings(vision_tokens=2, vision_depths=(0, 1), text_tokens=2, text_depths=(0, 1))
VOTES = ([0, 8, 0, 2, 0, 0, 0, 0, 0, 0], [2, 0, 0, 8, 0, 0, 0, 0, 0, 0], [8, 0, 0, 2, 0, 0, 0, 0, 0, 0])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FER+ files of three expressions, told apart by where the picture is bright."""
    folder = tmp_path_factory.mktemp("ferplus")
    (folder / "faces").mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "valid"):
        rows: dict[str, list[object]] = {"name": [], "png": [], "votes": []}
        for index in range(150 if split == "train" else 30):
            picture = rng.integers(0, 100, (48, 48), np.uint8)
            picture[16 * (index % 3) : 16 * (index % 3) + 16] += np.uint8(120)
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "png")
            rows["name"].append(f"{split}{index}")
            rows["png"].append(buffer.getvalue())
            rows["votes"].append(VOTES[index % 3])
        parquet.write_table(pa.table(rows), folder / "faces" / f"ferplus-{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    save_clip(build_clip(SHAPE.to_open_clip()), SHAPE.to_open_clip(), folder)
    return folder


def changed(name: str, run_dir: Path, *, task: dict[str, object], **changes: object) -> TrainConfig:
    config = load_recipe(name)
    small = {"run_dir": str(run_dir), "epochs": 1, "max_steps": 2, "batch_size": 12, "threads": 0, **changes}
    return dataclasses.replace(config, task=dataclasses.replace(config.task, **task), **small)


def test_both_recipes_train_two_steps_one_on_the_other(data: Path, tmp_path: Path) -> None:
    config = changed("emovclip_clip", tmp_path / "clip", task={"data": str(data), "shape": SHAPE})
    done = run(config, config.task.build(config))
    assert done.steps == 2
    assert 0.0 <= done.metrics["macro_f1"] <= 1.0
    base = ClipBackbone.load(tmp_path / "clip" / "export")

    options = {
        "data": str(data), "backbone": str(tmp_path / "clip" / "export"), "prompts": PROMPTS, "clips_per_class": 8,
    }  # fmt: skip
    config = changed("emovclip", tmp_path / "prompts", task=options)
    task = config.task.build(config)
    done = run(config, task)
    assert {"accuracy", "macro_f1", "waf"} <= set(done.metrics)
    loaded = EmoVclipEncoder.load(tmp_path / "prompts" / "export", backbone=base)
    assert loaded.labels == LABELS
    begun = task.build_model().state_dict()
    assert all(not torch.equal(value, begun[name]) for name, value in loaded.model.state_dict().items())
    assert ClipBackbone.load(tmp_path / "clip" / "export").sha256 == base.sha256


def test_prompts_learn_what_a_random_backbone_does_not_know(data: Path, backbone: Path, tmp_path: Path) -> None:
    options = {"data": str(data), "backbone": str(backbone), "prompts": PROMPTS, "clips_per_class": 16}
    config = changed("emovclip", tmp_path, task=options, epochs=6, max_steps=None, warmup_steps=0, learning_rate=0.02)
    task = config.task.build(config)
    before = task.validate(task.build_model().eval())
    assert run(config, task).metrics["macro_f1"] > before["macro_f1"] + 0.1


def test_clips_move_anew_in_each_epoch_and_alike_when_an_epoch_is_read_again(data: Path, backbone: Path) -> None:
    options = {"data": str(data), "backbone": str(backbone), "prompts": PROMPTS, "clips_per_class": 4}
    config = changed("emovclip", Path("unused"), task=options)
    task = config.task.build(config)
    first, again, second = (task.batches(epoch=epoch, seed=0).videos.read(range(12)).frames for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    still = dataclasses.replace(config.task, moves=False).build(config)
    kept = [still.batches(epoch=epoch, seed=0).videos.read(range(12)).frames for epoch in (0, 1)]
    assert np.array_equal(*kept)


def test_a_manifest_of_clips_is_learned_from_by_whole_videos(
    backbone: Path, tmp_path: Path, make_manifest: Callable[..., Path]
) -> None:
    manifest = make_manifest(clips=4, texts=0)
    options = {
        "backbone": str(backbone), "prompts": PROMPTS, "manifest": str(manifest), "validation": str(manifest),
        "cache": str(tmp_path / "cache"), "num_frames": 3, "balance": 1.0,
    }  # fmt: skip
    config = changed("emovclip", tmp_path / "run", task=options, batch_size=2)
    task = config.task.build(config)
    assert task.labels == ("boredom", "happiness")
    batch = task.batches(epoch=0, seed=0)[0]
    assert batch.pixels.shape == (2, 3, 3, 48, 48)
    assert bool(batch.present.all())
    run(config, task)
    export = EmoVclipEncoder.load(tmp_path / "run" / "export", backbone=backbone)
    frames = task.train.read([0]).frames[0]
    assert export.classify(frames).keys() == {"boredom", "happiness"}
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    config.task.build(config)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == kept
    words_only = make_manifest("words.jsonl", clips=0)
    with pytest.raises(DatasetError, match="no clip has both a face and a label"):
        dataclasses.replace(config.task, manifest=str(words_only), validation="").build(config)


def test_the_parts_of_fer_plus_share_no_picture_and_clips_keep_to_their_part(data: Path) -> None:
    faces = ferplus.load(data, "train")
    parts = {part: set(rows_of(faces, part).tolist()) for part in SHARES}
    assert sorted(row for rows in parts.values() for row in rows) == list(range(len(faces)))
    clips = make_clips(faces, rows_of(faces, "tune"), per_class=None, num_stills=2, num_frames=4)
    own = [sum(faces.majority[row] == label for row in parts["tune"]) for label in (0, 1, 3)]
    assert torch.bincount(clips.labels, minlength=6).tolist() == [own[0] // 2, own[1] // 2, 0, own[2] // 2, 0, 0]
    frames, present = clips.read([0])
    assert frames.shape == (1, 4, 48, 48, 3)
    assert bool(present.all())
    assert len({frame.tobytes() for frame in frames[0]}) == 4  # each frame is moved in its own way
    drawn = make_clips(faces, rows_of(faces, "tune"), per_class=5, seed=1)
    assert torch.bincount(drawn.labels).tolist() == [5, 5, 0, 5]
    again = make_clips(faces, rows_of(faces, "tune"), per_class=5, seed=1)
    assert np.array_equal(drawn.grey, again.grey)
    filmed_again = make_clips(faces, rows_of(faces, "tune"), per_class=5, seed=1, motion=2)
    assert torch.equal(filmed_again.labels, drawn.labels)
    change = np.abs(filmed_again.grey.astype(int) - drawn.grey).mean((1, 2, 3))
    other = np.abs(np.roll(drawn.grey, 1, axis=0).astype(int) - drawn.grey).mean((1, 2, 3))
    assert (change > 0).all()  # each frame is moved in another way...
    assert change.mean() < other.mean()  # ... and shows the same still
    with pytest.raises(InputError, match="allowed: 1 to 4"):
        make_clips(faces, rows_of(faces, "tune"), per_class=5, num_stills=5)
    with pytest.raises(InputError, match="backbone, tune, tune-valid"):
        rows_of(faces, "test")


def test_pictures_are_made_alike_in_light_and_moved_by_little() -> None:
    dark = torch.randint(0, 60, (2, 1, 48, 48), dtype=torch.uint8)
    same = equalised(dark).float()
    assert same.mean((-2, -1)).sub(115).abs().max() < 8
    assert equalised(torch.full((1, 48, 48), 9, dtype=torch.uint8)).unique().tolist() == [115]
    blob = torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    blob[..., 20:28, 20:28] = 255
    places = [moved(blob, seed=seed)[0, 0].nonzero().float().mean(0) for seed in range(8)]
    assert all(1.0 <= (place - 23.5).abs().max() <= 5.0 or (place - 23.5).abs().max() < 1.0 for place in places)
    assert torch.stack(places).std(0).min() > 0.3


def test_captions_name_an_expression_only_where_they_may() -> None:
    targets = np.eye(8, dtype=np.float32)[[1, 1, 4, 6]]
    affect = np.array([[0.8, 0.35], [0.8, 0.35], [-0.6, 0.65], [-0.6, 0.7]], np.float32)
    named = np.array([True, False, False, False])
    for seed in range(20):
        captions = caption(targets, affect, named, rng=np.random.default_rng(seed))
        texts = [captions.texts[index] for index in captions.right]
        assert any(word in texts[0] for word in ("happiness", "happy", "joy", "smile"))
        assert any(word in texts[1] for word in ("pleasant", "positive", "good"))
        assert texts[2] == texts[3]  # anger and fear, told by valence and arousal alone
        assert not any(word in texts[2] for word in ("anger", "angry", "rage", "fear", "afraid", "scared"))
        assert len(set(captions.texts)) == len(captions.texts) == 3
    with pytest.raises(InputError, match="allowed: 48"):
        EmoVclipClipOptions(shape=ClipShape(image_size=64))


def test_the_study_runs_whole_and_writes_its_figures(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "tools"))
    import emovclip_study

    log = tmp_path / "log.json"
    command = ["emovclip_study.py", "--data", str(data), "--runs", str(tmp_path), "--seeds", "0,1", "--max-steps", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--clips-per-class", "20", "--json", os.fspath(log)])
    monkeypatch.setattr(emovclip_study, "STRENGTHS", (0.01, 1.0))
    emovclip_study.main()
    result = json.loads(log.read_text())["result"]
    assert [(row["seed"], row["clips"]["train"]) for row in result["by_seed"]] == [(0, 60), (1, 60)]
    over = [row["prompts"]["macro_f1"] - row["probe"]["macro_f1"] for row in result["by_seed"]]
    assert result["prompts_over_probe"]["macro_f1"]["mean"] == pytest.approx(np.mean(over), abs=1e-4)
    assert result["by_seed"][0]["clips"]["test"] == 15
