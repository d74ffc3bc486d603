"""Prompts against a linear probe: what EmoVCLIP's tuning brings over the same frozen CLIP.

    python tools/emovclip_study.py --data ../shared/data --json docs/logs/emovclip.json

A small open_clip model is trained (recipe ``emovclip_clip``; one that is there is taken), then for each seed, on the
same clips made of FER+ stills that the backbone never saw: prompts (recipe ``emovclip``), and a logistic regression on
the frozen model's features, pooled over the same frames. The probe chooses among strengths of regularisation, between
two kinds of features (projected, as the prompts' own, and as wide as the tower), and whether it learns from the clips
as they are or from further motions of them too, as the prompts do; the prompts choose among epochs, both by WAF (as
MER ranks) on the same validation clips. The figures are of clips of FER+'s validation split. A seed draws the clips,
the prompts' first values and the order. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emollama.datasets import ferplus
from emollama.encoders.clip_prompts import PromptedClip, PromptSettings
from emollama.encoders.emovclip import EmoVclipEncoder
from eval.report import provenance, write_json
from train.config import TrainConfig
from train.loop import run
from train.recipes import load_recipe
from train.recipes.emovclip import EmoVclipTask, scores
from train.recipes.face_clips import LABELS, make_clips
from train.recipes.labelled_videos import LabelledVideos

STRENGTHS = tuple(float(c) for c in 10.0 ** np.arange(-6, 2, 0.5))  # scikit-learn's C: large is weak
MOTIONS = (0, 4)  # further motions of each training clip that the probe may learn from
WORDS = "a face that shows"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="Where the trainings lie.")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--clips-per-class", type=int, default=100, help="How many of a label are learned from.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=None, help="End every training early, to try the command.")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(given.threads)
    started = time.process_time()
    result = study(given)
    result["processor_seconds_of_this_call"] = round(time.process_time() - started, 1)
    typer.echo(json.dumps(result, indent=2))
    if given.json is not None:
        write_json(given.json, {"task": "emovclip_study", **provenance(), "result": result})


def study(given: argparse.Namespace) -> dict[str, Any]:
    """Train what is not there yet and return all figures."""
    clip = load_recipe("emovclip_clip")
    backbone = _train(clip, given, folder="emovclip-clip", changes={"data": str(given.data)})
    seeds = [int(seed) for seed in given.seeds.split(",")]
    rows = [_one(given, backbone, seed) for seed in seeds]
    figures = ("macro_f1", "waf", "accuracy")
    return {
        "labels": list(LABELS),
        "seeds": seeds,
        "backbone": {
            "steps": _steps(given.runs / "emovclip-clip"),
            "config": clip.to_json_dict(),
            "zero_shot_on_stills": _last_validation(given.runs / "emovclip-clip"),
        },
        "prompts": load_recipe("emovclip").to_json_dict(),
        "clips_per_class": given.clips_per_class,
        "by_seed": rows,
        "mean_and_spread": {
            system: {figure: _spread([row[system][figure] for row in rows]) for figure in figures}
            for system in ("zero_shot", "probe", "prompts")
        },
        "prompts_over_probe": {
            figure: _spread([row["prompts"][figure] - row["probe"][figure] for row in rows]) for figure in figures
        },
    }


def _one(given: argparse.Namespace, backbone: Path, seed: int) -> dict[str, Any]:
    config = dataclasses.replace(load_recipe("emovclip"), seed=seed)
    # As many updates whatever there is to learn from: fewer clips are gone through more often.
    number, usual = given.clips_per_class, config.task.clips_per_class
    often = max(1, usual * len(LABELS) // config.batch_size) // max(1, number * len(LABELS) // config.batch_size)
    config = dataclasses.replace(
        config, epochs=config.epochs * often, validate_every_epochs=config.validate_every_epochs * often
    )
    changes = {"data": str(given.data), "backbone": str(backbone), "clips_seed": seed, "clips_per_class": number}
    folder = f"emovclip/{number}-clips/seed-{seed}"
    export = _train(config, given, folder=folder, changes=changes)
    task = EmoVclipTask(config, dataclasses.replace(config.task, **changes))
    held_out = ferplus.load(given.data, "valid")
    sizes = {"num_stills": task.options.num_stills, "num_frames": task.options.num_frames, "seed": seed}
    test = make_clips(held_out, np.arange(len(held_out)), per_class=None, **sizes)
    tuned = EmoVclipEncoder.load(export, backbone=task.backbone).model
    plain = PromptedClip(task.backbone, PromptSettings.none(text_words=WORDS)).requires_grad_(False)

    def scored(predicted: np.ndarray) -> dict[str, float]:
        return {
            name: round(v, 4) for name, v in scores(test.labels.numpy(), predicted, num_classes=len(LABELS)).items()
        }

    return {
        "seed": seed,
        "clips": {"train": len(task.train.labels), "valid": len(task.valid.labels), "test": len(test.labels)},
        "test_clips_by_label": dict(zip(LABELS, torch.bincount(test.labels, minlength=6).tolist(), strict=True)),
        "zero_shot": scored(task.predict(plain, test)),
        "probe": _probe(task, plain, test, scored),
        "prompts": {
            **scored(task.predict(tuned, test)),
            "validation": _best_validation(given.runs / folder),
            "trained_numbers": sum(parameter.numel() for parameter in tuned.parameters()),
        },
    }


def _probe(task: EmoVclipTask, plain: PromptedClip, test: LabelledVideos, scored: Any) -> dict[str, Any]:
    """Fit a logistic regression on the frozen features; which one is chosen on the validation clips."""
    best: dict[str, Any] = {"validation_waf": -1.0}
    truth, seed = task.valid.labels.numpy(), task.options.clips_seed
    assert task.clips_of_epoch is not None
    moving = [task.clips_of_epoch(motion=10_000 * (seed + 1) + number) for number in range(max(MOTIONS))]
    for kind in ("projected", "tower"):
        valid, held_out = (_features(task, plain, part, kind) for part in (task.valid, test))
        parts = [_features(task, plain, part, kind) for part in (task.train, *moving)]
        for motions in MOTIONS:
            train, labels = np.concatenate(parts[: motions + 1]), np.tile(task.train.labels.numpy(), motions + 1)
            for strength in STRENGTHS:
                model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
                model.fit(train, labels)
                found = scores(truth, model.predict(valid), num_classes=len(LABELS))
                if round(found["waf"], 4) > best["validation_waf"]:
                    best = {
                        **scored(model.predict(held_out)),
                        "validation_waf": round(found["waf"], 4),
                        "validation_macro_f1": round(found["macro_f1"], 4),
                        "features": kind,
                        "further_motions": motions,
                        "C": strength,
                    }
    return best


@torch.inference_mode()
def _features(task: EmoVclipTask, plain: PromptedClip, videos: LabelledVideos, kind: str) -> np.ndarray:
    """Return the clips' frozen features [N, D]: the prompts' own pooled vectors, or those before the projection."""
    if kind == "projected":
        return torch.cat(list(task.embed(plain, videos))).numpy()
    visual: Any = task.backbone.model.visual
    projection, visual.proj = visual.proj, None
    try:
        return torch.cat(list(task.embed(plain, videos))).numpy()
    finally:
        visual.proj = projection


def _train(config: TrainConfig, given: argparse.Namespace, *, folder: str, changes: dict[str, Any]) -> Path:
    """Train a recipe in its folder, or find there what it exported."""
    place: Path = given.runs / folder
    if not (place / "export").is_dir():
        config = dataclasses.replace(
            config,
            run_dir=str(place),
            task=dataclasses.replace(config.task, **changes),
            threads=given.threads,
            max_steps=given.max_steps,
        )
        if run(config, config.task.build(config), resume=True).interrupted:
            raise SystemExit(f"interrupted; the same command goes on with {place}")
    return place / "export"


def _lines(run_dir: Path, event: str) -> list[dict[str, Any]]:
    from train.run_dir import read_metrics

    return read_metrics(run_dir, events=(event,))


def _steps(run_dir: Path) -> int:
    return int(_lines(run_dir, "validate")[-1]["step"])


def _last_validation(run_dir: Path) -> dict[str, float]:
    line = _lines(run_dir, "validate")[-1]
    return {name: line[name] for name in ("accuracy", "macro_f1")}


def _best_validation(run_dir: Path) -> dict[str, float]:
    line = max(_lines(run_dir, "validate"), key=lambda one: one["waf"])
    return {name: line[name] for name in ("step", "macro_f1", "waf")}


def _spread(values: list[float]) -> dict[str, float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": round(float(np.mean(values)), 4), "deviation": round(spread, 4), "least": round(min(values), 4)}


if __name__ == "__main__":
    main()
