"""Folders in ABAW's layouts through all five tasks by the command line: crops, sound, heads, tuning, submission."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from emollama.abaw.heads import TunedHeads
from emollama.datasets import frame_scores, sound_features
from emollama.datasets.frame_scores import FrameScores
from emollama.datasets.sound_features import SoundFeatures
from emollama.encoders.face import FaceEncoder
from emollama.encoders.wav2vec2 import Wav2Vec2Encoder
from eval.cli import app as eval_app
from eval.submissions.formats import FORMATS
from tests.conftest import make_video, tone
from tests.train.abaw.abaw_folders import (
    COMPOUND,
    FRAMES,
    TRAIN,
    TRAIN_CLIPS,
    VALID_CLIPS,
    VALIDATION,
    make_affwild2,
    make_cexpr,
    make_vidmimic,
    write_list,
)
from train.cli import app as train_app

WITH_SOUND = ("1-30-1280x720", "7-60", "120", "5-60-1920x1080-1")  # the others have none


@dataclass(frozen=True)
class World:
    root: Path
    affwild2: Path
    cexpr: Path
    vidmimic: Path


def run(app, *arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def folders(root: Path) -> World:
    return World(
        root=root,
        affwild2=make_affwild2(root / "affwild2"),
        cexpr=make_cexpr(root / "cexpr"),
        vidmimic=make_vidmimic(root / "vidmimic"),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The folders, and readings as a face model would leave them: of the crops' frames, their classes in them."""
    made = folders(tmp_path_factory.mktemp("abaw"))
    for data, crops in ((made.affwild2, "cropped_aligned"), (made.cexpr, "cropped_aligned"), (made.vidmimic, "crops")):
        for folder in sorted((data / crops).iterdir()):
            frame_scores.write(data / "readings", drawn_readings(folder))
    for video in WITH_SOUND:
        sound_features.write(made.affwild2 / "sound", drawn_sound(video))
    for clip in TRAIN_CLIPS + VALID_CLIPS[:1]:
        sound_features.write(made.vidmimic / "sound", drawn_sound(clip))
    return made


def drawn_readings(folder: Path) -> FrameScores:
    """Ten outputs and six embeddings of a folder of crops, with the place of the bright bar in them."""
    rng = np.random.default_rng(sum(folder.name.encode()))
    frames = np.array(sorted(int(path.stem) for path in folder.glob("*.jpg")), np.int64)
    bars = [np.asarray(Image.open(folder / f"{number:05d}.jpg"))[16, :, 0].argmax() // 4 for number in frames]
    scores = rng.normal(size=(len(frames), 10))
    scores[np.arange(len(frames)), bars] += 1.5
    return FrameScores(
        video=folder.name,
        frames=frames,
        scores=scores.astype(np.float32),
        embeddings=(rng.normal(size=(len(frames), 6)) + np.array(bars).reshape(-1, 1) / 4).astype(np.float32),
    )


def drawn_sound(video: str) -> SoundFeatures:
    rng = np.random.default_rng(sum(video.encode()))
    return SoundFeatures(
        video=video, times=0.05 + 0.1 * np.arange(10), features=rng.normal(size=(10, 5)).astype(np.float32), fps=30.0
    )


def train(world: World, task: str, *overrides: str) -> Path:
    data = world.vidmimic if task == "emi" else world.affwild2
    folder = world.root / "runs" / task
    run(
        train_app, f"abaw_{task}", f"task.data={data}", f"task.scores={data / 'readings'}", f"run_dir={folder}",
        "epochs=2", "batch_size=32", "device=cpu", *overrides,
    )  # fmt: skip
    return folder / "export"


def rows_of(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


TASKS = {  # whether sound is listened to, and what else is set
    "expr": (False, ["task.strides=[10,5,1]", "task.reach=10"]),
    "va": (True, []),
    "au": (False, []),
    "ce": (False, []),
    "emi": (True, []),
}


@pytest.mark.parametrize("task", TASKS)
def test_from_folders_to_the_submission(world: World, task: str) -> None:
    go_through(world, task)


@pytest.mark.slow
def test_from_pictures_and_videos_to_five_submissions(tmp_path: Path) -> None:
    """The same with a face model that really reads the crops, and a wav2vec 2.0 that hears the videos, both tiny."""
    made = folders(tmp_path)
    torch.manual_seed(0)
    FaceEncoder.build("enet_b0_8_va_mtl", debug=True).save(tmp_path / "face.safetensors")
    Wav2Vec2Encoder.build(debug=True).model.save_pretrained(tmp_path / "wav2vec2")
    (made.affwild2 / "batch1").mkdir()
    (made.vidmimic / "clips").mkdir()
    for video in WITH_SOUND:
        make_video(
            made.affwild2 / "batch1" / f"{video}.mp4", seconds=1.0, fps=30, audio=tone(1.0, hz=20.0 * len(video))
        )
    for clip in TRAIN_CLIPS + VALID_CLIPS[:1]:
        sound = tone(0.6, hz=150.0 + 50.0 * int(clip))
        make_video(made.vidmimic / "clips" / f"{clip}.mp4", seconds=0.6, fps=10, audio=sound)
    for data, crops in ((made.affwild2, "cropped_aligned"), (made.cexpr, "cropped_aligned"), (made.vidmimic, "crops")):
        run(eval_app, "read-crops", tmp_path / "face.safetensors", data / crops, data / "readings")
    for data in (made.affwild2, made.vidmimic):
        run(eval_app, "read-sound", "wav2vec2", data, data / "sound", "--weights", tmp_path / "wav2vec2")
    assert {path.stem for path in (made.affwild2 / "sound").iterdir()} == set(WITH_SOUND)
    for task in TASKS:
        go_through(made, task)


def go_through(world: World, task: str) -> None:
    """Train, tune, submit, and check what was written."""
    with_sound, overrides = TASKS[task]
    data = {"ce": world.cexpr, "emi": world.vidmimic}.get(task, world.affwild2)
    sound = data / "sound"
    export = train(world, task, *overrides, *([f"task.sound={sound}"] if with_sound else []))
    heads = TunedHeads.load(export)
    assert heads.task == task
    assert (heads.sound is not None) == with_sound
    report = json.loads((export / "report.json").read_text("utf-8"))
    assert report["tuning"]["tuned"] >= report["tuning"]["untuned"]
    assert (report["reported"] is None) == (task == "ce")
    if task != "ce":
        assert report["reported"]["videos"] == 3
    out = world.root / f"{task}.txt"
    if task == "emi":
        listed: tuple[str, ...] = VALID_CLIPS
        wanted = world.root / "test_split.csv"
        wanted.write_text("\n".join(["Filename", *listed]) + "\n")
    else:
        videos = COMPOUND if task == "ce" else VALIDATION
        listed = tuple(f"{video}/{number:05d}.jpg" for video in videos for number in range(1, FRAMES + 2))
        wanted = write_list(world.root / f"{task}-list.txt", videos)
    said = run(
        eval_app, "submit", task, "--head", export, "--scores", data / "readings", "--list", wanted, "--output", out,
        *(["--sound", sound] if with_sound else []),
    )  # fmt: skip
    header, rows = rows_of(out)
    assert tuple(header) == FORMATS[task].header
    assert [row[0] for row in rows] == list(listed)  # every listed frame, also those without a face
    cells = np.array([[float(cell) for cell in row[1:]] for row in rows])
    width, low, high = {"expr": (1, 0, 7), "va": (2, -1, 1), "au": (12, 0, 1), "ce": (1, 0, 6), "emi": (6, 0, 1)}[task]
    assert cells.shape == (len(listed), width)
    assert cells.min() >= low
    assert cells.max() <= high
    if task == "expr":
        assert heads.plan.rate is not None
        assert "frames read at the adaptive rate" in said
        assert report["adaptive_rate"][0]["frames_read"] <= 1.0
    if task == "ce":
        assert "divergence" in said


def test_the_finished_heads_are_the_same_whatever_the_reported_part_says(world: World, tmp_path: Path) -> None:
    """Spoil, then remove the annotations of the part that is reported on: nothing that was trained or tuned moves."""
    exports = {}
    for name in ("true", "spoilt", "absent"):
        data = make_affwild2(tmp_path / name, annotated=("train",) if name == "absent" else ("train", "validation"))
        if name == "spoilt":
            folder = data / "6th_ABAW_Annotations" / "EXPR_Recognition_Challenge" / "Validation_Set"
            for file in folder.glob("*.txt"):
                header, *rows = file.read_text().splitlines()
                file.write_text("\n".join([header, *("-1" if row == "-1" else "7" for row in rows)]) + "\n")
        run(
            train_app, "abaw_expr", f"task.data={data}", f"task.scores={world.affwild2 / 'readings'}",
            f"run_dir={tmp_path / 'runs' / name}", "epochs=1", "batch_size=32", "device=cpu",
            *(["task.reported="] if name == "absent" else []),
        )  # fmt: skip
        exports[name] = tmp_path / "runs" / name / "export"
    for file in ("face.safetensors", "face.json", "plan.json"):
        assert len({(export / file).read_bytes() for export in exports.values()}) == 1
    reports = {name: json.loads((export / "report.json").read_text("utf-8")) for name, export in exports.items()}
    assert reports["true"]["reported"] != reports["spoilt"]["reported"]
    assert reports["absent"]["reported"] is None
    assert not set(reports["true"]["held_back"]) & set(VALIDATION)
    assert set(reports["true"]["held_back"]) < set(TRAIN)
