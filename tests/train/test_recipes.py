"""Recipes: every entry is a whole config; the face recipe trains two steps on a tiny FER+."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from emollama.encoders.face import FaceEncoder, imagenet_normalise, preprocess
from emollama.errors import InputError, UnknownNameError
from train.cli import app
from train.config import TrainConfig, override
from train.recipes import RECIPES, load_recipe
from train.recipes.hsemotion_face import HsemotionFaceOptions
from train.recipes.nano_face import augment


def write_ferplus(data: Path, *, rows: int = 24) -> None:
    """A folder with FER+ files: bright pictures are happy, dark ones sad."""
    (data / "faces").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split in ("train", "valid"):
        table = {"name": [], "png": [], "votes": []}
        for index in range(rows):
            picture = generator.integers(0, 100, (48, 48), np.uint8) + np.uint8(100 * (index % 2))
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "png")
            table["name"].append(f"{split}{index}")
            table["png"].append(buffer.getvalue())
            table["votes"].append([0, 8, 0, 2, 0, 0, 0, 0, 0, 0] if index % 2 else [2, 0, 0, 8, 0, 0, 0, 0, 0, 0])
        parquet.write_table(pa.table(table), data / "faces" / f"ferplus-{split}.parquet")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_whole_config_that_bears_its_name(name):
    config = load_recipe(name)
    assert isinstance(config, TrainConfig)
    assert config.recipe == name
    assert config.to_json_dict()["task"]


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="face"):
        load_recipe("fase")


def test_the_face_recipe_trains_two_steps_and_what_it_exports_loads(tmp_path):
    write_ferplus(tmp_path / "data")
    arguments = [
        "nano_face",
        "task.debug=true",
        "batch_size=8",
        "max_steps=2",
        "threads=0",
        f"run_dir={tmp_path / 'run'}",
    ]
    arguments.append(f"export_dir={tmp_path / 'export'}")  # the recipe itself writes into the package
    done = CliRunner().invoke(app, [*arguments, "--data", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    assert "2 steps" in done.output
    assert "accuracy" in done.output
    encoder = FaceEncoder.load(tmp_path / "export" / "face.safetensors")
    assert encoder.embed(np.zeros((2, 60, 60, 3), np.uint8)).log_probabilities.shape == (2, 8)


def test_the_efficientnet_recipe_learns_from_votes_and_teacher_and_exports_its_own_order_of_labels(tmp_path):
    write_ferplus(tmp_path / "data")
    arguments = ["hsemotion_face", "task.debug=true", "batch_size=8", "max_steps=2", f"run_dir={tmp_path / 'run'}"]
    done = CliRunner().invoke(app, [*arguments, "--data", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    encoder = FaceEncoder.load(tmp_path / "run" / "export" / "enet_b0_8_va_mtl.safetensors")
    assert encoder.config.labels[0] == "anger"
    assert encoder.config.size == 64
    assert np.isfinite(encoder.embed(np.zeros((2, 60, 60, 3), np.uint8)).log_probabilities).all()
    further = override(
        load_recipe("hsemotion_face"), [f"task.start={tmp_path}/run/export", f"task.data={tmp_path}/data"]
    )
    begun = further.task.build(further).build_model().state_dict()
    assert all(torch.equal(begun[name], tensor) for name, tensor in encoder.model.state_dict().items())


def test_another_backbone_learns_from_the_same_pictures_in_its_own_colours(tmp_path):
    write_ferplus(tmp_path / "data", rows=8)
    arguments = ["hsemotion_face", "task.debug=true", "batch_size=4", "max_steps=2", f"run_dir={tmp_path / 'run'}"]
    arguments += ["task.model=mbf_va_mtl", "task.sizes=[112]", "task.shares=[1]"]
    done = CliRunner().invoke(app, [*arguments, "--data", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    assert FaceEncoder.load(tmp_path / "run" / "export" / "mbf_va_mtl.safetensors").config.colour == "half"
    config = override(
        load_recipe("hsemotion_face"), [*arguments[1:-3], *arguments[-3:], f"task.data={tmp_path / 'data'}"]
    )
    task = config.task.build(config)
    inputs = task.batches(epoch=0, seed=0)[0].inputs
    assert inputs.shape[-1] == 112
    assert -1.0 <= inputs.min() < -0.5 < 0.2 < inputs.max() <= 1.0
    # the teacher sees the same picture, however the student has it
    grey = override(config, ["task.model=ddamfnet_8"]).task.build(config)
    assert torch.allclose(task._opinion(inputs), grey._opinion(imagenet_normalise((inputs + 1) / 2)), atol=1e-4)
    for wrong, message in (
        (["task.model=mbf_va_mtl"], r"sizes are \(64, 96, 112\); allowed with mbf_va_mtl: 112 alone"),
        (["task.model=enet_b0_7"], r"model is 'enet_b0_7'; allowed: enet_b0_8,"),
        (["task.model=nano-face"], r"model is 'nano-face'; allowed: enet_b0_8,"),
    ):
        with pytest.raises(InputError, match=message):
            override(load_recipe("hsemotion_face"), wrong)


def test_the_teachers_opinion_comes_in_the_students_order(tmp_path):
    write_ferplus(tmp_path)
    changes = ["batch_size=8", "task.debug=true", f"task.data={tmp_path}"]
    task = override(load_recipe("hsemotion_face"), changes).task.build(load_recipe("hsemotion_face"))
    crops = np.stack([task.valid.images[..., None].repeat(3, axis=3)[n] for n in range(4)])
    told = task.teacher.model(preprocess(crops, task.teacher.config)).logits.softmax(1)
    opinion = task._opinion(preprocess(crops, task.model_config))
    labels = task.model_config.labels
    likeliest = [task.teacher.config.labels[int(n)] for n in told.argmax(1)]
    assert [labels[int(n)] for n in opinion.argmax(1)] == likeliest
    assert torch.allclose(opinion.sum(1), torch.ones(4))


def test_pictures_grow_over_the_run_and_options_out_of_range_are_told():
    options = HsemotionFaceOptions(sizes=(64, 96, 112), shares=(0.5, 0.25, 0.25))
    assert [options.size_at(epoch / 8) for epoch in range(8)] == [64, 64, 64, 64, 96, 96, 112, 112]
    for wrong in ({"shares": (1.0,)}, {"sizes": (16, 64, 112)}, {"teacher_share": 1.5}):
        with pytest.raises(InputError, match="allowed"):
            HsemotionFaceOptions(**wrong)


def test_the_same_batch_comes_again_for_the_same_seed_and_epoch(tmp_path):
    write_ferplus(tmp_path)
    config = override(
        load_recipe("nano_face"), ["batch_size=8", "epochs=2", "task.debug=true", f"task.data={tmp_path}"]
    )
    task = config.task.build(config)
    first, again = task.batches(epoch=0, seed=3), task.batches(epoch=0, seed=3)
    assert len(first) == 3
    listed = list(again)
    assert torch.equal(first[2].inputs, listed[2].inputs)
    assert not torch.equal(first[1].inputs, task.batches(epoch=1, seed=3)[1].inputs)
    assert first[0].inputs.shape[-1] == 40  # coarse first
    assert task.batches(epoch=1, seed=3)[0].inputs.shape[-1] == 48
    assert torch.allclose(first[0].targets.sum(1), torch.ones(8))


def test_augmented_pictures_are_standardised_and_differ():
    images = torch.randint(0, 255, (6, 48, 48), dtype=torch.uint8)
    pictures = [augment(images, size=48, generator=torch.Generator().manual_seed(s), cutout=0.5) for s in range(6)]
    for picture in pictures:
        assert picture.shape == (6, 1, 48, 48)
        assert picture.mean((1, 2, 3)).abs().max() < 1e-4
        assert torch.allclose(picture.square().mean((1, 2, 3)), torch.ones(6), atol=1e-3)
    assert not torch.equal(pictures[0], pictures[1])


def test_the_command_lists_recipes_and_reports_errors():
    runner = CliRunner()
    assert "face" in runner.invoke(app, []).output
    wrong = runner.invoke(app, ["fase"])
    assert wrong.exit_code == 2
    assert "unknown recipe" in wrong.output
    odd = runner.invoke(app, ["nano_face", "--manifest", "clips.jsonl"])
    assert odd.exit_code == 2
    assert "nano_face learns from raw data" in odd.output
    missing = runner.invoke(app, ["nano_face", "run_dir=/nonexistent/x", "--data", "/nonexistent"])
    assert missing.exit_code == 2
    assert "--data" in missing.output
