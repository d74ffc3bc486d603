"""ABAW's EXPR on real faces without Aff-Wild2: FER+ stills strung together to videos in its layout.

    python tools/abaw_on_ferplus.py --data ../shared/data --json docs/logs/abaw-ferplus.json

A video is 150 frames, runs of 10 to 40 pictures that one majority vote gives the same label, one in ten without a face
and one in ten without annotation; contempt stands for "other". Only FER+'s validation pictures are used, which the
shipped face model has not learned from, and each video has pictures of its own. So neighbouring frames share an
expression but neither person nor light, and runs of one label are as long as they were drawn: what smoothing brings
here says nothing of what it brings on real videos. The way is that of the
commands: crops, readings, recipe ``abaw_expr``, report. A seed draws videos, held-back part, first weights and order.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emollama.abaw.answers import without_heads
from emollama.checkpoint import ASSETS
from emollama.datasets import ferplus
from emollama.datasets.aff_wild2 import HEADERS
from emollama.encoders.face import FaceEncoder
from emollama.labels import ABAW_8, NANO_LABELS
from eval.report import provenance, write_json
from eval.submissions.read_crops import read_folder
from train.abaw.report import figure_of
from train.abaw.task import AbawTask
from train.config import TrainConfig
from train.loop import run
from train.recipes import load_recipe

FRAMES, VIDEOS = 150, {"Train_Set": 30, "Validation_Set": 15}
STRIDES, REACH = (8, 4, 1), 8  # runs are shorter than a hundred frames


def draw_folders(root: Path, faces: ferplus.FerPlus, seed: int) -> None:
    """Write annotations and crops of all videos; no picture is in two of them."""
    rng = np.random.default_rng(seed)
    known = rng.permutation(np.flatnonzero(faces.majority >= 0))
    chunks = iter(np.array_split(known, sum(VIDEOS.values())))
    classes = np.array([ABAW_8.index({"contempt": "other"}.get(name, name)) for name in NANO_LABELS])
    for part, count in VIDEOS.items():
        annotations = root / "annotations" / "EXPR_Recognition_Challenge" / part
        annotations.mkdir(parents=True)
        for index in range(count):
            own = next(chunks)
            pictures = {label: own[classes[faces.majority[own]] == label] for label in range(8)}
            labels = [label for label, found in pictures.items() if len(found)]
            video = f"{part[:5].lower()}-{index:02d}"
            runs: list[int] = []
            while len(runs) < FRAMES:
                runs += [int(rng.choice(labels))] * int(rng.integers(10, 41))
            truth = runs[:FRAMES]
            folder = root / "cropped" / video
            folder.mkdir(parents=True)
            for number, label in enumerate(truth, start=1):
                if rng.random() < 0.9:
                    picture = faces.images[rng.choice(pictures[label])]
                    Image.fromarray(picture).save(folder / f"{number:05d}.jpg", quality=95)
            rows = [-1 if rng.random() < 0.1 else label for label in truth]
            text = "\n".join([",".join(HEADERS["expr"]), *map(str, rows)])
            (annotations / f"{video}.txt").write_text(text + "\n", "utf-8")


def one(root: Path, seed: int, encoder: FaceEncoder) -> dict[str, Any]:
    """Return the figures of one seed."""
    for _ in read_folder(encoder, root / "cropped", root / "readings"):
        pass
    recipe = load_recipe("abaw_expr")
    found: dict[str, Any] = {"seed": seed}
    for name, strides in (("smoothed", ()), ("adaptive", STRIDES)):
        options = dataclasses.replace(
            recipe.task, data=str(root), scores=str(root / "readings"), tuning_seed=seed, strides=strides, reach=REACH
        )
        config: TrainConfig = dataclasses.replace(
            recipe, task=options, seed=seed, run_dir=str(root / "runs" / name), device="cpu", batch_size=64
        )
        task = AbawTask(config, options)
        export = run(config, task).export
        assert export is not None
        report = json.loads((export / "report.json").read_text("utf-8"))
        plan = json.loads((export / "plan.json").read_text("utf-8"))["plan"]
        found[name] = {"tuning": report["tuning"], "reported": report["reported"], "plan": plan}
        found[name]["adaptive_rate"] = report["adaptive_rate"]
        reported = task.truth_of_reported()
        assert reported is not None
        found["zero_shot"] = round(figure_of(without_heads("expr"), task, reported), 6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    faces = ferplus.load(options.data, "valid")
    encoder = FaceEncoder.load(ASSETS / "nano" / "face.safetensors", flip=False)
    began, rows = time.time(), []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            draw_folders(Path(folder), faces, seed)
            rows.append(one(Path(folder), seed, encoder))
    figures = {
        "zero_shot": [row["zero_shot"] for row in rows],
        "head": [row["smoothed"]["reported"]["untuned"] for row in rows],
        "tuned": [row["smoothed"]["reported"]["tuned"] for row in rows],
        "tuned_on_held_back": [row["smoothed"]["tuning"]["tuned"] for row in rows],
        "adaptive": [row["adaptive"]["reported"]["tuned"] for row in rows],
    }
    summary = {
        name: {"mean": round(float(np.mean(values)), 4), "spread": round(float(np.std(values, ddof=1)), 4)}
        for name, values in figures.items()
        if len(values) > 1
    }
    result = {"figure": "macro_f1", "summary": summary, "seeds": rows, "seconds": round(time.time() - began, 1)}
    write_json(options.json, {"task": "abaw_on_ferplus", **provenance(), "result": result})


if __name__ == "__main__":
    main()
